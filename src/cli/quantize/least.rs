//! `--budget least`: the smallest mix whose measured divergence is within a limit.

use onnxq::{Result, eval::Evaluation, mix::Budget};

use super::{Decided, QuantizeArgs, budget::Mixing};
use crate::cli::{
    Cx, ExitStatus,
    job::{Demands, Done},
};

/// How often a mix is made.
const ATTEMPTS: usize = 3;

/// What is measured below this part of the limit leaves room for a smaller mix; above it there is little to gain.
const NEAR: f64 = 0.9;

/// The part of the limit that is aimed at, since what is measured is never quite what is expected.
const AIM: f64 = 0.97;

/// A mix that was made: the divergence that was expected of it, and the one measured.
#[derive(Clone, Copy)]
struct Tried {
    expected: f64,
    measured: f64,
}

/// The search for an expectation that is measured to be just within `limit`.
struct Search {
    limit: f64,
    /// The one nearest to the limit of those within it.
    held: Option<Tried>,
    /// And of those above it.
    missed: Option<Tried>,
}

impl Search {
    fn new(limit: f64) -> Search {
        Search {
            limit,
            held: None,
            missed: None,
        }
    }

    /// The divergence that is to be expected of the next mix: what is measured is taken to be proportional to it
    /// or, between two that were tried, to lie on the line through them.
    fn goal(&self) -> f64 {
        let aim = AIM * self.limit;
        match (self.held, self.missed) {
            (None, None) => self.limit,
            (Some(one), None) | (None, Some(one)) => {
                one.expected * (aim / one.measured.max(f64::MIN_POSITIVE))
            }
            (Some(held), Some(missed)) => {
                let part = (aim - held.measured) / (missed.measured - held.measured);
                held.expected + (missed.expected - held.expected) * part
            }
        }
    }

    /// Learns what became of the mix for [`Search::goal`]. Whether there is a better one to look for: above
    /// the limit there is, and well below it.
    fn learn(&mut self, tried: Tried) -> bool {
        match tried.measured <= self.limit {
            true => self.held = Some(tried),
            false => self.missed = Some(tried),
        }
        self.held
            .is_none_or(|held| held.measured < NEAR * self.limit)
    }
}

impl QuantizeArgs {
    /// Makes mixes until one is near the `limit` of the mean divergence, and keeps the smallest that is within
    /// it. An output that holds is replaced by another that does, and by nothing else; it stays when a later attempt
    /// fails.
    pub(super) fn least(
        &self,
        limit: f64,
        mixing: &Mixing<'_>,
        decided: &mut Decided,
        demands: &Demands<'_>,
        cx: &Cx,
    ) -> Result<Done> {
        let strict = self.check.without_keep();
        let strict = Demands {
            check: &strict,
            spare: demands.spare.clone(),
            ..*demands
        };
        let mut search = Search::new(limit);
        // The smallest that holds, and its bits; until there is one, the last.
        let (mut kept, mut held): (Option<Done>, Option<f64>) = (None, None);
        for _ in 0..ATTEMPTS {
            let mix = mixing.survey.within(Budget::Divergence(search.goal()))?;
            let (bits, expected) = (mix.bits, mix.cost);
            if held.is_some_and(|least| bits >= least) {
                break;
            }
            let demands = if held.is_some() { &strict } else { demands };
            let done = self.mixed(mix, mixing, decided, demands, cx)?;
            let measured = done.checked.first().and_then(Evaluation::mean_kld);
            let measured = measured.filter(|m| m.is_finite());
            let holds = done.status == ExitStatus::Done;
            if holds {
                held = Some(bits);
            }
            if holds || held.is_none() {
                kept = Some(done);
            }
            let Some(measured) = measured else {
                break;
            };
            cx.note(&format!(
                "measured {measured:.4}, expected at most {limit}\n"
            ));
            let goes_on = search.learn(Tried { expected, measured });
            // Which mix would meet another limit is not known.
            if !goes_on || !holds && measured <= limit {
                break;
            }
        }
        if let Some(bits) = held {
            cx.note(&format!("kept: {bits:.3} bits a weight\n"));
        }
        Ok(kept.expect("there is a first attempt"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expectations of the mixes that are made, with what is measured of them, for a limit of 0.05.
    fn tried(measure: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
        let mut search = Search::new(0.05);
        let mut all = Vec::new();
        for _ in 0..ATTEMPTS {
            let expected = search.goal();
            let measured = measure(expected);
            all.push((expected, measured));
            if !search.learn(Tried { expected, measured }) {
                break;
            }
        }
        all
    }

    #[test]
    fn an_expectation_that_is_right_is_enough() {
        assert_eq!(tried(|x| 0.95 * x), [(0.05, 0.0475)]);
    }

    #[test]
    fn one_in_proportion_takes_two() {
        for factor in [0.1, 0.5, 2.0, 10.0] {
            let all = tried(|x| factor * x);
            assert_eq!(all.len(), 2, "{factor}: {all:?}");
            assert!((all[1].1 - AIM * 0.05).abs() < 1e-12, "{factor}: {all:?}");
        }
    }

    #[test]
    fn what_grows_faster_is_found_between() {
        for power in [1.5f64, 2.0] {
            for factor in [1.0, 30.0, 1000.0] {
                let all = tried(|x| factor * x.powf(power));
                let held = all.iter().filter(|(_, m)| *m <= 0.05);
                let most = held.map(|(_, m)| *m).fold(0.0, f64::max);
                let first = all[0].1;
                assert!(all.len() == 3 || most > NEAR * 0.05, "{all:?}");
                assert!(most > 0.0 || first > 0.05, "{all:?}");
                // Nothing is made that one before has shown to be too large, or larger than need be.
                for (i, (expected, _)) in all.iter().enumerate() {
                    let before = &all[..i];
                    let too_large = |(e, m): &(f64, f64)| *m > 0.05 && expected >= e;
                    let needless = |(e, m): &(f64, f64)| *m <= 0.05 && expected <= e;
                    assert!(!before.iter().any(too_large), "{all:?}");
                    assert!(!before.iter().any(needless), "{all:?}");
                }
            }
        }
    }

    #[test]
    fn nothing_measured_is_no_number_of_its_own() {
        assert!(tried(|_| 0.0).iter().all(|(x, _)| !x.is_nan()));
    }
}
