//! What a caller can choose, and what it is told.

/// How the scales and zero points of the blocks are chosen, before any error is fed back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scales {
    /// Those of plain rounding, from the extremes of a block.
    Plain,
    /// Those of the least squared error of the block.
    Search,
    /// Those of the least squared error, weighted by the mean squares of the activations.
    Weighted,
    /// For each row the best after the sweep of [`Scales::Search`], [`Scales::Weighted`] and weights
    /// between the two, the roots of the mean squares. Neither of the two is best for all layers: where
    /// a few channels are much larger than all others, weights help.
    Best,
}

impl Scales {
    /// The weights that are tried, from the mean squares.
    pub(super) fn weights(self) -> &'static [fn(f32) -> f32] {
        const EQUAL: fn(f32) -> f32 = |_| 1.0;
        const SQUARES: fn(f32) -> f32 = |square| square;
        match self {
            Scales::Plain => &[],
            Scales::Search => &[EQUAL],
            Scales::Weighted => &[SQUARES],
            Scales::Best => &[EQUAL, f32::sqrt, SQUARES],
        }
    }
}

/// Options of [`gptq`](super::gptq).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GptqOptions {
    /// What is added to the diagonal of `H`, as a share of its mean: 0.01 in Frantar et al. 2022.
    /// Doubled until the factorization succeeds. What is below 0 or NaN counts as 0.
    pub damping: f64,
    /// Whether columns with large activations are quantized first. The blocks stay as they are.
    pub activation_order: bool,
    /// How scales are chosen.
    pub scales: Scales,
    /// How much of the distance that the inputs have moved the weights make up for, from 0 to 1;
    /// without a [`Cross`](super::Cross) it has no effect. 1 is best for the tokens of the calibration;
    /// for others somewhat less is as good on average, and better where the tokens are few for the
    /// channels.
    pub alpha: f32,
    /// Sweeps of coordinate descent over all codes, before each refit.
    pub sweeps: usize,
    /// How often codes are descended and the scales of a row are fitted anew.
    pub refits: usize,
}

impl Default for GptqOptions {
    fn default() -> Self {
        Self {
            damping: 0.01,
            activation_order: true,
            scales: Scales::Best,
            alpha: 0.75,
            sweeps: 2,
            refits: 2,
        }
    }
}

impl GptqOptions {
    /// The damping to begin with. Above a million it is as good as no statistics at all.
    pub(super) fn damping(&self) -> f64 {
        if self.damping.is_nan() {
            0.0
        } else {
            self.damping.clamp(0.0, 1e6)
        }
    }
}

/// What was reached. Losses are `tr(E (H + d I) E^T)` divided by the number of tokens: the squared
/// error of the layer's outputs, summed over them and averaged over tokens, plus that of the damping.
/// With a [`Cross`](super::Cross), `E` is counted from what the weights aim at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// Loss of plain rounding.
    pub plain: f64,
    /// Loss of what was written: row by row at most that of plain rounding.
    pub loss: f64,
    /// The damping, as a share of the mean diagonal element of `H`.
    pub damping: f64,
}
