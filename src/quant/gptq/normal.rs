//! The normal equations of [`LANES`] rows at once: one small symmetric system in each lane.

use super::product::LANES;
use super::refit::Wide;
use super::sums::Part;

/// Added to the diagonal as a share of it: above the rounding error of the products, which are in
/// `f32`, and far below the last of the 8 to 24 bits of a scale.
const RIDGE: f64 = 1e-6;

/// A positive semi-definite matrix, its lower triangle row after row; then its Cholesky factor.
///
/// Memory: `64 g (g + 1)` bytes for `g` rows, 38 MB for 768.
pub(super) struct Normal(Vec<Wide>);

/// Where row `i` begins.
fn row(i: usize) -> usize {
    Part::Lower.offset(0, i)
}

impl Normal {
    pub(super) fn new(size: usize) -> Self {
        Self(vec![[0.0; LANES]; row(size)])
    }

    /// Element `[i, j]`, `j <= i`.
    #[inline(always)]
    pub(super) fn at(&mut self, i: usize, j: usize) -> &mut Wide {
        &mut self.0[row(i) + j]
    }

    /// Replaces the matrix by its factor. An unknown that does not matter, such as the scale of a block
    /// of zeros, gets a pivot that leaves it alone.
    #[inline(always)]
    pub(super) fn factor(&mut self) {
        let mut i = 0;
        while row(i) < self.0.len() {
            let (done, rest) = self.0.split_at_mut(row(i));
            let current = &mut rest[..=i];
            for j in 0..i {
                let other = &done[row(j)..][..=j];
                let (before, from_j) = current.split_at_mut(j);
                let x = &mut from_j[0];
                for (a, b) in before.iter().zip(other) {
                    for l in 0..LANES {
                        x[l] -= a[l] * b[l];
                    }
                }
                for l in 0..LANES {
                    x[l] *= other[j][l];
                }
            }
            let (pivot, before) = current.split_last_mut().expect("a row has its diagonal");
            let least = pivot.map(|x| RIDGE * x);
            for l in 0..LANES {
                pivot[l] += least[l];
            }
            for a in before.iter() {
                for l in 0..LANES {
                    pivot[l] -= a[l] * a[l];
                }
            }
            // The diagonal holds the inverse.
            for l in 0..LANES {
                pivot[l] = if pivot[l] > 0.0 {
                    pivot[l].max(least[l])
                } else {
                    f64::INFINITY
                };
                pivot[l] = 1.0 / pivot[l].sqrt();
            }
            i += 1;
        }
    }

    /// The solution of `A x = b`, by the factor.
    #[inline(always)]
    pub(super) fn solve(&self, b: &[Wide]) -> Vec<Wide> {
        let mut x = b.to_vec();
        for i in 0..x.len() {
            let (before, from) = x.split_at_mut(i);
            let (factor, current) = (&self.0[row(i)..][..=i], &mut from[0]);
            for (a, y) in factor.iter().zip(before.iter()) {
                for l in 0..LANES {
                    current[l] -= a[l] * y[l];
                }
            }
            for l in 0..LANES {
                current[l] *= factor[i][l];
            }
        }
        for i in (0..x.len()).rev() {
            let (before, from) = x.split_at_mut(i);
            let (factor, current) = (&self.0[row(i)..][..=i], &mut from[0]);
            for l in 0..LANES {
                current[l] *= factor[i][l];
            }
            for (a, y) in factor.iter().zip(before) {
                for l in 0..LANES {
                    y[l] -= a[l] * current[l];
                }
            }
        }
        x
    }

    /// `x^T A x`, by the factor: not below 0, and with the ridge, so a little too much.
    #[inline(always)]
    pub(super) fn squares(&self, x: &[Wide]) -> Wide {
        let mut products = vec![[0.0; LANES]; x.len()];
        for (i, x) in x.iter().enumerate() {
            let factor = &self.0[row(i)..][..=i];
            for (j, (a, product)) in factor.iter().zip(&mut products).enumerate() {
                for l in 0..LANES {
                    // A pivot of infinity has an unknown of 0.
                    let a = if j < i || a[l] == 0.0 {
                        a[l]
                    } else {
                        1.0 / a[l]
                    };
                    product[l] += a * x[l];
                }
            }
        }
        let mut sum = [0.0; LANES];
        for product in &products {
            for l in 0..LANES {
                sum[l] += product[l] * product[l];
            }
        }
        sum
    }
}
