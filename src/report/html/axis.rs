//! Where a number stands on an axis, and which numbers an axis names.

use crate::report::number::{power_of_ten, typeset};

/// About how many steps an axis has.
const STEPS: f64 = 4.0;

/// How many decades of a logarithmic axis are named at most.
const DECADES: i32 = 7;

/// An axis, from its low end (0 %) to its high end (100 %).
pub(super) struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
    /// What is named along it.
    pub(super) ticks: Vec<Tick>,
}

/// A named number of an axis.
pub(super) struct Tick {
    /// Its place in percent.
    pub(super) at: f64,
    pub(super) label: String,
}

impl Axis {
    /// An axis that holds the finite ones of `values`, with round numbers at its ends.
    pub(super) fn linear(values: impl IntoIterator<Item = f64>) -> Option<Axis> {
        let (low, high) = range(values)?;
        let (low, high) = match low < high {
            true => (low, high),
            false => (
                low - low.abs().max(1e-9) * 0.1,
                high + high.abs().max(1e-9) * 0.1,
            ),
        };
        let step = round_step((high - low) / STEPS);
        let first = (low / step).floor();
        let last = (high / step).ceil();
        let decimals = (-step.log10().floor()).clamp(0.0, 12.0) as usize;
        let mut axis = Axis {
            low: first * step,
            high: last * step,
            logarithmic: false,
            ticks: Vec::new(),
        };
        for i in 0..=(last - first) as usize {
            let value = (first + i as f64) * step;
            // No -0.
            let value = if value == 0.0 { 0.0 } else { value };
            axis.tick(value, typeset(&format!("{value:.decimals$}")));
        }
        Some(axis)
    }

    /// A logarithmic axis that holds the positive ones of `values`, with powers of ten at its
    /// ends.
    pub(super) fn logarithmic(values: impl IntoIterator<Item = f64>) -> Option<Axis> {
        let (low, high) = range(values.into_iter().filter(|v| *v > 0.0))?;
        // A hair inward: the logarithm of a power of ten need not be whole.
        let first = (low.log10() + 1e-9).floor() as i32;
        let last = ((high.log10() - 1e-9).ceil() as i32).max(first + 1);
        let mut axis = Axis {
            low: 10f64.powi(first),
            high: 10f64.powi(last),
            logarithmic: true,
            ticks: Vec::new(),
        };
        let step = (last - first + DECADES - 1) / DECADES;
        for power in (first..=last).step_by(step as usize) {
            let label = match power {
                -2..=3 => 10f64.powi(power).to_string(),
                _ => power_of_ten(power),
            };
            axis.tick(10f64.powi(power), label);
        }
        Some(axis)
    }

    fn tick(&mut self, value: f64, label: String) {
        let at = self.at(value);
        self.ticks.push(Tick { at, label });
    }

    /// Where `value` stands, in percent; what is outside stands at the end.
    pub(super) fn at(&self, value: f64) -> f64 {
        let share = match self.logarithmic {
            false => (value - self.low) / (self.high - self.low),
            true if value <= 0.0 => 0.0,
            true => (value / self.low).log10() / (self.high / self.low).log10(),
        };
        match share.is_nan() {
            true => 0.0,
            false => share.clamp(0.0, 1.0) * 100.0,
        }
    }
}

fn range(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    let finite = values.into_iter().filter(|v| v.is_finite());
    finite.fold(None, |range, v| {
        let (low, high) = range.unwrap_or((v, v));
        Some((low.min(v), high.max(v)))
    })
}

/// The smallest of 1, 2, 5 times a power of ten that is no less than `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let factor = step / power;
    // Not quite exact, so that 2.0000001 is still 2.
    let round = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|f| factor <= f * 1.000_001);
    round.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|t| t.label.as_str()).collect()
    }

    #[test]
    fn round_numbers_along_an_axis() {
        let axis = Axis::linear([13.6, 15.4, f64::NAN]).unwrap();
        assert_eq!(labels(&axis), ["13.5", "14.0", "14.5", "15.0", "15.5"]);
        assert_eq!((axis.at(13.5), axis.at(15.5)), (0.0, 100.0));
        assert!((axis.at(14.5) - 50.0).abs() < 1e-9);
        let axis = Axis::linear([0.0, 0.9]).unwrap();
        assert_eq!(labels(&axis), ["0.0", "0.5", "1.0"]);
        assert!(Axis::linear([f64::NAN]).is_none());
        assert!(Axis::linear([5.0]).unwrap().ticks.len() > 1);
        assert!(Axis::linear([0.0]).unwrap().ticks.len() > 1);
    }

    #[test]
    fn powers_of_ten_along_an_axis() {
        let axis = Axis::logarithmic([4e-4, 0.031, 0.0]).unwrap();
        assert_eq!(labels(&axis), ["10⁻⁴", "10⁻³", "0.01", "0.1"]);
        assert_eq!(axis.at(0.0), 0.0);
        let axis = Axis::logarithmic([1e-12, 10.0]).unwrap();
        assert!(axis.ticks.len() <= 8, "{:?}", labels(&axis));
        assert_eq!(labels(&Axis::logarithmic([0.01]).unwrap()), ["0.01", "0.1"]);
        assert!(Axis::logarithmic([0.0]).is_none());
    }
}
