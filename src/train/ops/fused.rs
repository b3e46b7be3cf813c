//! The operators of [`super`] for f32 on a CPU: one pass over slices forward, and one backward. One operator per file.

mod attention;
mod head;
mod linear;
mod log_softmax;
mod rms_norm;
mod rope;
mod swiglu;
mod values;

pub use self::attention::attention;
pub use self::head::{FUSED_LOGITS, head_log_probs};
pub use self::linear::linear;
pub use self::log_softmax::log_softmax_gather;
pub use self::rms_norm::rms_norm;
pub use self::rope::rope;
pub use self::swiglu::swiglu;
