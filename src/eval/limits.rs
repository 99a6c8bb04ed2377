//! Limits on what a rewrite may cost.

use super::report::{Divergence, LimitResult, OutputDifference, Perplexity, Task, TokenPlace};
use super::summary::WorstOf;
use crate::{
    engine::{OutputRole, Signature},
    error::{Error, Result},
};

/// What must hold; nothing is assumed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Mean divergence at most this, in nats.
    pub max_mean_kld: Option<f64>,
    /// 99th percentile of the divergence at most this, in nats.
    pub max_p99_kld: Option<f64>,
    /// Share of equal most probable tokens, or labels, at least this, 0 to 1.
    pub min_top1: Option<f64>,
    /// Perplexity by the baseline's at most this.
    pub max_ppl_ratio: Option<f64>,
    /// No log-prob of a reference token differs by more than this, in nats.
    pub max_logprob_diff: Option<f64>,
    /// No number of any output differs by more than this.
    pub max_diff: Option<f64>,
    /// Signal-to-noise ratio of every output at least this, in dB.
    pub min_snr: Option<f64>,
    /// Cosine between every output and the baseline's at least this.
    pub min_cosine: Option<f64>,
}

/// What a limit is on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    /// Distributions over the next token.
    Tokens,
    /// Outputs that are compared as numbers.
    Numbers,
    Both,
}

/// A limit that may be set.
struct Set {
    /// Of its option.
    name: &'static str,
    limit: Option<f64>,
    /// The most that it may be; the least is 0.
    most: f64,
    on: On,
}

impl Limits {
    /// Whether none is set.
    pub fn is_empty(&self) -> bool {
        *self == Limits::default()
    }

    /// Looks whether every limit is one for such a model, and can be held and missed.
    ///
    /// # Errors
    /// One is on distributions over tokens, and the model gives none, or on outputs as numbers, which those of a
    /// language model are not compared as; one is out of its range.
    pub fn check(&self, task: Task) -> Result<()> {
        let (other, what) = match task {
            Task::CausalLm => (
                On::Numbers,
                "outputs that are compared as numbers, and this is a language model on text",
            ),
            _ => (
                On::Tokens,
                "language models on text, and this is none (--task causal-lm if it is)",
            ),
        };
        for Set {
            name,
            limit,
            most,
            on,
        } in self.all()
        {
            let Some(limit) = limit else { continue };
            if on == other {
                return Err(Error::input(format!("--{name}: it is for {what}")));
            }
            if !(0.0..=most).contains(&limit) {
                let most = if most == f64::MAX { "any number" } else { "1" };
                return Err(Error::input(format!(
                    "--{name} {limit}: expected 0 to {most}"
                )));
            }
        }
        Ok(())
    }

    /// Looks whether a model with this signature has what the limits are on; for models that predict no tokens.
    ///
    /// # Errors
    /// There is a limit on labels, and no output has scores of such.
    pub fn need_outputs(&self, signature: &Signature) -> Result<()> {
        if self.min_top1.is_none() || signature.output(OutputRole::Logits).is_some() {
            return Ok(());
        }
        Err(Error::input(
            "--min-top1: no output has scores of labels (`logits`); limits on any output are \
             --max-diff, --min-snr and --min-cosine",
        ))
    }

    /// Fails where there are limits and nothing to be compared with.
    pub(super) fn need(&self, baseline: bool) -> Result<()> {
        match baseline || self.is_empty() {
            true => Ok(()),
            false => Err(Error::input(
                "limits are on the difference from a baseline: expected --baseline",
            )),
        }
    }

    fn all(&self) -> [Set; 8] {
        let set = |name, limit, most, on| Set {
            name,
            limit,
            most,
            on,
        };
        let any = f64::MAX;
        [
            set("max-mean-kld", self.max_mean_kld, any, On::Tokens),
            set("max-p99-kld", self.max_p99_kld, any, On::Tokens),
            set("min-top1", self.min_top1, 1.0, On::Both),
            set("max-ppl-ratio", self.max_ppl_ratio, any, On::Tokens),
            set("max-logprob-diff", self.max_logprob_diff, any, On::Tokens),
            set("max-diff", self.max_diff, any, On::Numbers),
            set("min-snr", self.min_snr, any, On::Numbers),
            set("min-cosine", self.min_cosine, 1.0, On::Numbers),
        ]
    }

    /// What became of each limit that is set, of a language model.
    pub(crate) fn judge(
        &self,
        divergence: &Divergence,
        ppl: &Perplexity,
        worst_of: &WorstOf,
    ) -> Vec<LimitResult> {
        let d = divergence;
        let at = |result: Option<LimitResult>, worst: Option<&TokenPlace>| {
            let worst = worst.cloned();
            result.map(|result| LimitResult { worst, ..result })
        };
        let ratio = ppl.ratio.map_or(f64::NAN, |r| r.value);
        let of_mean = most("max-mean-kld", self.max_mean_kld, d.kld.mean.value);
        let of_p99 = most("max-p99-kld", self.max_p99_kld, d.kld.p99);
        let of_top1 = least("min-top1", self.min_top1, d.top1.value);
        let of_ratio = most("max-ppl-ratio", self.max_ppl_ratio, ratio);
        let of_log_prob = most("max-logprob-diff", self.max_logprob_diff, d.log_prob.max);
        [
            at(of_mean, Some(&d.worst)),
            at(of_p99, Some(&d.worst)),
            at(of_top1, worst_of.top1.as_ref()),
            at(of_ratio, worst_of.loss.as_ref()),
            at(of_log_prob, Some(&d.log_prob.worst)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// What became of each limit that is set, of a model whose outputs were compared as numbers: the output
    /// that is worst decides.
    ///
    /// # Errors
    /// There is a limit on labels, and the baseline has no output of their scores' name.
    pub(crate) fn judge_outputs(&self, outputs: &[OutputDifference]) -> Result<Vec<LimitResult>> {
        // Of every output, and of the one that is farthest.
        let judged = |judge: &dyn Fn(&OutputDifference) -> Option<LimitResult>| {
            let results = outputs.iter().filter_map(|o| {
                let output = Some(o.name.clone());
                Some(LimitResult {
                    output,
                    ..judge(o)?
                })
            });
            let excess = |r: &LimitResult| {
                if r.name.starts_with("max") {
                    r.found
                } else {
                    -r.found
                }
            };
            results.max_by(|a, b| excess(a).total_cmp(&excess(b)))
        };
        let top1 = judged(&|o| least("min-top1", self.min_top1, o.agreement?));
        if self.min_top1.is_some() && top1.is_none() {
            return Err(Error::input(
                "--min-top1: the baseline has no output of the name that the scores have",
            ));
        }
        let found = [
            top1,
            judged(&|o| most("max-diff", self.max_diff, o.max)),
            judged(&|o| least("min-snr", self.min_snr, o.snr())),
            judged(&|o| least("min-cosine", self.min_cosine, o.similarity())),
        ];
        Ok(found.into_iter().flatten().collect())
    }
}

/// That `found` is at most `limit`, if there is one.
fn most(name: &'static str, limit: Option<f64>, found: f64) -> Option<LimitResult> {
    limit.map(|limit| LimitResult {
        name,
        limit,
        found,
        held: found <= limit,
        worst: None,
        output: None,
    })
}

/// That `found` is at least `limit`, if there is one.
fn least(name: &'static str, limit: Option<f64>, found: f64) -> Option<LimitResult> {
    let result = most(name, limit, found)?;
    let held = found >= result.limit;
    Some(LimitResult { held, ..result })
}
