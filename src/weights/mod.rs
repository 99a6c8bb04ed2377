//! Constants as passes see them: through the nodes that only rename, cast or rearrange
//! them, and as the recipes that quantize them, scale them or make them narrower.

mod calibrated;
mod chosen;
mod constant;
mod eight_bits;
mod evaluated;
mod floats;
mod linear_blocks;
mod matrix;
mod narrow;
mod reader;
mod recipe;
mod scale;
mod trace;
mod transposed;

pub use calibrated::{Blocks, Calibrated, WeightKey};
pub use chosen::Chosen;
#[cfg(feature = "eval")]
pub(crate) use constant::float_data;
pub use constant::{float_elements, has_nonfinite, int_elements, small_elements, source_tensor};
pub use eight_bits::{EightBits, channels_of};
pub use evaluated::{evaluated, steps, streamed};
pub use floats::{float_tensor, read_floats, small_floats};
pub use linear_blocks::QuantizeLinearBlocks;
pub use matrix::{Layout, MatrixView};
pub use narrow::{Beyond, HALF_MAX, HalfRecipes, HalfScans};
pub use recipe::{CODES, QuantizeBlocks, SCALES, ZERO_POINTS};
pub use scale::{Channels, ScaleChannels};
#[cfg(feature = "eval")]
pub(crate) use trace::target_dims;
pub use trace::{Untraceable, Weight, rearranges, trace};
pub use transposed::transposed;
