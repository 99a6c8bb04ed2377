//! The entry points: weights in, codes out.

use rayon::prelude::*;

use super::descend::descend;
use super::objective::Objective;
use super::options::{GptqOptions, Report, Scales};
use super::panel::{Choice, Panel};
use super::product::LANES;
use super::refit::{gradient, refit};
use super::search::search_grids;
use super::shift::shift;
use super::statistics::{Cross, Hessian};
use super::sweep::{measure, sweep};
use crate::quant::rtn::{Out, QuantizeError, Refused};
use crate::quant::rtn_ref::first_error;
use crate::quant::spec::BlockSpec;

/// Panels that go through a stage together: their errors, 4 KiB each for 64 columns, stay in L2 up to
/// some thousand columns, while the matrices are read once for all of them.
const STRIPE: usize = 4;

/// Quantizes the rows of `weight`, row-major `[n, k]`, so that the layer's outputs on the tokens of `h`
/// change as little as possible. `out` is as [`quantize_rows`](crate::quant::quantize_rows) writes it.
///
/// 1. Each block gets its scale and zero point from the weight ([`Scales`]).
/// 2. GPTQ (Frantar et al. 2022) chooses the codes, column by column, with error feedback. If there are
///    several ways to get the scales, both steps are done for each.
/// 3. [`GptqOptions::refits`] times: [`GptqOptions::sweeps`] sweeps of coordinate descent over the
///    codes, then a least-squares fit of all scales of a row.
///
/// Each row ends as the best of plain rounding and what it was after each step. A row depends on
/// nothing but itself and the statistics: results are the same on any number of threads and for any
/// division of a weight into calls.
///
/// For several weights that read the same activation, make one [`Objective`].
///
/// # Errors
///
/// As [`quantize_rows`](crate::quant::quantize_rows).
///
/// # Panics
///
/// If `weight` is no whole number of rows of the channels of `h`, a buffer of `out` has not the length
/// that `spec` gives, or `cross` does not fit `h`.
pub fn gptq(
    spec: &BlockSpec,
    weight: &[f32],
    h: &Hessian,
    cross: Option<&Cross>,
    options: &GptqOptions,
    out: Out<'_>,
) -> Result<Report, QuantizeError> {
    Objective::new(h, cross, options).quantize(spec, weight, out)
}

impl Objective {
    /// As [`gptq`].
    ///
    /// # Errors
    ///
    /// As [`gptq`].
    ///
    /// # Panics
    ///
    /// As [`gptq`].
    pub fn quantize(
        &self,
        spec: &BlockSpec,
        weight: &[f32],
        mut out: Out<'_>,
    ) -> Result<Report, QuantizeError> {
        let k = self.k;
        assert_eq!(weight.len() % k, 0, "a weight of whole rows of {k}");
        let n = weight.len() / k;
        out.check(spec, n, k);

        let rows = self.rows_of_a_stripe(n);
        let mut stripes = Vec::with_capacity(n.div_ceil(rows));
        for weight in weight.chunks(rows * k) {
            stripes.push((weight, split(spec, weight.len() / k, k, &mut out)));
        }
        let done: Result<Vec<Vec<[f64; 2]>>, Refused> = stripes
            .into_par_iter()
            .map(|(weight, out)| self.stripe(spec, weight, out))
            .collect();
        let losses = done.map_err(|Refused| {
            first_error(spec, n, k, |n, i| weight[n * k + i]).expect("a refused block is an error")
        })?;
        let (mut plain, mut loss) = (0.0, 0.0);
        for [before, after] in losses.into_iter().flatten() {
            plain += before;
            loss += after;
        }
        Ok(Report {
            plain: plain * self.unit,
            loss: loss * self.unit,
            damping: self.damping(),
        })
    }

    /// Rows that make a task: few enough for all threads to have some, which changes no result.
    pub(super) fn rows_of_a_stripe(&self, n: usize) -> usize {
        let panels = n.div_ceil(LANES);
        let fair = panels.div_ceil(4 * rayon::current_num_threads());
        fair.clamp(1, STRIPE) * LANES
    }

    /// Quantizes some rows; returns the losses of each, of plain rounding and of what was written.
    fn stripe(
        &self,
        spec: &BlockSpec,
        weight: &[f32],
        mut out: Out<'_>,
    ) -> Result<Vec<[f64; 2]>, Refused> {
        let k = self.k;
        let mut panels = Vec::with_capacity(STRIPE);
        for rows in weight.chunks(LANES * k) {
            let mut panel = Panel::round(spec, k, rows)?;
            shift(self, spec, &mut panel);
            panels.push(panel);
        }
        measure(self, &mut panels);
        let mut best: Vec<Choice> = panels.iter().map(|panel| panel.now.clone()).collect();
        let before: Vec<[f64; LANES]> = best.iter().map(|best| best.loss).collect();

        if self.options.scales == Scales::Plain {
            sweep(self, spec, &mut panels);
            improve(&mut best, &panels);
        }
        for &weight in self.options.scales.weights() {
            for panel in &mut panels {
                search_grids(self, spec, weight, panel);
            }
            sweep(self, spec, &mut panels);
            improve(&mut best, &panels);
        }
        for (panel, best) in panels.iter_mut().zip(&best) {
            panel.now.clone_from(best);
            panel.update_errors(spec);
        }
        for _ in 0..self.options.refits {
            for _ in 0..self.options.sweeps {
                descend(self, spec, &mut panels);
            }
            for (panel, best) in panels.iter_mut().zip(&mut best) {
                let b = gradient(self, spec, panel);
                best.improve(&panel.now);
                refit(self, spec, panel, &b);
                best.improve(&panel.now);
            }
        }

        let mut losses = Vec::with_capacity(weight.len() / k);
        for ((panel, best), before) in panels.iter().zip(&best).zip(&before) {
            panel.store(spec, best, &mut split(spec, panel.rows, k, &mut out));
            for (l, (before, after)) in before.iter().zip(&best.loss).enumerate().take(panel.rows) {
                let square = panel.units.square(l);
                losses.push([before * square, after * square]);
            }
        }
        Ok(losses)
    }
}

fn improve(best: &mut [Choice], panels: &[Panel]) {
    for (best, panel) in best.iter_mut().zip(panels) {
        best.improve(&panel.now);
    }
}

/// Cuts the first `n` rows off `out`.
fn split<'a>(spec: &BlockSpec, n: usize, k: usize, out: &mut Out<'a>) -> Out<'a> {
    Out {
        codes: cut(&mut out.codes, spec.codes_len(n, k)),
        scales: cut(&mut out.scales, spec.scales_len(n, k)),
        zero_points: cut(&mut out.zero_points, spec.zero_points_len(n, k)),
    }
}

fn cut<'a>(from: &mut &'a mut [u8], len: usize) -> &'a mut [u8] {
    let (taken, rest) = std::mem::take(from).split_at_mut(len);
    *from = rest;
    taken
}
