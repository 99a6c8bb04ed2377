//! As many bits for each weight as it needs, within a size.

use std::str::FromStr;

use super::{Allocation, Entry, Form, Limit, Way, allocate, log::Log};
use crate::{
    calibrate::{Options, Planned, Unit, UnitWeight, is_held_out, survey},
    engine::{Array, Engine, Signature},
    error::{Error, Result},
    eval::{Items, Replacement, SensitivityOptions, Tokens, Windows, sensitivities},
    ir::{DataType, Model, ValueId},
    quant::Method,
    weights::source_tensor,
};

/// A limit of size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// Bits for each element that is quantized, scales and zero points included.
    BitsPerWeight(f64),
    /// Bytes of the whole output.
    Bytes(u64),
    /// As few bits as keep the expected mean divergence, in nats, at this.
    Divergence(f64),
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Budget, String> {
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
}

const fn form(bits: u8, block: usize, asymmetric: bool) -> Form {
    Form {
        bits,
        block,
        asymmetric,
    }
}

/// Windows that divergences are measured on.
const WINDOWS: usize = 2;

/// The forms that are tried: divergences are measured with the first that a weight can have. 8 bits are
/// as good as float.
const FORMS: [Form; 6] = [
    form(4, 16, true),
    form(4, 32, true),
    form(4, 64, true),
    form(8, 64, false),
    form(2, 16, true),
    form(2, 32, true),
];

/// Above so many bits a weight, forms of 2 bits are not worth the time to try them.
const NO_TWO_BITS_FROM: f64 = 4.5;

impl Budget {
    /// The forms that are worth trying.
    #[must_use]
    pub fn forms(self) -> &'static [Form] {
        match self {
            Budget::BitsPerWeight(bits) if bits >= NO_TWO_BITS_FROM => &FORMS[..4],
            _ => &FORMS,
        }
    }
}

/// What there is to choose from.
pub struct Choices<'a> {
    /// The model, before anything is quantized.
    pub model: &'a Model,
    /// The forms that a weight may get: [`Budget::forms`].
    pub forms: &'a [Form],
    /// For each form, what it makes of which weight.
    pub candidates: Vec<Planned>,
    /// How codes are chosen.
    pub method: Method,
    /// Bytes of the output that are no weights.
    pub other_bytes: u64,
}

/// What is known of the units of a model.
pub struct Measured {
    units: Vec<Unit>,
    /// Divergence of the model when one unit has the codes of its reference.
    divergences: Vec<f64>,
}

impl Choices<'_> {
    /// Measures what each form of each unit costs: the errors of its products, and the divergence of the
    /// whole model with one of them, where that is a causal language model, both on items that the codes
    /// are not fitted to. Of other models the share of the errors in the products counts, alike for all units.
    /// `tell` is told how far it is: steps done, of how many, and at what.
    ///
    /// # Errors
    /// As [`survey`] and [`sensitivities`].
    pub fn measure(
        &self,
        engine: &dyn Engine,
        items: Items<'_>,
        options: Options<'_>,
        tell: &mut dyn FnMut(u64, u64, &str),
    ) -> Result<Measured> {
        let units = survey(
            engine,
            self.model,
            items,
            &self.candidates,
            self.method,
            options,
            tell,
        )?;
        let divergences = match items {
            Items::Texts { tokens, window, .. } if Signature::of(self.model).is_causal_lm() => {
                let windows = Windows {
                    window,
                    stride: window,
                    limit: None,
                };
                self.divergences(engine, &units, tokens, windows, options, tell)?
            }
            _ => units.iter().map(Unit::share).collect(),
        };
        Ok(Measured { units, divergences })
    }

    /// The divergence of the model when one of `units` has the codes of its reference, for each of them, on windows
    /// that these are not fitted to.
    fn divergences(
        &self,
        engine: &dyn Engine,
        units: &[Unit],
        tokens: &Tokens,
        windows: Windows,
        options: Options<'_>,
        tell: &mut dyn FnMut(u64, u64, &str),
    ) -> Result<Vec<f64>> {
        let all = 0..tokens.windows(windows)?.len();
        let mut chosen: Vec<usize> = all.clone().filter(|&i| is_held_out(i)).collect();
        if chosen.is_empty() {
            chosen.extend(all);
        }
        chosen.truncate(WINDOWS);
        let how = SensitivityOptions {
            tokens,
            windows,
            chosen: &chosen,
            load: options.load,
            cancel: options.cancel,
        };
        let mut log = Log::open(options.folder)?;
        log.numbers.truncate(units.len());
        let mut coded = |unit: usize| {
            tell(unit as u64, units.len() as u64, &units[unit].name);
            let weights = units[unit].weights.iter();
            let coded = weights.filter_map(|w| self.coded(w).transpose());
            coded.collect::<Result<Replacement>>()
        };
        let left = log.numbers.len()..units.len();
        sensitivities(engine, self.model, &how, left, &mut coded, &mut |x| {
            log.push(x)
        })?;
        Ok(log.numbers)
    }

    /// A weight with the codes of its reference, as it is stored.
    fn coded(&self, weight: &UnitWeight) -> Result<Option<(ValueId, Array)>> {
        let UnitWeight { matrix, codes, .. } = weight;
        let Some((spec, blocks)) = codes else {
            return Ok(None);
        };
        let (n, k) = (matrix.n as usize, matrix.k as usize);
        let elements = matrix.stored(blocks.decode(spec, n, k)?);
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
        Ok(Some((root, array)))
    }

    /// The form of each weight within `budget`, and what it will cost.
    ///
    /// # Errors
    /// The budget is below the least that can be reached: which is said.
    pub fn within(&self, measured: &Measured, budget: Budget) -> Result<Mix> {
        let mut options: Vec<Vec<(usize, Way)>> = Vec::new();
        let mut elements = 0;
        for (unit, divergence) in measured.units.iter().zip(&measured.divergences) {
            elements += unit.weights.iter().map(|w| w.key.n * w.key.k).sum::<u64>();
            options.push(self.ways(unit, *divergence));
        }
        let limit = match budget {
            Budget::BitsPerWeight(bits) => Limit::Bits((bits * elements as f64) as u64),
            Budget::Bytes(bytes) => Limit::Bits(bytes.saturating_sub(self.other_bytes) * 8),
            Budget::Divergence(most) => Limit::Cost(most),
        };
        let ways: Vec<Vec<Way>> = options
            .iter()
            .map(|o| o.iter().map(|(_, way)| *way).collect())
            .collect();
        let allocation = allocate(&ways, limit).map_err(|e| {
            let least = ways
                .iter()
                .map(|w| w.iter().map(|w| w.bits).min().unwrap_or(0));
            let least: u64 = least.sum();
            let reachable = match budget {
                Budget::BitsPerWeight(_) => format!("{:.2}bpw", least as f64 / elements as f64),
                Budget::Bytes(_) => {
                    format!("{:.2}MB", (least / 8 + self.other_bytes) as f64 / 1e6)
                }
                Budget::Divergence(_) => return e,
            };
            e.at(format!("the least that can be reached is {reachable}"))
        })?;
        let Allocation { chosen, bits, cost } = allocation;
        let mut entries = Vec::new();
        for ((unit, options), chosen) in measured.units.iter().zip(&options).zip(chosen) {
            let form = self.forms[options[chosen].0];
            let entry = |w: &UnitWeight| Entry::new(&w.key, form);
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
        let reference = unit.reference.and_then(|r| unit.errors[r]);
        let reference = reference.unwrap_or_default();
        let way = |(i, candidate): (usize, &Planned)| {
            let error = unit.errors[i]?;
            let bits = unit.weights.iter().map(|UnitWeight { key, .. }| {
                let spec = candidate.specs(key).first()?;
                let (n, k) = (key.n as usize, key.k as usize);
                let bytes =
                    spec.codes_len(n, k) + spec.scales_len(n, k) + spec.zero_points_len(n, k);
                Some(bytes as u64 * 8)
            });
            let bits = bits.sum::<Option<u64>>()?;
            let cost = match reference > 0.0 {
                true => divergence * error / reference,
                false => 0.0,
            };
            Some((i, Way { bits, cost }))
        };
        self.candidates.iter().enumerate().filter_map(way).collect()
    }
}

/// What was decided.
pub struct Mix {
    /// The form of each weight.
    pub entries: Vec<Entry>,
    /// Bits for each element.
    pub bits: f64,
    /// The sum of the divergences.
    pub cost: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets() {
        let parse = str::parse::<Budget>;
        assert_eq!(parse("4.75bpw"), Ok(Budget::BitsPerWeight(4.75)));
        assert_eq!(parse("90MB"), Ok(Budget::Bytes(90_000_000)));
        assert_eq!(parse("1.5 GB"), Ok(Budget::Bytes(1_500_000_000)));
        for wrong in ["4.75", "MB", "-1bpw", "0MB", "NaNbpw", "90KB"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
