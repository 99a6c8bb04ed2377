//! GPTQ as in its paper, column by column, in `f64`, with the inverse of `H`; then coordinate descent
//! and the fit of the scales, each by the formula.

use half::{bf16, f16};

use super::*;

type Square = Vec<Vec<f64>>;

/// What is asked for, and the statistics.
pub(super) struct Plain<'a> {
    pub(super) spec: &'a BlockSpec,
    pub(super) options: GptqOptions,
    /// `H + d I`, of sums divided by their mean on the diagonal.
    pub(super) damped: Square,
    /// The nearest that any number came to where its code changes, in steps. The candidates of the
    /// search are not counted: there the two codes are about as good.
    pub(super) margin: f64,
}

/// A row: codes, scales and zero points.
#[derive(Clone)]
pub(super) struct Row {
    codes: Vec<f64>,
    pub(super) scales: Vec<f64>,
    zero_points: Vec<f64>,
}

impl<'a> Plain<'a> {
    pub(super) fn new(
        spec: &'a BlockSpec,
        options: &GptqOptions,
        k: usize,
        tokens: &[f32],
    ) -> Self {
        let mut damped = sums(k, tokens, tokens);
        let mean = (0..k).map(|i| damped[i][i]).sum::<f64>() / k as f64;
        damped.iter_mut().flatten().for_each(|x| *x /= mean);
        (0..k).for_each(|i| damped[i][i] += options.damping);
        Self {
            spec,
            options: *options,
            damped,
            margin: f64::INFINITY,
        }
    }

    /// Quantizes one row.
    pub(super) fn row(&mut self, w: &[f64]) -> (Row, f64) {
        let mut best = self.nearest(w);
        let mut least = self.loss(w, &best);
        let mut keep = |row: &Row, loss: f64| {
            if loss < least {
                (best, least) = (row.clone(), loss);
            }
        };
        let mut row = self.nearest(w);
        if self.options.scales == Scales::Search {
            let margin = self.margin;
            self.search(w, &mut row);
            self.margin = margin;
        }
        self.sweep(w, &mut row);
        keep(&row, self.loss(w, &row));
        for _ in 0..self.options.refits {
            for _ in 0..self.options.sweeps {
                self.descend(w, &mut row);
            }
            keep(&row, self.loss(w, &row));
            let fitted = self.refit(w, &row);
            if self.loss(w, &fitted) < self.loss(w, &row) {
                row = fitted;
            }
            keep(&row, self.loss(w, &row));
        }
        (best, least)
    }

    /// The row's bytes.
    pub(super) fn store(&self, row: &Row, k: usize) -> Buffers {
        let spec = self.spec;
        let mut to = Buffers::new(spec, 1, k);
        to.zero_points.fill(0);
        for (i, byte) in to.codes.iter_mut().enumerate() {
            let per_byte = 8 / usize::from(spec.bits());
            *byte = 0;
            for j in 0..per_byte {
                let at = i * per_byte + j;
                let pad = || row.zero_points[at / spec.block()];
                let code = row.codes.get(at).copied().unwrap_or_else(pad);
                *byte |= (code as u8) << (j * usize::from(spec.bits()));
            }
        }
        for (scale, to) in row
            .scales
            .iter()
            .zip(to.scales.chunks_mut(spec.scale().size()))
        {
            match spec.scale() {
                ScaleType::F32 => to.copy_from_slice(&(*scale as f32).to_le_bytes()),
                ScaleType::F16 => to.copy_from_slice(&f16::from_f64(*scale).to_le_bytes()),
                ScaleType::BF16 => to.copy_from_slice(&bf16::from_f64(*scale).to_le_bytes()),
            }
        }
        let per_byte = 8 / usize::from(spec.bits());
        for (i, byte) in to.zero_points.iter_mut().enumerate() {
            for j in 0..per_byte {
                let mid = || f64::from(spec.mid());
                let at = i * per_byte + j;
                let z = row.zero_points.get(at).copied().unwrap_or_else(mid);
                *byte |= (z as u8) << (j * usize::from(spec.bits()));
            }
        }
        to
    }

    fn round_scale(&self, scale: f64) -> f64 {
        match self.spec.scale() {
            ScaleType::F32 => f64::from(scale as f32),
            ScaleType::F16 => f16::from_f64(scale).to_f64(),
            ScaleType::BF16 => bf16::from_f64(scale).to_f64(),
        }
    }

    fn code(&mut self, x: f64, scale: f64, zero_point: f64) -> f64 {
        if scale == 0.0 {
            return zero_point;
        }
        let y = x / scale + zero_point;
        let code = y.round().clamp(0.0, f64::from(self.spec.max_code()));
        // Where it is clamped no small change matters.
        if y > 0.0 && y < f64::from(self.spec.max_code()) {
            self.margin = self.margin.min(0.5 - (y - y.round()).abs());
        }
        code
    }

    /// Plain rounding, by the rule that is tested elsewhere.
    fn nearest(&self, w: &[f64]) -> Row {
        let spec = self.spec;
        let w: Vec<f32> = w.iter().map(|&w| w as f32).collect();
        let found = super::nearest(spec, &w, w.len()).unwrap();
        let code =
            |bytes: &[u8], i: usize| f64::from(crate::quant::rtn_ref::get(spec.bits(), bytes, i));
        let blocks = spec.blocks(w.len());
        Row {
            codes: (0..w.len()).map(|i| code(&found.codes, i)).collect(),
            scales: found
                .scales
                .chunks(spec.scale().size())
                .map(|b| f64::from(crate::quant::scales::read_scale(spec.scale(), b)))
                .collect(),
            zero_points: (0..blocks)
                .map(|g| match spec.symmetric() {
                    true => f64::from(spec.mid()),
                    false => code(&found.zero_points, g),
                })
                .collect(),
        }
    }

    /// The best of the candidates of `search.rs`, in the order in which it takes them.
    fn search(&mut self, w: &[f64], row: &mut Row) {
        let spec = self.spec;
        let max_code = f64::from(spec.max_code());
        let mid = f64::from(spec.mid());
        for (g, w) in w.chunks(spec.block()).enumerate() {
            let min = w.iter().fold(0.0f64, |a, &b| a.min(b));
            let max = w.iter().fold(0.0f64, |a, &b| a.max(b));
            let far = if max > -min { max } else { min };
            let (mut best, mut scale, mut zero_point) = (0.0, row.scales[g], row.zero_points[g]);
            for i in 0..16 {
                let (first, last) = match spec.bits() {
                    2 => (1.5, 0.45),
                    4 => (1.1, 0.65),
                    _ => (1.01, 0.9),
                };
                let share = first + (last - first) * f64::from(i) / 15.0;
                let candidates: Vec<(f64, f64)> = if spec.symmetric() {
                    [-mid, mid].map(|end| (far * share / end, mid)).to_vec()
                } else {
                    let s = (max - min) * share / max_code;
                    let center = (max_code / 2.0 - (max + min) / 2.0 / s).round();
                    let near = [center, center - 1.0, center + 1.0];
                    near.map(|z| (s, z.clamp(0.0, max_code))).to_vec()
                };
                for (s, z) in candidates {
                    let d: Vec<f64> = w.iter().map(|&x| self.code(x, s, z) - z).collect();
                    let a: f64 = d.iter().map(|d| d * d).sum();
                    let b: f64 = d.iter().zip(w).map(|(d, x)| d * x).sum();
                    if b * b / a > best {
                        (best, scale, zero_point) = (b * b / a, b / a, z);
                    }
                }
            }
            let scale = self.round_scale(scale);
            let mut error = |s: f64, z: f64| -> f64 {
                let error = |&x: &f64| x - s * (self.code(x, s, z) - z);
                w.iter().map(error).map(|e| e * e).sum()
            };
            if error(scale, zero_point) < error(row.scales[g], row.zero_points[g]) {
                (row.scales[g], row.zero_points[g]) = (scale, zero_point);
            }
        }
    }

    /// Frantar et al. 2022, algorithm 1, with columns in order of their diagonal elements.
    fn sweep(&mut self, w: &[f64], row: &mut Row) {
        let k = w.len();
        let mut order: Vec<usize> = (0..k).collect();
        if self.options.activation_order {
            order.sort_by(|&a, &b| self.damped[b][b].total_cmp(&self.damped[a][a]));
        }
        let permuted: Square = order
            .iter()
            .map(|&i| order.iter().map(|&j| self.damped[i][j]).collect())
            .collect();
        let u = upper(&inverse(&permuted));
        let mut left: Vec<f64> = order.iter().map(|&i| w[i]).collect();
        for j in 0..k {
            let g = order[j] / self.spec.block();
            let code = self.code(left[j], row.scales[g], row.zero_points[g]);
            row.codes[order[j]] = code;
            let decoded = row.scales[g] * (code - row.zero_points[g]);
            let error = (left[j] - decoded) / u[j][j];
            for i in j..k {
                left[i] -= error * u[j][i];
            }
        }
    }

    fn decoded(&self, row: &Row) -> Vec<f64> {
        let value = |(i, code): (usize, &f64)| {
            let g = i / self.spec.block();
            row.scales[g] * (code - row.zero_points[g])
        };
        row.codes.iter().enumerate().map(value).collect()
    }

    fn errors(&self, w: &[f64], row: &Row) -> Vec<f64> {
        w.iter()
            .zip(self.decoded(row))
            .map(|(w, q)| w - q)
            .collect()
    }

    pub(super) fn loss(&self, w: &[f64], row: &Row) -> f64 {
        quadratic(&self.damped, &self.errors(w, row))
    }

    fn descend(&mut self, w: &[f64], row: &mut Row) {
        for i in 0..w.len() {
            let errors = self.errors(w, row);
            let gradient: f64 = self.damped[i].iter().zip(&errors).map(|(h, e)| h * e).sum();
            let g = i / self.spec.block();
            let aim = w[i] - errors[i] + gradient / self.damped[i][i];
            row.codes[i] = self.code(aim, row.scales[g], row.zero_points[g]);
        }
    }

    fn refit(&self, w: &[f64], row: &Row) -> Row {
        let block = self.spec.block();
        let steps: Vec<f64> = (0..w.len())
            .map(|i| row.codes[i] - row.zero_points[i / block])
            .collect();
        let blocks = row.scales.len();
        let mut a = vec![vec![0.0; blocks]; blocks];
        let mut b = vec![0.0; blocks];
        let errors = self.errors(w, row);
        for i in 0..w.len() {
            for j in 0..w.len() {
                let h = self.damped[i][j];
                a[i / block][j / block] += steps[i] * h * steps[j];
                b[i / block] += steps[i] * h * errors[j];
            }
        }
        for (g, row) in a.iter_mut().enumerate() {
            // A block of zeros keeps its scale.
            row[g] = if row[g] == 0.0 {
                1.0
            } else {
                row[g] * (1.0 + 1e-6)
            };
        }
        let inverse = inverse(&a);
        let mut fitted = row.clone();
        for (g, inverse) in inverse.iter().enumerate() {
            let change: f64 = inverse.iter().zip(&b).map(|(a, b)| a * b).sum();
            let scale = self.round_scale(row.scales[g] + change);
            if scale != 0.0 {
                fitted.scales[g] = scale;
            }
        }
        fitted
    }
}

/// `sum of left_t right_t^T`.
pub(super) fn sums(k: usize, left: &[f32], right: &[f32]) -> Square {
    let mut sums = vec![vec![0.0; k]; k];
    for (left, right) in left.chunks(k).zip(right.chunks(k)) {
        for (i, x) in left.iter().enumerate() {
            for (j, y) in right.iter().enumerate() {
                sums[i][j] += f64::from(*x) * f64::from(*y);
            }
        }
    }
    sums
}

/// `e^T h e`.
pub(super) fn quadratic(h: &Square, e: &[f64]) -> f64 {
    let row = |h: &Vec<f64>| -> f64 { h.iter().zip(e).map(|(h, e)| h * e).sum() };
    h.iter().zip(e).map(|(h, e)| e * row(h)).sum()
}

/// By Gauss and Jordan, with pivots.
pub(super) fn inverse(a: &Square) -> Square {
    let k = a.len();
    let mut a = a.clone();
    let mut inverse: Square = (0..k)
        .map(|i| (0..k).map(|j| f64::from(u8::from(i == j))).collect())
        .collect();
    for c in 0..k {
        let largest = (c..k).max_by(|&i, &j| a[i][c].abs().total_cmp(&a[j][c].abs()));
        let pivot = largest.unwrap();
        a.swap(c, pivot);
        inverse.swap(c, pivot);
        let factor = 1.0 / a[c][c];
        for j in 0..k {
            a[c][j] *= factor;
            inverse[c][j] *= factor;
        }
        for i in (0..k).filter(|&i| i != c) {
            let factor = a[i][c];
            for j in 0..k {
                a[i][j] -= factor * a[c][j];
                inverse[i][j] -= factor * inverse[c][j];
            }
        }
    }
    inverse
}

/// `U`, upper triangular, with `U^T U = a`.
fn upper(a: &Square) -> Square {
    let k = a.len();
    let mut u = vec![vec![0.0; k]; k];
    for i in 0..k {
        for j in i..k {
            let sum: f64 = (0..i).map(|t| u[t][i] * u[t][j]).sum();
            u[i][j] = if i == j {
                (a[i][i] - sum).sqrt()
            } else {
                (a[i][j] - sum) / u[i][i]
            };
        }
    }
    u
}
