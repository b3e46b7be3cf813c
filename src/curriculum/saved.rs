//! What policies and choices of rows have learnt, as JSON in a checkpoint.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Everything a policy has learnt, as it is saved. JSON text keeps every bit of its numbers.
pub trait Learnt: Serialize + DeserializeOwned {
    /// The number of arms that it is about.
    fn arms(&self) -> usize;
}

/// One entry per arm and nothing else.
impl<T: Serialize + DeserializeOwned> Learnt for Vec<T> {
    fn arms(&self) -> usize {
        self.len()
    }
}

/// For `Policy::save` and its like.
pub fn to_json(learnt: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(learnt).expect("this is a bug: numbers and lists always serialise")
}

/// For `Policy::load` and its like.
pub fn from_json<T: DeserializeOwned>(saved: serde_json::Value) -> Result<T, String> {
    serde_json::from_value(saved).map_err(|error| format!("not this policy's state: {error}"))
}

/// Refuses a saved state of another number of arms.
pub fn same_arms(saved: &impl Learnt, own: &impl Learnt) -> Result<(), String> {
    match saved.arms() == own.arms() {
        true => Ok(()),
        false => Err(format!("the state is of {} distributions, the data has {}", saved.arms(), own.arms())),
    }
}

/// For `Policy::load`: replaces `own` by the saved state. On an error nothing has changed.
pub fn load_into<T: Learnt>(own: &mut T, saved: serde_json::Value) -> Result<(), String> {
    let saved = from_json(saved)?;
    same_arms(&saved, own)?;
    *own = saved;
    Ok(())
}
