//! `quantize --budget`: as many bits for each weight as it needs, within a size.

use onnxq::{
    Error, Result,
    calibrate::{self, Candidate, Options, Unit},
    engine::{Array, Engine, LoadOptions, Signature},
    eval::{self, Items, Replacement, Tokens, Windows},
    ir::{DataType, Model},
    mix::{Allocation, Entry, Way, allocate},
    quant::{BlockSpec, Buffers, Matrix, ScaleType, Source, quantize_rows},
    weights::{Layout, MatrixView, source_tensor},
};

use super::Cx;

/// A limit of size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Budget {
    /// Bits for each element that is quantized, scales and zero points included.
    BitsPerWeight(f64),
    /// Bytes of the whole output.
    Bytes(u64),
}

pub(crate) fn parse_budget(text: &str) -> Result<Budget, String> {
    let number = |unit: &str| {
        let number = text.strip_suffix(unit)?.trim().parse::<f64>().ok()?;
        (number.is_finite() && number > 0.0).then_some(number)
    };
    let bytes = |x: f64| Budget::Bytes(x as u64);
    number("bpw")
        .map(Budget::BitsPerWeight)
        .or_else(|| number("GB").map(|x| bytes(x * 1e9)))
        .or_else(|| number("MB").map(|x| bytes(x * 1e6)))
        .ok_or_else(|| {
            "expected bits for each weight, such as 4.75bpw, or a size, such as 90MB".to_owned()
        })
}

/// A form that a weight may get.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) bits: u8,
    pub(crate) block: usize,
    pub(crate) asymmetric: bool,
}

const fn form(bits: u8, block: usize, asymmetric: bool) -> Form {
    Form {
        bits,
        block,
        asymmetric,
    }
}

/// The form that the most weights can have.
pub(crate) const EIGHT_BITS: Form = form(8, 64, false);

/// What divergences are measured with: it costs enough to be told from rounding errors.
const REFERENCE: usize = 1;

/// The forms that are tried. 8 bits are as good as float.
const FORMS: [Form; 6] = [
    form(4, 16, true),
    form(4, 32, true),
    form(4, 64, true),
    EIGHT_BITS,
    form(2, 16, true),
    form(2, 32, true),
];

/// Above so many bits a weight, forms of 2 bits are not worth the time to try them.
const NO_TWO_BITS_FROM: f64 = 4.5;

impl Budget {
    /// The forms that are worth trying.
    pub(crate) fn forms(self) -> &'static [Form] {
        match self {
            Budget::BitsPerWeight(bits) if bits >= NO_TWO_BITS_FROM => &FORMS[..4],
            _ => &FORMS,
        }
    }
}

/// What there is to choose from.
pub(crate) struct Choices<'a> {
    pub(crate) model: &'a Model,
    pub(crate) forms: &'a [Form],
    /// For each form, what it makes of which weight.
    pub(crate) candidates: Vec<Candidate>,
    /// Bytes of the output that are no weights.
    pub(crate) other_bytes: u64,
}

/// What is known of the units of a model.
pub(crate) struct Measured {
    units: Vec<Unit>,
    /// Divergence of the model when one unit is rounded by the reference form.
    divergences: Vec<f64>,
}

impl Choices<'_> {
    /// Measures what each form of each unit costs.
    pub(crate) fn measure(
        &self,
        engine: &dyn Engine,
        items: Items<'_>,
        options: Options<'_>,
        cx: &Cx,
    ) -> Result<Measured> {
        let bar = cx.steps();
        let mut tell = |done, total, what: &str| {
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(what.to_owned());
        };
        let load = options.load;
        let tokens = match items {
            Items::Texts { tokens, window, .. } => Some((tokens, window)),
            Items::Tensors { .. } => None,
        };
        let units = calibrate::survey(
            engine,
            self.model,
            items,
            &self.candidates,
            options,
            &mut tell,
        )?;
        let divergences = match tokens {
            Some((tokens, window)) if Signature::of(self.model).is_causal_lm() => {
                bar.set_length(units.len() as u64);
                let mut tell = |unit: usize| {
                    bar.set_position(unit as u64);
                    bar.set_message(units[unit].name.clone());
                };
                self.divergences(engine, (tokens, window), &units, load, &mut tell)?
            }
            // Of other models nothing but the products is known: each unit counts alike.
            _ => vec![1.0; units.len()],
        };
        bar.finish_and_clear();
        Ok(Measured { units, divergences })
    }

    fn divergences(
        &self,
        engine: &dyn Engine,
        (tokens, window): (&Tokens, usize),
        units: &[Unit],
        load: LoadOptions,
        tell: &mut dyn FnMut(usize),
    ) -> Result<Vec<f64>> {
        let windows = Windows {
            window,
            stride: window,
            limit: Some(2),
        };
        let mut replacement = |unit: usize| {
            tell(unit);
            let weights = units[unit].weights.iter();
            let new = weights.map(|(_, matrix)| self.rounded(matrix));
            new.collect::<Result<Replacement>>()
        };
        eval::sensitivities(
            engine,
            self.model,
            (tokens, windows),
            load,
            units.len(),
            &mut replacement,
        )
    }

    /// A weight after plain rounding by the reference form, as it is stored.
    fn rounded(&self, matrix: &MatrixView) -> Result<(onnxq::ir::ValueId, Array)> {
        let Form { bits, block, .. } = FORMS[REFERENCE];
        let spec = BlockSpec::new(bits, block, false, ScaleType::F32);
        let spec = spec.expect("it is one that there is");
        let (n, k) = (matrix.n as usize, matrix.k as usize);
        let mut elements = matrix.elements()?;
        let mut buffers = Buffers::new(&spec, n, k);
        quantize_rows(
            &spec,
            Matrix::new(Source::F32(&elements), n, k),
            buffers.out(),
        )
        .map_err(|e| Error::input(e.to_string()))?;
        elements = buffers.decode(&spec, n, k);
        if matrix.layout == Layout::Columns {
            elements = (0..n * k).map(|i| elements[i % n * k + i / n]).collect();
        }
        let root = matrix.weight.root;
        let name = &self.model.values[root].name;
        let tensor = source_tensor(self.model, root);
        let tensor = tensor.ok_or_else(|| Error::input(format!("`{name}` is no constant")))?;
        let dims = tensor.dims.iter().map(|&d| d as usize).collect();
        let array = Array::new(dims, elements);
        let array = match tensor.dtype {
            DataType::Float => Some(array),
            other => array.to_type(other),
        };
        let array = array.ok_or_else(|| {
            Error::unsupported(format!("`{name}` of {}; expected float", tensor.dtype))
        })?;
        Ok((root, array))
    }

    /// The form of each weight within `budget`, and what it will cost.
    pub(crate) fn within(&self, measured: &Measured, budget: Budget) -> Result<Mix> {
        let mut options: Vec<Vec<(usize, Way)>> = Vec::new();
        let mut elements = 0;
        for (unit, divergence) in measured.units.iter().zip(&measured.divergences) {
            elements += unit.weights.iter().map(|(k, _)| k.n * k.k).sum::<u64>();
            options.push(self.ways(unit, *divergence));
        }
        let bits = match budget {
            Budget::BitsPerWeight(bits) => (bits * elements as f64) as u64,
            Budget::Bytes(bytes) => bytes.saturating_sub(self.other_bytes) * 8,
        };
        let ways: Vec<Vec<Way>> = options
            .iter()
            .map(|o| o.iter().map(|(_, way)| *way).collect())
            .collect();
        let allocation = allocate(&ways, bits).map_err(|e| {
            let least = ways
                .iter()
                .map(|w| w.iter().map(|w| w.bits).min().unwrap_or(0));
            let least: u64 = least.sum();
            let reachable = match budget {
                Budget::BitsPerWeight(_) => format!("{:.2}bpw", least as f64 / elements as f64),
                Budget::Bytes(_) => {
                    format!("{:.2}MB", (least / 8 + self.other_bytes) as f64 / 1e6)
                }
            };
            e.at(format!(
                "--budget: the least that can be reached is {reachable}"
            ))
        })?;
        let Allocation { chosen, bits, cost } = allocation;
        let mut entries = Vec::new();
        for ((unit, options), chosen) in measured.units.iter().zip(&options).zip(chosen) {
            let form = self.forms[options[chosen].0];
            let entry = |(key, _): &(_, _)| Entry::new(key, form.bits, form.block, form.asymmetric);
            entries.extend(unit.weights.iter().map(entry));
        }
        Ok(Mix {
            entries,
            bits: bits as f64 / elements as f64,
            cost,
        })
    }

    /// The forms that a unit can have, with what they cost.
    fn ways(&self, unit: &Unit, divergence: f64) -> Vec<(usize, Way)> {
        let plain = unit.errors[REFERENCE].map_or(0.0, |e| e[0]);
        let way = |(i, candidate): (usize, &Candidate)| {
            let error = unit.errors[i]?[1];
            let bits = unit.weights.iter().map(|(key, _)| {
                let (_, spec) = candidate.iter().find(|(k, _)| k == key)?;
                let (n, k) = (key.n as usize, key.k as usize);
                let bytes =
                    spec.codes_len(n, k) + spec.scales_len(n, k) + spec.zero_points_len(n, k);
                Some(bytes as u64 * 8)
            });
            let bits = bits.sum::<Option<u64>>()?;
            let cost = match plain > 0.0 {
                true => divergence * error / plain,
                false => 0.0,
            };
            Some((i, Way { bits, cost }))
        };
        self.candidates.iter().enumerate().filter_map(way).collect()
    }
}

/// What was decided.
pub(crate) struct Mix {
    pub(crate) entries: Vec<Entry>,
    /// Bits for each element.
    pub(crate) bits: f64,
    /// The sum of the divergences.
    pub(crate) cost: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets() {
        assert_eq!(parse_budget("4.75bpw"), Ok(Budget::BitsPerWeight(4.75)));
        assert_eq!(parse_budget("90MB"), Ok(Budget::Bytes(90_000_000)));
        assert_eq!(parse_budget("1.5 GB"), Ok(Budget::Bytes(1_500_000_000)));
        for wrong in ["4.75", "MB", "-1bpw", "0MB", "NaNbpw", "90KB"] {
            assert!(parse_budget(wrong).is_err(), "{wrong}");
        }
    }
}
