//! What the second-order methods know of the activations.

use std::fmt;

use super::sums::{CHUNK, Part, Scratch, add_chunk};
use super::wire::{Reader, Writer};
use crate::quant::convert::first_nonfinite;

/// Activations or saved statistics that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatisticsError {
    /// An activation is NaN or infinite.
    NonFinite {
        /// The token, counted from the first one that was added.
        token: u64,
        /// The channel.
        channel: usize,
    },
    /// Saved statistics are not what was written; what is wrong with them.
    Malformed(&'static str),
}

impl fmt::Display for StatisticsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StatisticsError::NonFinite { token, channel } => {
                write!(
                    f,
                    "activation of token {token}, channel {channel} is NaN or infinite"
                )
            }
            StatisticsError::Malformed(what) => write!(f, "saved statistics: {what}"),
        }
    }
}

impl std::error::Error for StatisticsError {}

/// Sums over whole chunks, and the tokens of the chunk that is not full yet.
#[derive(Clone, Debug)]
struct Sums {
    part: Part,
    k: usize,
    tokens: u64,
    totals: Vec<f64>,
    left: Vec<f32>,
    /// Empty for [`Part::Lower`], where both factors are the same.
    right: Vec<f32>,
    scratch: Scratch,
}

impl Sums {
    fn new(part: Part, k: usize) -> Self {
        assert!(k > 0, "activations have channels");
        Self {
            part,
            k,
            tokens: 0,
            totals: vec![0.0; part.offset(k, k)],
            left: Vec::new(),
            right: Vec::new(),
            scratch: Scratch::default(),
        }
    }

    /// Refuses what is not finite, before anything was added.
    fn check(&self, rows: &[f32]) -> Result<(), StatisticsError> {
        let k = self.k;
        assert_eq!(rows.len() % k, 0, "activations of whole rows of {k}");
        match first_nonfinite(rows) {
            None => Ok(()),
            Some(at) => Err(StatisticsError::NonFinite {
                token: self.tokens + (at / k) as u64,
                channel: at % k,
            }),
        }
    }

    /// Adds finite rows. `right` is empty for [`Part::Lower`].
    fn add(&mut self, mut left: &[f32], mut right: &[f32]) {
        self.tokens += (left.len() / self.k) as u64;
        let chunk = CHUNK * self.k;
        while !left.is_empty() {
            if self.left.is_empty() && left.len() >= chunk {
                let (l, r);
                (l, left) = left.split_at(chunk);
                (r, right) = right.split_at(chunk.min(right.len()));
                let r = if self.part == Part::Lower { l } else { r };
                let (totals, scratch) = (&mut self.totals, &mut self.scratch);
                add_chunk(self.part, self.k, l, r, totals, scratch);
                continue;
            }
            let take = (chunk - self.left.len()).min(left.len());
            let (l, r);
            (l, left) = left.split_at(take);
            (r, right) = right.split_at(take.min(right.len()));
            self.left.extend_from_slice(l);
            self.right.extend_from_slice(r);
            if self.left.len() == chunk {
                let mut totals = std::mem::take(&mut self.totals);
                let mut scratch = std::mem::take(&mut self.scratch);
                self.add_pending(&mut totals, &mut scratch);
                (self.totals, self.scratch) = (totals, scratch);
                self.left.clear();
                self.right.clear();
            }
        }
    }

    fn add_pending(&self, totals: &mut [f64], scratch: &mut Scratch) {
        let right = match self.part {
            Part::Lower => &self.left,
            Part::All => &self.right,
        };
        add_chunk(self.part, self.k, &self.left, right, totals, scratch);
    }

    /// The sums over all tokens.
    fn all(&self) -> Vec<f64> {
        let mut totals = self.totals.clone();
        self.add_pending(&mut totals, &mut Scratch::default());
        totals
    }

    fn write(&self, to: &mut Writer) {
        to.u64(self.k as u64);
        to.u64(self.tokens);
        to.f64s(&self.totals);
        to.f32s(&self.left);
        to.f32s(&self.right);
    }

    fn read(part: Part, from: &mut Reader<'_>) -> Result<Self, StatisticsError> {
        let k = from.u64()?;
        let tokens = from.u64()?;
        // Before anything of that size is made, or even computed.
        if k == 0 || k > from.left() as u64 {
            return Err(LENGTH);
        }
        let elements = match part {
            Part::Lower => u128::from(k) * u128::from(k + 1) / 2,
            Part::All => u128::from(k) * u128::from(k),
        };
        if elements * 8 > from.left() as u128 {
            return Err(LENGTH);
        }
        let mut sums = Self::new(part, k as usize);
        sums.tokens = tokens;
        from.f64s(&mut sums.totals)?;
        let pending = (tokens % CHUNK as u64) as usize * sums.k;
        sums.left = from.f32s(pending)?;
        if part == Part::All {
            sums.right = from.f32s(pending)?;
        }
        Ok(sums)
    }
}

/// `H = sum of x x^T` over the tokens of a calibration, `x` being the `k` inputs of a linear layer.
///
/// The sums do not depend on the number of threads, nor on how the tokens were divided into calls:
/// see the head of `sums.rs` for the order that is used.
///
/// Memory: `4 k (k + 1)` bytes, the lower triangle in `f64`, and at most `3 * 1024 k` bytes for a
/// chunk of tokens; 604 MB and 38 MB for `k` of 12288.
#[derive(Clone, Debug)]
pub struct Hessian {
    sums: Sums,
    /// Sum of `|x|`.
    magnitudes: Vec<f64>,
}

const LENGTH: StatisticsError =
    StatisticsError::Malformed("their length is not that of their channels");
const HESSIAN: &[u8; 8] = b"onnxqHs1";
const CROSS: &[u8; 8] = b"onnxqCr1";

impl Hessian {
    /// Of no tokens yet, with `k` channels.
    ///
    /// # Panics
    ///
    /// If `k` is 0.
    pub fn new(k: usize) -> Self {
        Self {
            sums: Sums::new(Part::Lower, k),
            magnitudes: vec![0.0; k],
        }
    }

    /// Number of channels.
    pub fn k(&self) -> usize {
        self.sums.k
    }

    /// Number of tokens that were added.
    pub fn tokens(&self) -> u64 {
        self.sums.tokens
    }

    /// Adds tokens: `rows` is row-major `[tokens, k]`.
    ///
    /// # Errors
    ///
    /// [`StatisticsError::NonFinite`] with the first such activation. Nothing was added then.
    ///
    /// # Panics
    ///
    /// If `rows` is no whole number of rows.
    pub fn add(&mut self, rows: &[f32]) -> Result<(), StatisticsError> {
        self.sums.check(rows)?;
        for row in rows.chunks_exact(self.sums.k) {
            for (sum, x) in self.magnitudes.iter_mut().zip(row) {
                *sum += f64::from(x.abs());
            }
        }
        self.sums.add(rows, &[]);
        Ok(())
    }

    /// Mean of `x^2` of each channel: its importance. Zeros before the first token.
    pub fn diagonal(&self) -> Vec<f32> {
        let sums = &self.sums;
        let mut squares: Vec<f64> = (0..sums.k)
            .map(|i| sums.totals[Part::Lower.offset(sums.k, i) + i])
            .collect();
        for row in sums.left.chunks_exact(sums.k) {
            for (sum, x) in squares.iter_mut().zip(row) {
                *sum += f64::from(*x) * f64::from(*x);
            }
        }
        self.means(&squares)
    }

    /// Mean of `|x|` of each channel. Zeros before the first token.
    pub fn magnitudes(&self) -> Vec<f32> {
        self.means(&self.magnitudes)
    }

    fn means(&self, sums: &[f64]) -> Vec<f32> {
        let tokens = self.sums.tokens.max(1) as f64;
        sums.iter().map(|sum| (sum / tokens) as f32).collect()
    }

    /// The lower triangle of the sums over all tokens, row after row.
    pub(super) fn lower(&self) -> Vec<f64> {
        self.sums.all()
    }

    /// The state, little-endian: reading it and going on gives the same bits as never having stopped.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut to = Writer::new(HESSIAN);
        self.sums.write(&mut to);
        to.f64s(&self.magnitudes);
        to.finish()
    }

    /// Reads what [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    ///
    /// [`StatisticsError::Malformed`] when `bytes` is something else, cut short, or no sum of outer
    /// products: a square below 0, or a product above those of its squares.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StatisticsError> {
        let mut from = Reader::new(bytes, HESSIAN)?;
        let sums = Sums::read(Part::Lower, &mut from)?;
        let mut magnitudes = vec![0.0; sums.k];
        from.f64s(&mut magnitudes)?;
        from.end()?;
        check_bounds(sums.k, &sums.totals)?;
        Ok(Self { sums, magnitudes })
    }
}

/// `h_ij^2 <= h_ii h_jj`, up to rounding: what makes damping succeed in the end, see `problem.rs`.
fn check_bounds(k: usize, lower: &[f64]) -> Result<(), StatisticsError> {
    let roots: Vec<f64> = (0..k)
        .map(|i| lower[Part::Lower.offset(k, i) + i].sqrt())
        .collect();
    if roots.iter().any(|root| root.is_nan()) {
        return Err(StatisticsError::Malformed("a sum of squares is negative"));
    }
    // 2^64 tokens of the largest `f32` are below this; room to add more is left above it.
    if roots.iter().any(|&root| root > 1e50) {
        return Err(StatisticsError::Malformed("a sum of squares is too large"));
    }
    for i in 0..k {
        let row = &lower[Part::Lower.offset(k, i)..][..i];
        // Sums of 256 in f32 are off by less than a thousandth of the largest they could be.
        let limit = roots[i] * 1.001;
        if row
            .iter()
            .zip(&roots)
            .any(|(x, root)| x.abs() > limit * root)
        {
            return Err(StatisticsError::Malformed(
                "a sum of products is larger than its squares allow",
            ));
        }
    }
    Ok(())
}

/// `C = sum of (x_float - x_quantized) x_quantized^T` over the tokens of a calibration: how far the
/// inputs of a layer have moved because the layers before it are quantized already (Li et al. 2025,
/// "GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration").
///
/// As deterministic as [`Hessian`]. Memory: `8 k^2` bytes and at most `4 * 1024 k` for a chunk.
#[derive(Clone, Debug)]
pub struct Cross(Sums);

impl Cross {
    /// Of no tokens yet, with `k` channels.
    ///
    /// # Panics
    ///
    /// If `k` is 0.
    pub fn new(k: usize) -> Self {
        Self(Sums::new(Part::All, k))
    }

    /// Number of channels.
    pub fn k(&self) -> usize {
        self.0.k
    }

    /// Number of tokens that were added.
    pub fn tokens(&self) -> u64 {
        self.0.tokens
    }

    /// Adds tokens: row-major `[tokens, k]`, the same ones in the float and in the quantized model.
    ///
    /// # Errors
    ///
    /// [`StatisticsError::NonFinite`] with the first such activation, or difference of two. Nothing
    /// was added then.
    ///
    /// # Panics
    ///
    /// If the two have not the same length, or no whole number of rows.
    pub fn add(&mut self, float: &[f32], quantized: &[f32]) -> Result<(), StatisticsError> {
        assert_eq!(float.len(), quantized.len(), "the same tokens");
        self.0.check(quantized)?;
        let moved: Vec<f32> = float.iter().zip(quantized).map(|(x, q)| x - q).collect();
        self.0.check(&moved)?;
        self.0.add(&moved, quantized);
        Ok(())
    }

    /// The sums over all tokens, `[k, k]` row after row.
    pub(super) fn all(&self) -> Vec<f64> {
        self.0.all()
    }

    /// As [`Hessian::to_bytes`].
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut to = Writer::new(CROSS);
        self.0.write(&mut to);
        to.finish()
    }

    /// Reads what [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    ///
    /// [`StatisticsError::Malformed`] when `bytes` is something else, or cut short.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StatisticsError> {
        let mut from = Reader::new(bytes, CROSS)?;
        let sums = Sums::read(Part::All, &mut from)?;
        from.end()?;
        Ok(Self(sums))
    }
}
