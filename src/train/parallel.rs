//! Gradients over micro-batches, on several CPU threads at once.
//!
//! candle's element-wise operators use one thread, so whole micro-batches run side by side, each with matrix products on
//! its own thread. The sums are taken in a fixed order: the same batch on the same number of threads gives the same bits.

use candle_core::{Result, Tensor, Var};
use std::collections::BTreeMap;

use super::optim::NamedGrads;

/// Threads that compute gradients.
pub struct Workers {
    pools: Vec<rayon::ThreadPool>,
}

impl Workers {
    /// `threads` single-threaded pools (on a GPU one is right).
    pub fn new(threads: usize) -> Result<Self> {
        let pool = |index| {
            let builder = rayon::ThreadPoolBuilder::new().num_threads(1);
            builder.thread_name(move |_| format!("train-{index}")).build().map_err(candle_core::Error::wrap)
        };
        Ok(Self { pools: (0..threads.max(1)).map(pool).collect::<Result<_>>()? })
    }

    /// One worker a core.
    pub fn per_core() -> Result<Self> {
        Self::new(std::thread::available_parallelism().map_or(1, |n| n.get()))
    }

    /// `work` on every item; results in the order of the items.
    pub fn map<I: Sync, T: Send>(&self, items: &[I], work: impl Fn(&I) -> Result<T> + Sync) -> Result<Vec<T>> {
        if items.len() == 1 || self.pools.len() == 1 {
            return items.iter().map(work).collect();
        }
        let stride = self.pools.len();
        let lane = |lane: usize| -> Result<Vec<T>> { items.iter().skip(lane).step_by(stride).map(&work).collect() };
        let lanes = std::thread::scope(|scope| {
            let spawn = |(index, pool)| {
                let lane = &lane;
                scope.spawn(move || rayon::ThreadPool::install(pool, || lane(index)))
            };
            let handles: Vec<_> = self.pools.iter().enumerate().map(spawn).collect();
            handles
                .into_iter()
                .map(|handle| handle.join().expect("a gradient thread panicked"))
                .collect::<Result<Vec<_>>>()
        })?;
        let mut lanes: Vec<_> = lanes.into_iter().map(Vec::into_iter).collect();
        Ok((0..items.len()).filter_map(|i| lanes[i % stride].next()).collect())
    }
}

/// The gradients of `loss` with respect to `vars`; a variable that the loss does not reach is left out.
pub fn gradients(loss: &Tensor, vars: &BTreeMap<String, Var>) -> Result<NamedGrads> {
    let mut store = loss.backward()?;
    Ok(vars.iter().filter_map(|(name, var)| Some((name.clone(), store.remove(var)?))).collect())
}

/// The sum of gradients, in the order given.
pub fn sum(parts: impl IntoIterator<Item = NamedGrads>) -> Result<NamedGrads> {
    let mut total = NamedGrads::new();
    for part in parts {
        for (name, grad) in part {
            let sum = match total.get(&name) {
                Some(before) => (before + grad)?,
                None => grad,
            };
            total.insert(name, sum);
        }
    }
    Ok(total)
}
