//! Inputs for a model, made from nothing but its signature.

use std::collections::BTreeMap;

use half::{bf16, f16};

use super::{Array, Elements, Input, InputRole, Signature, random::Random};
use crate::{
    error::{Error, Result},
    ir::{DataType, Dim, DimSize, Model},
};

/// How many tokens there are when nobody says.
pub const SEQUENCE: i64 = 16;

/// How many elements an input may have: 2 GiB of float32.
const LIMIT: usize = 1 << 29;

/// Inputs for `model`: every one that has no default, in order.
///
/// # Extents
///
/// An axis without fixed extent gets what the caller says, by its name (`past`) or by its place
/// (`x.2`: axis 2 of input `x`). Equal names get equal extents, and a name such as `past +
/// sequence` is computed from its parts. Where the caller says nothing:
///
/// | axis | extent |
/// |---|---|
/// | batch | 1 |
/// | tokens, and anything else with a name | [`SEQUENCE`] |
/// | past tokens | 0 |
/// | of the attention mask | past + tokens |
/// | samples of sound: the second axis of `float[batch, n]` | 16000, a second of speech |
/// | height and width of an image: the last two of four | 224; its channels 3 |
///
/// # Elements
///
/// | input | elements |
/// |---|---|
/// | attention mask, anything called a mask | 1 |
/// | positions | past, past + 1, ... |
/// | token types, `use_cache_branch`, truth values | 0 |
/// | integers that select rows of a table, tokens above all | any row |
/// | lengths | the longest axis of the other inputs |
/// | settings (a number or a short list of fixed length), other integers | 1 |
/// | everything else | close to standard normal: [`Random::normal`] |
///
/// The numbers depend on the seed and the name of the input alone.
///
/// # Errors
/// `dims` names an axis that the model does not have, or gives it an impossible extent; the
/// type of an input is not declared, or nothing can be made up for it.
pub fn random_inputs(
    model: &Model,
    seed: u64,
    dims: &BTreeMap<String, i64>,
) -> Result<Vec<(String, Array)>> {
    inputs_of(&Signature::of(model), seed, dims)
}

/// As [`random_inputs`], for a model with this signature.
///
/// # Errors
/// As [`random_inputs`].
pub fn inputs_of(
    signature: &Signature,
    seed: u64,
    dims: &BTreeMap<String, i64>,
) -> Result<Vec<(String, Array)>> {
    let required: Vec<&Input> = signature.inputs.iter().filter(|i| !i.has_default).collect();
    let known = free_axes(signature);
    if let Some(name) = dims.keys().find(|name| !known.contains(name)) {
        return Err(no_axis(name, &known));
    }
    if let Some((name, n)) = dims.iter().find(|(_, n)| **n < 0) {
        return Err(Error::input(format!(
            "axis `{name}` is {n}, expected at least 0"
        )));
    }
    let mut extents = Extents {
        given: dims,
        named: dims.clone(),
    };
    extents.learn(signature);
    let shapes: Vec<Vec<usize>> = required
        .iter()
        .map(|i| {
            extents
                .shape(i)
                .map_err(|e| e.at(format!("input `{}`", i.name)))
        })
        .collect::<Result<_>>()?;
    let past = past_len(&required, &shapes);
    let others = required
        .iter()
        .zip(&shapes)
        .filter(|(i, _)| i.role == InputRole::Other);
    let longest = others
        .flat_map(|(_, s)| s.iter().skip(1))
        .max()
        .copied()
        .unwrap_or(1);
    let inputs = required.iter().zip(shapes).map(|(input, shape)| {
        let numbers = Numbers {
            input,
            seed,
            past,
            longest,
        };
        let array = numbers.array(shape);
        Ok((
            input.name.clone(),
            array.map_err(|e| e.at(format!("input `{}`", input.name)))?,
        ))
    });
    inputs.collect()
}

/// The error for an axis that nobody has.
fn no_axis(name: &str, known: &[String]) -> Error {
    let expected = match known {
        [] => "every extent is fixed".to_owned(),
        names => format!("expected one of {}", names.join(", ")),
    };
    Error::input(format!("no input has an axis `{name}`: {expected}"))
}

/// The axes of inputs that have no fixed extent: names, and places such as `x.2`.
pub fn free_axes(signature: &Signature) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut places = Vec::new();
    for input in signature.inputs.iter().filter(|i| !i.has_default) {
        for (axis, dim) in input.dims.iter().flatten().enumerate() {
            match name_of(dim) {
                Some(name) if !names.iter().any(|n| n == name) => names.push(name.to_owned()),
                _ if fixed(dim).is_none() => places.push(format!("{}.{axis}", input.name)),
                _ => {}
            }
        }
    }
    names.extend(places);
    names
}

fn fixed(dim: &Dim) -> Option<i64> {
    match dim.size {
        DimSize::Known(n) if n >= 0 => Some(n),
        _ => None,
    }
}

/// The name of an axis; `?` is how some exporters write that it has none.
pub(crate) fn name_of(dim: &Dim) -> Option<&str> {
    match &dim.size {
        DimSize::Symbol(name) if !name.is_empty() && &**name != "?" => Some(name),
        _ => None,
    }
}

/// Number of past tokens among `inputs`.
fn past_len(inputs: &[&Input], shapes: &[Vec<usize>]) -> usize {
    let lens = inputs
        .iter()
        .zip(shapes)
        .filter_map(|(i, shape)| match i.role {
            InputRole::Past { axis } => Some(shape[axis]),
            _ => None,
        });
    lens.max().unwrap_or(0)
}

/// What is known of the extents of named axes.
struct Extents<'a> {
    given: &'a BTreeMap<String, i64>,
    named: BTreeMap<String, i64>,
}

impl Extents<'_> {
    /// Gives names their extents: first those that a role tells, then those that are left.
    fn learn(&mut self, signature: &Signature) {
        if let Some(batch) = &signature.batch().axis {
            self.named.entry(batch.clone()).or_insert(1);
        }
        for input in &signature.inputs {
            let InputRole::Past { axis } = input.role else {
                continue;
            };
            if let Some(name) = input.dims.as_ref().and_then(|d| name_of(&d[axis])) {
                self.named.entry(name.to_owned()).or_insert(0);
            }
        }
        let total = self.tokens(signature) + self.past(signature);
        let mask = signature.input(InputRole::AttentionMask);
        if let Some(name) = mask.and_then(|m| name_of(m.dims.as_deref()?.get(1)?))
            && self.sum(name).is_none()
        {
            self.named.insert(name.to_owned(), total);
        }
    }

    fn tokens(&mut self, signature: &Signature) -> i64 {
        let ids = signature.input(InputRole::InputIds);
        match ids.and_then(|i| i.dims.as_deref()?.get(1)) {
            Some(dim) => match (fixed(dim), name_of(dim)) {
                (Some(n), _) => n,
                (None, Some(name)) => *self.named.entry(name.to_owned()).or_insert(SEQUENCE),
                (None, None) => SEQUENCE,
            },
            None => SEQUENCE,
        }
    }

    fn past(&self, signature: &Signature) -> i64 {
        let mut parts = signature.inputs.iter().filter_map(|i| match i.role {
            InputRole::Past { axis } => i.dims.as_deref()?.get(axis),
            _ => None,
        });
        let dim = parts.next();
        dim.and_then(|d| fixed(d).or_else(|| self.sum(name_of(d)?)))
            .unwrap_or(0)
    }

    /// The extent of an axis called `name`: its own, or that of the sum that it is.
    fn sum(&self, name: &str) -> Option<i64> {
        let part = |part: &str| match self.named.get(part.trim()) {
            Some(n) => Some(*n),
            None => part.trim().parse().ok(),
        };
        let whole = self.named.get(name).copied();
        whole.or_else(|| {
            name.contains('+')
                .then(|| name.split('+').map(part).sum::<Option<i64>>())
                .flatten()
        })
    }

    fn shape(&mut self, input: &Input) -> Result<Vec<usize>> {
        let Some(dims) = &input.dims else {
            return Err(Error::unsupported(
                "its shape is not declared, expected extents",
            ));
        };
        let mut shape = Vec::new();
        let mut count = 1usize;
        for (axis, dim) in dims.iter().enumerate() {
            let extent = self.extent(input, axis, dim);
            let extent = usize::try_from(extent).unwrap_or(usize::MAX);
            shape.push(extent);
            count = count.saturating_mul(extent);
        }
        if count > LIMIT {
            return Err(Error::unsupported(format!(
                "extents {shape:?}, expected at most {LIMIT} elements"
            )));
        }
        Ok(shape)
    }

    fn extent(&mut self, input: &Input, axis: usize, dim: &Dim) -> i64 {
        let place = format!("{}.{axis}", input.name);
        if let Some(n) = fixed(dim) {
            return n;
        }
        let name = name_of(dim);
        let told = name.and_then(|n| self.sum(n));
        if let Some(n) = self.given.get(&place).copied().or(told) {
            return n;
        }
        let n = guess(input, axis, name);
        if let Some(name) = name {
            self.named.insert(name.to_owned(), n);
        }
        n
    }
}

/// The extent of an axis of which nothing is known but its name and place.
fn guess(input: &Input, axis: usize, name: Option<&str>) -> i64 {
    let says = |word: &str| name.is_some_and(|n| n.to_lowercase().contains(word));
    let rank = input.dims.as_ref().map_or(0, Vec::len);
    let float = input
        .dtype
        .is_none_or(|t| t.is_float() || t == DataType::Uint8);
    match (input.role, rank, axis) {
        (InputRole::Past { axis: a }, _, _) if a == axis => 0,
        _ if says("batch") => 1,
        _ if says("past") => 0,
        (InputRole::Other, 4, 1) if float => 3,
        (InputRole::Other, 4, 2 | 3) if float => 224,
        (InputRole::Other, 2, 1) if float => 16000,
        (_, _, 0) if rank > 1 => 1,
        _ => SEQUENCE,
    }
}

/// The elements of one input.
struct Numbers<'a> {
    input: &'a Input,
    seed: u64,
    past: usize,
    longest: usize,
}

impl Numbers<'_> {
    fn array(&self, shape: Vec<usize>) -> Result<Array> {
        let dtype = self.input.dtype.ok_or_else(|| {
            Error::unsupported("its type is not declared, expected a tensor of numbers")
        })?;
        let row = shape.last().copied().unwrap_or(1).max(1);
        let random = Random::new(self.seed, &self.input.name);
        let name = self.input.name.to_lowercase();
        let setting =
            shape.len() <= 1 && self.input.dims.iter().flatten().all(|d| fixed(d).is_some());
        let integer = |i: u64| -> i64 {
            match self.input.role {
                InputRole::AttentionMask => 1,
                InputRole::PositionIds => (self.past + i as usize % row) as i64,
                InputRole::TokenTypeIds | InputRole::UseCacheBranch => 0,
                _ if name.contains("mask") => 1,
                _ if dtype == DataType::Bool => 0,
                _ if name.contains("length") => self.longest as i64,
                _ => match self.input.rows {
                    Some(rows) => random.below(i, rows) as i64,
                    None => 1,
                },
            }
        };
        let mask = self.input.role == InputRole::AttentionMask || name.contains("mask");
        let real = |i: u64| match mask || setting {
            true => 1.0,
            false => random.normal(i),
        };
        let byte = |i: u64| (random.bits(i) >> 56) as u8;
        let indices = 0..shape.iter().product::<usize>() as u64;
        let images = dtype == DataType::Uint8 && shape.len() >= 3;
        let elements = match dtype {
            DataType::Float => Elements::Float(indices.map(real).collect()),
            DataType::Double => Elements::Double(indices.map(|i| real(i).into()).collect()),
            DataType::Float16 => {
                Elements::Float16(indices.map(|i| f16::from_f32(real(i))).collect())
            }
            DataType::Bfloat16 => {
                Elements::Bfloat16(indices.map(|i| bf16::from_f32(real(i))).collect())
            }
            DataType::Int64 => Elements::Int64(indices.map(integer).collect()),
            DataType::Int32 => Elements::Int32(indices.map(|i| integer(i) as i32).collect()),
            DataType::Int16 => Elements::Int16(indices.map(|i| integer(i) as i16).collect()),
            DataType::Int8 => Elements::Int8(indices.map(|i| integer(i) as i8).collect()),
            DataType::Uint64 => Elements::Uint64(indices.map(|i| integer(i) as u64).collect()),
            DataType::Uint32 => Elements::Uint32(indices.map(|i| integer(i) as u32).collect()),
            DataType::Uint16 => Elements::Uint16(indices.map(|i| integer(i) as u16).collect()),
            DataType::Uint8 if images => Elements::Uint8(indices.map(byte).collect()),
            DataType::Uint8 => Elements::Uint8(indices.map(|i| integer(i) as u8).collect()),
            DataType::Bool => Elements::Bool(indices.map(|i| integer(i) != 0).collect()),
            other => {
                return Err(Error::unsupported(format!(
                    "nothing can be made up for type {other}, expected numbers or truth values"
                )));
            }
        };
        Ok(Array::from_elements(shape, elements))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse;

    fn feed(inputs: &str, names: &str, dims: &[(&str, i64)]) -> Result<BTreeMap<String, Array>> {
        let text = format!(
            "<ir_version: 8, opset_import: [\"\": 17, \"test\": 1]>\n\
             g ({inputs}) => (float[b,s,9] logits, float[b,2,t,8] \"present.0.key\")
             <float[7,2] E = {{ramp(0)}}>
             {{ logits, \"present.0.key\" = test.Model ({names}) }}"
        );
        let dims = dims.iter().map(|(n, e)| ((*n).to_owned(), *e)).collect();
        let inputs = random_inputs(&parse(&text).unwrap(), 1, &dims)?;
        Ok(inputs.into_iter().collect())
    }

    const LM: (&str, &str) = (
        "int64[b,s] input_ids, int64[b,\"p + s\"] attention_mask, int64[b,s] position_ids, \
         float16[b,2,p,8] \"past_key_values.0.key\", bool[1] use_cache_branch",
        "input_ids, attention_mask, position_ids, \"past_key_values.0.key\", use_cache_branch",
    );

    #[test]
    fn a_language_model() {
        let inputs = feed(LM.0, LM.1, &[]).unwrap();
        assert_eq!(inputs["input_ids"].dims(), [1, 16]);
        assert_eq!(inputs["attention_mask"].dims(), [1, 16]);
        assert_eq!(inputs["past_key_values.0.key"].dims(), [1, 2, 0, 8]);
        assert_eq!(inputs["past_key_values.0.key"].dtype(), DataType::Float16);
        let inputs = feed(LM.0, LM.1, &[("p", 3), ("s", 2), ("b", 2)]).unwrap();
        assert_eq!(
            inputs["attention_mask"].as_slice(),
            Some([1i64; 10].as_slice())
        );
        assert_eq!(
            inputs["position_ids"].as_slice(),
            Some([3i64, 4, 3, 4].as_slice())
        );
        assert_eq!(
            inputs["use_cache_branch"].as_slice(),
            Some([false].as_slice())
        );
        let again = feed(LM.0, LM.1, &[("p", 3), ("s", 2), ("b", 2)]).unwrap();
        assert_eq!(inputs, again);
    }

    #[test]
    fn images_sound_lengths_and_settings() {
        let inputs = feed(
            "float[b,c,h,w] pixel_values, float[b,n] input_values, float[3] scales, \
             int64[b] lengths, int64 count, uint8[b,\"?\",\"?\",3] photo",
            "pixel_values, input_values, scales, lengths, count, photo",
            &[("photo.1", 5)],
        )
        .unwrap();
        assert_eq!(inputs["pixel_values"].dims(), [1, 3, 224, 224]);
        assert_eq!(inputs["input_values"].dims(), [1, 16000]);
        assert_eq!(inputs["scales"].as_slice(), Some([1f32; 3].as_slice()));
        assert_eq!(inputs["lengths"].as_slice(), Some([16000i64].as_slice()));
        assert_eq!(inputs["photo"].dims(), [1, 5, 224, 3]);
        let pixels = inputs["pixel_values"].as_slice::<f32>().unwrap();
        assert!(pixels.iter().any(|x| *x < -2.0) && pixels.iter().any(|x| *x > 2.0));
    }

    #[test]
    fn ids_stay_below_the_vocabulary() {
        let text = "<ir_version: 8, opset_import: [\"\": 17]>
             g (int64[b,s] input_ids) => (float[b,s,2] y)
             <float[7,2] E = {ramp(0)}> { y = Gather (E, input_ids) }";
        let dims = BTreeMap::from([("s".to_owned(), 500)]);
        let inputs = random_inputs(&parse(text).unwrap(), 1, &dims).unwrap();
        let ids = inputs[0].1.as_slice::<i64>().unwrap();
        assert!((0..7).all(|id| ids.contains(&id)) && ids.iter().all(|id| (0..7).contains(id)));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (inputs, dims, said) in [
            (
                "float[b,4] x",
                &[("q", 2)][..],
                "no input has an axis `q`: expected one of b",
            ),
            ("float[2,4] x", &[("q", 2)], "every extent is fixed"),
            ("float[b,4] x", &[("b", -1)], "axis `b` is -1"),
            ("float[b,4] x", &[("b", 1 << 40)], "expected at most"),
            (
                "string[b] x",
                &[],
                "input `x`: nothing can be made up for type string",
            ),
        ] {
            let error = feed(inputs, "x", dims).unwrap_err().chain();
            assert!(error.contains(said), "{error}");
        }
    }
}
