//! What the inputs and outputs of a model mean, by their names and shapes.
//!
//! The names are those that the exporters of transformers agree on. A role is given only when
//! type and shape fit it too, so a model that merely uses the name for something else keeps
//! [`InputRole::Other`].

use crate::{
    inspect::{Batch, batch_of},
    ir::{DataType, Dim, DimSize, Model, TensorType, Type, Use, Uses, ValueId},
    weights::{int_elements, source_tensor},
};

/// The inputs and outputs of a model, and what each is for.
#[derive(Clone, Debug)]
pub struct Signature {
    /// Inputs, in the order of the graph; those with a default included.
    pub inputs: Vec<Input>,
    /// Outputs, in the order of the graph.
    pub outputs: Vec<Output>,
    batch: Batch,
}

/// An input.
#[derive(Clone, Debug)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: InputRole,
    /// Element type of a tensor.
    pub dtype: Option<DataType>,
    /// Axes of a tensor; `None` when not even the rank is declared.
    pub dims: Option<Vec<Dim>>,
    /// An initializer stands in when callers give nothing.
    pub has_default: bool,
    /// How many values an element can have, from 0 on: the rows of the table that it selects
    /// from. `None` when it is no index, or of a table that is not found.
    pub rows: Option<u64>,
}

/// An output.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// What it is.
    pub role: OutputRole,
    /// Element type of a tensor.
    pub dtype: Option<DataType>,
    /// Axes of a tensor; `None` when not even the rank is declared.
    pub dims: Option<Vec<Dim>>,
}

/// What an input is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputRole {
    /// Tokens, `[batch, sequence]`.
    InputIds,
    /// 1 for every token that counts, `[batch, past + sequence]`.
    AttentionMask,
    /// The place of every token, `[batch, sequence]`.
    PositionIds,
    /// Which of two texts a token belongs to, `[batch, sequence]`.
    TokenTypeIds,
    /// Whether a merged decoder reads its cache: one truth value.
    UseCacheBranch,
    /// A part of the cache: keys or values of one layer, to which an output adds.
    Past {
        /// The axis along which it grows with every token.
        axis: usize,
    },
    /// Anything else.
    Other,
}

/// What an output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputRole {
    /// Scores of every class: `[batch, sequence, vocabulary]`, or `[batch, classes]`.
    Logits,
    /// What [`InputRole::Past`] is in the next step.
    Present {
        /// Index of that input.
        past: usize,
    },
    /// A vector for every token, `[batch, sequence, features]`.
    LastHiddenState,
    /// Anything else.
    Other,
}

impl Signature {
    /// The signature of `model`.
    pub fn of(model: &Model) -> Signature {
        let main = &model.graphs[model.main];
        let batch = batch_of(model);
        let uses = Uses::of(model);
        let mut inputs: Vec<Input> = main
            .inputs
            .iter()
            .map(|&v| input(model, &uses, v))
            .collect();
        let outputs = main.outputs.iter().map(|output| {
            let (dtype, dims) = declared(output.info.ty.as_ref());
            Output {
                name: model.values[output.value].name.to_string(),
                role: OutputRole::Other,
                dtype,
                dims,
            }
        });
        let mut outputs: Vec<Output> = outputs.collect();
        for (index, input) in inputs.iter_mut().enumerate() {
            let present = outputs.iter_mut().find(|o| continues(&input.name, &o.name));
            let axis = sequence_axis(input, batch.axis.as_deref());
            if let (Some(present), Some(axis)) = (present, axis) {
                present.role = OutputRole::Present { past: index };
                input.role = InputRole::Past { axis };
            }
        }
        let vocabulary = find(&inputs, InputRole::InputIds).map(|ids| ids.rows);
        name_results(&mut outputs, vocabulary.flatten());
        Signature {
            inputs,
            outputs,
            batch,
        }
    }

    /// The first input with `role`; of [`InputRole::Past`] the axis must agree, too.
    pub fn input(&self, role: InputRole) -> Option<&Input> {
        find(&self.inputs, role)
    }

    /// The first output with `role`.
    pub fn output(&self, role: OutputRole) -> Option<&Output> {
        self.outputs.iter().find(|o| o.role == role)
    }

    /// The parts of the cache: index of the input, index of the output that continues it, and
    /// the axis along which it grows.
    pub fn cache(&self) -> Vec<(usize, usize, usize)> {
        let parts = self.outputs.iter().enumerate().filter_map(|(i, output)| {
            let OutputRole::Present { past } = output.role else {
                return None;
            };
            let InputRole::Past { axis } = self.inputs[past].role else {
                return None;
            };
            Some((past, i, axis))
        });
        parts.collect()
    }

    /// Number of different tokens: the rows of the embedding table, else what the logits say.
    pub fn vocabulary(&self) -> Option<u64> {
        let rows = self.input(InputRole::InputIds).and_then(|ids| ids.rows);
        let scores = || match self.output(OutputRole::Logits)?.dims.as_deref()? {
            [
                _,
                _,
                Dim {
                    size: DimSize::Known(n),
                    ..
                },
            ] => u64::try_from(*n).ok(),
            _ => None,
        };
        rows.or_else(scores).filter(|n| *n > 0)
    }

    /// Whether it predicts the next token from those before: it maps tokens to logits for each
    /// of them, over the vocabulary, and either has a cache or nothing that a model of another
    /// kind has (token types; features that an encoder gives; a second list of tokens).
    ///
    /// A masked language model without token types has the same signature as a causal one
    /// without cache, and counts as one.
    pub fn is_causal_lm(&self) -> bool {
        let with = |role| self.inputs.iter().filter(move |i| i.role == role).count();
        let logits = self.output(OutputRole::Logits);
        let Some(logits) = logits.filter(|_| with(InputRole::InputIds) == 1) else {
            return false;
        };
        let per_token = logits.dims.as_ref().is_none_or(|d| d.len() == 3);
        let states = self.inputs.iter().any(|i| {
            let rank = i.dims.as_ref().map_or(0, Vec::len);
            let float = i.dtype.is_some_and(DataType::is_float);
            i.role == InputRole::Other && !i.has_default && float && rank >= 3
        });
        let scores = match logits.dims.as_deref().and_then(<[Dim]>::last) {
            Some(Dim {
                size: DimSize::Known(n),
                ..
            }) => Some(*n as u64),
            _ => None,
        };
        let rows = self.input(InputRole::InputIds).and_then(|ids| ids.rows);
        // A classifier of tokens has far fewer classes; tables are padded by less than half.
        let over_tokens = rows.zip(scores).is_none_or(|(rows, n)| n > rows / 2);
        let cached = !self.cache().is_empty();
        per_token && !states && over_tokens && (cached || with(InputRole::TokenTypeIds) == 0)
    }

    /// Whether several items can be run at once, as `onnxq inspect` says it.
    pub fn batch(&self) -> &Batch {
        &self.batch
    }
}

fn find(inputs: &[Input], role: InputRole) -> Option<&Input> {
    inputs.iter().find(|i| i.role == role)
}

fn declared(ty: Option<&Type>) -> (Option<DataType>, Option<Vec<Dim>>) {
    match ty.and_then(Type::as_tensor) {
        Some(TensorType { elem, shape }) => (*elem, shape.clone()),
        None => (None, None),
    }
}

fn input(model: &Model, uses: &Uses, value: ValueId) -> Input {
    let v = &model.values[value];
    let (dtype, dims) = declared(v.info.as_ref().and_then(|i| i.ty.as_ref()));
    let has_default = v.constant.is_some();
    let index = matches!(dtype, Some(DataType::Int64 | DataType::Int32)) && !has_default;
    let mut input = Input {
        name: v.name.to_string(),
        role: InputRole::Other,
        dtype,
        dims,
        has_default,
        rows: index.then(|| rows(model, uses, value)).flatten(),
    };
    if !has_default {
        input.role = named_role(&input);
    }
    input
}

/// The role that name, type and shape give.
fn named_role(input: &Input) -> InputRole {
    let rank = input.dims.as_ref().map(Vec::len);
    let is_rank = |n| rank.is_none_or(|r| r == n);
    let integer = matches!(input.dtype, Some(DataType::Int64 | DataType::Int32));
    let truth = matches!(input.dtype, Some(DataType::Bool));
    let mask = integer || truth || input.dtype.is_some_and(DataType::is_float);
    // TensorFlow's converter appends the number of the output.
    match input.name.strip_suffix(":0").unwrap_or(&input.name) {
        "input_ids" | "decoder_input_ids" if integer && is_rank(2) => InputRole::InputIds,
        "attention_mask" | "decoder_attention_mask" | "input_mask" if mask && is_rank(2) => {
            InputRole::AttentionMask
        }
        "position_ids" if integer && is_rank(2) => InputRole::PositionIds,
        "token_type_ids" | "segment_ids" if integer && is_rank(2) => InputRole::TokenTypeIds,
        "use_cache_branch" if truth && rank.is_none_or(|r| r <= 1) => InputRole::UseCacheBranch,
        _ => InputRole::Other,
    }
}

/// Whether the output `present` is the input `past` after another step: the same name with
/// `present` for `past` or `past_key_values`.
fn continues(past: &str, present: &str) -> bool {
    let Some(rest) = present.strip_prefix("present") else {
        return false;
    };
    let rest = rest.strip_prefix("_key_values").unwrap_or(rest);
    ["past_key_values", "past"]
        .iter()
        .any(|prefix| past.strip_prefix(prefix) == Some(rest))
}

/// The axis along which a part of the cache grows: the one without fixed extent that is not
/// the batch. Among several, the one that says so, else the last but one, as in
/// `[batch, heads, sequence, features]`.
fn sequence_axis(input: &Input, batch: Option<&str>) -> Option<usize> {
    let dims = input.dims.as_deref()?;
    if input.role != InputRole::Other || !input.dtype.is_some_and(DataType::is_float) {
        return None;
    }
    let name = |axis: usize| match &dims[axis].size {
        DimSize::Symbol(name) => Some(&**name),
        _ => None,
    };
    let free = |axis: &usize| match &dims[*axis].size {
        DimSize::Known(n) => *n < 0,
        _ => name(*axis).is_none_or(|n| Some(n) != batch),
    };
    let mut axes: Vec<usize> = (0..dims.len()).filter(free).collect();
    if axes.len() > 1 && axes[0] == 0 {
        axes.remove(0);
    }
    let says_so = |axis: &&usize| {
        name(**axis).is_some_and(|n| ["past", "seq", "len"].iter().any(|word| n.contains(word)))
    };
    let usual = |axis: &&usize| **axis + 2 == dims.len();
    axes.iter()
        .find(says_so)
        .or_else(|| axes.iter().find(usual))
        .or(axes.first())
        .copied()
}

/// Gives outputs their roles, except those of the cache.
fn name_results(outputs: &mut [Output], vocabulary: Option<u64>) {
    let float = |o: &Output| o.role == OutputRole::Other && o.dtype.is_none_or(DataType::is_float);
    let rank = |o: &Output| o.dims.as_ref().map(Vec::len);
    let is_logits = |o: &&mut Output| {
        float(o) && o.name == "logits" && rank(o).is_none_or(|r| r == 2 || r == 3)
    };
    // Exporters that number their outputs leave the extent: a score for every token.
    let over_tokens = |o: &&mut Output| {
        let last = o.dims.as_deref().and_then(<[Dim]>::last).map(|d| &d.size);
        let known = match last {
            Some(DimSize::Known(n)) => u64::try_from(*n).ok(),
            _ => None,
        };
        float(o) && rank(o) == Some(3) && known.is_some() && known == vocabulary
    };
    let named = outputs
        .iter_mut()
        .find(is_logits)
        .map(|o| o.role = OutputRole::Logits);
    if named.is_none()
        && let Some(logits) = outputs.iter_mut().find(over_tokens)
    {
        logits.role = OutputRole::Logits;
    }
    let is_hidden = |o: &&mut Output| {
        float(o) && o.name == "last_hidden_state" && rank(o).is_none_or(|r| r == 3)
    };
    if let Some(hidden) = outputs.iter_mut().find(is_hidden) {
        hidden.role = OutputRole::LastHiddenState;
    }
}

/// How many rows the tables have that `value` selects from: the fewest of them.
fn rows(model: &Model, uses: &Uses, value: ValueId) -> Option<u64> {
    let mut fewest = None;
    let mut pending = vec![value];
    let mut seen = pending.clone();
    while let Some(value) = pending.pop() {
        for used in uses.of_value(value) {
            let Use::Operand(node, slot) = *used else {
                continue;
            };
            let n = &model.nodes[node];
            let table = match (&*n.op_type, slot) {
                ("Gather", 1) if n.int("axis", 0) == Some(0) => n.input(0),
                ("GatherBlockQuantized", 1) if n.int("gather_axis", 0) == Some(0) => n.input(0),
                ("EmbedLayerNormalization", 0) => n.input(2),
                ("Cast" | "Identity" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze", 0) => {
                    let next = n.output(0).filter(|v| !seen.contains(v));
                    pending.extend(next);
                    seen.extend(next);
                    None
                }
                _ => None,
            };
            if let Some(n) = table.and_then(|t| leading_extent(model, t)) {
                fewest = Some(fewest.map_or(n, |m: u64| m.min(n)));
            }
        }
    }
    fewest
}

/// Extent of the leading axis of a constant, through what leaves it as it is.
fn leading_extent(model: &Model, mut value: ValueId) -> Option<u64> {
    let known = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0);
    loop {
        if let Some(tensor) = source_tensor(model, value) {
            return known(*tensor.dims.first()?);
        }
        let node = &model.nodes[model.producer(value)?];
        match &*node.op_type {
            "Cast" | "Identity" | "DequantizeLinear" => value = node.input(0)?,
            "Reshape" => return known(*int_elements(model, node.input(1)?).ok()??.first()?),
            _ => match model
                .type_of(value)?
                .as_tensor()?
                .shape
                .as_deref()?
                .first()?
                .size
            {
                DimSize::Known(n) => return known(n),
                _ => return None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse;

    fn signature(text: &str) -> Signature {
        Signature::of(&parse(text).unwrap())
    }

    /// A graph with these inputs and outputs, and nodes that need not make sense.
    fn declared_as(inputs: &str, outputs: &str) -> Signature {
        let names = |list: &str| -> Vec<String> {
            let mut depth = 0;
            let parts = list.split(|c| {
                depth += i32::from(c == '[') - i32::from(c == ']');
                c == ',' && depth == 0
            });
            let name = |p: &str| p.trim().rsplit(' ').next().unwrap_or_default().to_owned();
            parts.map(name).collect()
        };
        let (from, to) = (names(inputs), names(outputs));
        signature(&format!(
            "<ir_version: 8, opset_import: [\"\": 17, \"test\": 1]>\n\
             g ({inputs}) => ({outputs}) {{ {} = test.Model ({}) }}",
            to.join(", "),
            from.join(", ")
        ))
    }

    fn roles(s: &Signature) -> (Vec<InputRole>, Vec<OutputRole>) {
        let inputs = s.inputs.iter().map(|i| i.role).collect();
        (inputs, s.outputs.iter().map(|o| o.role).collect())
    }

    use InputRole as I;
    use OutputRole as O;

    #[test]
    fn a_decoder_with_a_cache() {
        let s = declared_as(
            "int64[b,s] input_ids, float[b,2,past,8] \"past_key_values.0.key\", \
             float[b,2,past,8] \"past_key_values.0.value\", int64[b,t] attention_mask, \
             int64[b,s] position_ids",
            "float[b,s,9] logits, float[b,2,t,8] \"present.0.value\", float[b,2,t,8] \
             \"present.0.key\"",
        );
        let past = I::Past { axis: 2 };
        assert_eq!(
            roles(&s),
            (
                vec![I::InputIds, past, past, I::AttentionMask, I::PositionIds],
                vec![O::Logits, O::Present { past: 2 }, O::Present { past: 1 }]
            )
        );
        assert!(s.is_causal_lm());
        assert_eq!(s.cache(), [(2, 1, 2), (1, 2, 2)]);
        assert_eq!(s.vocabulary(), Some(9));
        assert!(s.batch().allowed);
    }

    #[test]
    fn other_layouts_of_a_cache() {
        for (past, present, axis) in [
            (
                "float[2,b,4,past,8] past_0",
                "float[2,b,4,t,8] present_0",
                3,
            ),
            (
                "float[b,p,4,8] past_key_0",
                "float[b,t,4,8] present_key_0",
                1,
            ),
            (
                "float16[1,4,n,8] \"past_key_values.0.decoder.key\"",
                "float16[1,4,m,8] \"present.0.decoder.key\"",
                2,
            ),
            (
                "float[b,heads,past_length,8] \"past_key_values.0.key\"",
                "float[b,heads,t,8] \"present_key_values.0.key\"",
                2,
            ),
        ] {
            let s = declared_as(
                &format!("int64[b,s] input_ids, {past}"),
                &format!("float[b,s,9] logits, {present}"),
            );
            assert_eq!(s.inputs[1].role, I::Past { axis }, "{past}");
            assert_eq!(s.outputs[1].role, O::Present { past: 1 }, "{past}");
            assert!(s.is_causal_lm(), "{past}");
        }
    }

    #[test]
    fn what_is_no_cache_stays_other() {
        // Without an output that continues it; of fixed extents; of undeclared shape.
        let s = declared_as(
            "int64[b,s] input_ids, float[b,4,p,8] past_0, float[1,4,16,8] past_1, float past_2",
            "float[b,s,9] logits, float[1,4,16,8] present_1, float[1,4,16,8] present_2",
        );
        assert_eq!(roles(&s).0[1..], [I::Other; 3]);
        assert_eq!(roles(&s).1[1..], [O::Other; 2]);
        assert!(!s.is_causal_lm(), "it needs states that nobody can give");
    }

    #[test]
    fn merged_and_legacy_inputs() {
        let s = declared_as(
            "int64[b,s] \"input_ids:0\", int32[b,s] \"input_mask:0\", int64[b,s] segment_ids, \
             bool[1] use_cache_branch, float[b,1,s,s] attention_mask, float[b,s] position_ids",
            "float[b,s,8] last_hidden_state, float[b,s,9,9] logits",
        );
        let expected = [
            I::InputIds,
            I::AttentionMask,
            I::TokenTypeIds,
            I::UseCacheBranch,
            I::Other,
            I::Other,
        ];
        assert_eq!(roles(&s).0, expected);
        assert_eq!(roles(&s).1, [O::LastHiddenState, O::Other]);
        assert!(!s.is_causal_lm());
    }

    #[test]
    fn kinds_that_are_no_causal_lm() {
        for (inputs, outputs) in [
            ("int64[b,s] input_ids", "float[b,2] logits"),
            (
                "int64[b,s] input_ids, int64[b,s] token_type_ids",
                "float[b,s,9] logits",
            ),
            (
                "int64[b,s] input_ids, float[b,e,8] encoder_hidden_states",
                "float[b,s,9] logits",
            ),
            (
                "int64[b,s] input_ids, int64[b,t] decoder_input_ids",
                "float[b,s,9] logits",
            ),
            ("float[b,3,224,224] pixel_values", "float[b,1000] logits"),
        ] {
            assert!(!declared_as(inputs, outputs).is_causal_lm(), "{inputs}");
        }
    }

    #[test]
    fn the_vocabulary_is_the_table_behind_the_ids() {
        let s = signature(
            "<ir_version: 8, opset_import: [\"\": 17]>
             g (int32[b,s] input_ids, int64[b,s] other) => (float[b,s,7] y, float[b,s,2] z)
             <float[7,2] E = {ramp(0)}, float[5,2] P = {ramp(0)}, float[2,7] W = {ramp(0)}>
             {
                i = Cast <to = 7> (input_ids)
                table = Identity (E)
                e = Gather (table, i)
                z = Gather (P, other)
                y = MatMul (e, W)
             }",
        );
        assert_eq!(s.vocabulary(), Some(7));
        assert_eq!(s.inputs[1].rows, Some(5));
        assert_eq!(roles(&s).1, [O::Logits, O::Other]);
        assert!(s.is_causal_lm(), "the output is known by its extent");
    }

    #[test]
    fn a_classifier_of_tokens_is_no_causal_lm() {
        let s = signature(
            "<ir_version: 8, opset_import: [\"\": 17]>
             g (int64[b,s] input_ids) => (float[b,s,2] logits)
             <float[7,2] E = {ramp(0)}> { logits = Gather (E, input_ids) }",
        );
        assert_eq!(roles(&s).1, [O::Logits]);
        assert!(!s.is_causal_lm());
    }
}
