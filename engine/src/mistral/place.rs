//! A sequence's place in a model.

use super::slots::Slot;
use super::wave::Ticket;

/// Where a sequence is in a model; given back on drop.
pub enum Place {
    Slot(#[expect(dead_code, reason = "held")] Slot),
    Wave(Ticket),
}

impl Place {
    /// To be called at each draw behind `context` tokens.
    pub fn drawn(&self, context: usize) {
        match self {
            Place::Slot(_) => {}
            Place::Wave(ticket) => ticket.drawn(context),
        }
    }
}
