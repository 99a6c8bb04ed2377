//! Limits on what a rewrite may cost.

use super::report::{Divergence, LimitResult, Perplexity, TokenPlace};
use super::summary::WorstOf;
use crate::error::{Error, Result};

/// What must hold; nothing is assumed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Mean divergence at most this, in nats.
    pub max_mean_kld: Option<f64>,
    /// 99th percentile of the divergence at most this, in nats.
    pub max_p99_kld: Option<f64>,
    /// Share of equal most probable tokens at least this, 0 to 1.
    pub min_top1: Option<f64>,
    /// Perplexity by the baseline's at most this.
    pub max_ppl_ratio: Option<f64>,
    /// No log-prob of a reference token differs by more than this, in nats.
    pub max_logprob_diff: Option<f64>,
}

impl Limits {
    /// Whether none is set.
    pub fn is_empty(&self) -> bool {
        *self == Limits::default()
    }

    /// Looks whether every limit can be held and missed.
    ///
    /// # Errors
    /// One is negative, no number, or a share above 1.
    pub fn check(&self) -> Result<()> {
        let all = [
            ("max-mean-kld", self.max_mean_kld, f64::MAX),
            ("max-p99-kld", self.max_p99_kld, f64::MAX),
            ("min-top1", self.min_top1, 1.0),
            ("max-ppl-ratio", self.max_ppl_ratio, f64::MAX),
            ("max-logprob-diff", self.max_logprob_diff, f64::MAX),
        ];
        for (name, limit, most) in all {
            let Some(limit) = limit else { continue };
            if !(0.0..=most).contains(&limit) {
                let most = if most == 1.0 { "1" } else { "any number" };
                return Err(Error::input(format!(
                    "--{name} {limit}: expected 0 to {most}"
                )));
            }
        }
        Ok(())
    }

    /// What became of each limit that is set.
    pub(crate) fn judge(
        &self,
        divergence: &Divergence,
        ppl: &Perplexity,
        worst_of: &WorstOf,
    ) -> Vec<LimitResult> {
        let most = |name, limit: Option<f64>, found: f64, worst: Option<&TokenPlace>| {
            limit.map(|limit| LimitResult {
                name,
                limit,
                found,
                held: found <= limit,
                worst: worst.cloned(),
            })
        };
        let d = divergence;
        let worst = Some(&d.worst);
        let ratio = ppl.ratio.map_or(f64::NAN, |r| r.value);
        let top1 = self.min_top1.map(|limit| LimitResult {
            name: "min-top1",
            limit,
            found: d.top1.value,
            held: d.top1.value >= limit,
            worst: worst_of.top1.clone(),
        });
        [
            most("max-mean-kld", self.max_mean_kld, d.kld.mean.value, worst),
            most("max-p99-kld", self.max_p99_kld, d.kld.p99, worst),
            top1,
            most(
                "max-ppl-ratio",
                self.max_ppl_ratio,
                ratio,
                worst_of.loss.as_ref(),
            ),
            most(
                "max-logprob-diff",
                self.max_logprob_diff,
                d.log_prob.max,
                Some(&d.log_prob.worst),
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
