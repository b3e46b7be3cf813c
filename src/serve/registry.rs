//! The adapters that are loaded, by name.

use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;
use engine::AdapterHash;
use engine::native::Policy;

use super::error::Refused;

/// Names that a trainer gives. It never uses one again, so the oldest may give way to a new one.
const OF_A_TRAINER: &str = "dump-rl-";

/// See the module.
pub struct Registry {
    most: usize,
    loaded: Mutex<Loaded>,
}

#[derive(Default)]
struct Loaded {
    entries: Vec<Entry>,
    clock: u64,
}

struct Entry {
    name: String,
    policy: Policy,
    last_used: u64,
}

impl Registry {
    /// For at most that many adapters.
    pub fn new(most: usize) -> Self {
        Self { most, loaded: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The adapter of this name, for a request.
    pub fn get(&self, name: &str) -> Option<Policy> {
        let mut loaded = self.lock();
        loaded.clock += 1;
        let clock = loaded.clock;
        let entry = loaded.entries.iter_mut().find(|entry| entry.name == name)?;
        entry.last_used = clock;
        Some(entry.policy.clone())
    }

    /// Every name with the hash of its adapter, in the order of loading.
    pub fn list(&self) -> Vec<(String, AdapterHash)> {
        let loaded = self.lock();
        loaded.entries.iter().map(|entry| (entry.name.clone(), entry.policy.version().adapter.clone())).collect()
    }

    /// Loads an adapter under a name. The same adapter under the same name again changes nothing. If there is no room, the
    /// adapter of a trainer that was used longest ago, and that no request uses, gives way.
    ///
    /// # Errors
    /// Another adapter has the name, or there is no room.
    pub fn insert(&self, name: &str, policy: Policy) -> Result<(), Refused> {
        let mut loaded = self.lock();
        loaded.clock += 1;
        if let Some(entry) = loaded.entries.iter().find(|entry| entry.name == name) {
            return match entry.policy.version().adapter == policy.version().adapter {
                true => Ok(()),
                false => Err(Refused::parameter(
                    "lora_name",
                    format!("{name} is the name of another adapter that is loaded"),
                )),
            };
        }
        if loaded.entries.len() >= self.most {
            let idle = loaded.entries.iter().enumerate();
            let idle = idle.filter(|(_, entry)| entry.name.starts_with(OF_A_TRAINER) && !entry.policy.is_used());
            let oldest = idle.min_by_key(|(_, entry)| entry.last_used).map(|(index, _)| index);
            match oldest {
                Some(index) => drop(loaded.entries.remove(index)),
                None => {
                    let names: Vec<&str> = loaded.entries.iter().map(|entry| entry.name.as_str()).collect();
                    let message = format!(
                        "{} adapters are loaded (--max-adapters); unload one of {}",
                        self.most,
                        names.join(", ")
                    );
                    return Err(Refused::new(StatusCode::BAD_REQUEST, message));
                }
            }
        }
        let last_used = loaded.clock;
        loaded.entries.push(Entry { name: name.into(), policy, last_used });
        Ok(())
    }

    /// Unloads an adapter. Requests that use it are answered under it. `false` if none has the name.
    pub fn remove(&self, name: &str) -> bool {
        let mut loaded = self.lock();
        let before = loaded.entries.len();
        loaded.entries.retain(|entry| entry.name != name);
        loaded.entries.len() < before
    }
}
