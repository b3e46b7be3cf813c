//! The arithmetic of a forward pass on a CPU, in f32, with the vector instructions that the machine has (pulp).
//!
//! Activations are stored feature by feature: an array (F × N) holds one feature of all N rows of a batch next to each
//! other, where N is a multiple of [`LANES`]. Weights stay as they are in the files (out × in), shared with the
//! trainer. A product then multiplies one weight with [`LANES`] rows at once: nothing is packed, and no sum crosses
//! lanes.
//!
//! Invariant: every row is computed by the same operations in the same order, whatever else is in the batch and however
//! the work is split. So a sequence gives the same bits alone and in any batch.
//!
//! - `matmul.rs` products · `attend.rs` attention of one query · `elementwise.rs` norms, rotations, SwiGLU

mod attend;
mod elementwise;
mod matmul;
mod split;
#[cfg(test)]
mod test_data;

pub use crate::math::LANES;
pub use attend::{Context, attend};
pub use elementwise::{add_bias, rms_norm, rope, swiglu};
pub use matmul::matmul;
pub use split::Split;
