//! Constants as passes see them: through the nodes that only rename, cast or rearrange
//! them, and as the recipes that quantize them or make them narrower.

mod constant;
mod evaluated;
mod matrix;
mod narrow;
mod recipe;
mod trace;
mod transposed;

#[cfg(feature = "eval")]
pub(crate) use constant::float_data;
pub use constant::{float_elements, int_elements, source_tensor};
pub use evaluated::{evaluated, streamed};
pub use matrix::{Layout, MatrixView};
pub use narrow::{HalfRecipes, count_beyond_half};
pub use recipe::{CODES, QuantizeBlocks, SCALES, ZERO_POINTS};
#[cfg(feature = "eval")]
pub(crate) use trace::target_dims;
pub use trace::{Untraceable, Weight, rearranges, trace};
pub use transposed::transposed;
