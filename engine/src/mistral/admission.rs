//! What a sequence holds while it is in a model.

use super::slots::Slot;
use super::wave::Ticket;

/// A slot on a CPU, or a wave's ticket on a GPU; given back on drop.
pub enum Admission {
    Slot(#[expect(dead_code, reason = "held")] Slot),
    Wave(Ticket),
}

impl Admission {
    /// Must be called at each draw, with the length of prompt and completion so far.
    pub fn drawn(&self, context: usize) {
        match self {
            Admission::Slot(_) => {}
            Admission::Wave(ticket) => ticket.drawn(context),
        }
    }
}
