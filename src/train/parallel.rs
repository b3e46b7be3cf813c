//! Gradients over micro-batches, on several CPU threads at once.
//!
//! candle's element-wise operators use one thread. So whole micro-batches run in parallel, and each computes its matrix
//! products on its own thread. Sums are taken in a fixed order: the same batch on the same number of threads gives the same
//! bits.

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};
use std::collections::BTreeMap;

use super::optim::NamedGrads;

/// Threads that compute gradients.
pub struct Workers {
    pools: Vec<rayon::ThreadPool>,
}

impl Workers {
    /// `threads` single-threaded pools. A GPU needs one.
    pub fn new(threads: usize) -> Result<Self> {
        let pool = |index| {
            let builder = rayon::ThreadPoolBuilder::new().num_threads(1);
            builder.thread_name(move |_| format!("train-{index}")).build().map_err(candle_core::Error::wrap)
        };
        Ok(Self { pools: (0..threads.max(1)).map(pool).collect::<Result<_>>()? })
    }

    /// One worker per core.
    pub fn per_core() -> Result<Self> {
        Self::new(std::thread::available_parallelism().map_or(1, |n| n.get()))
    }

    /// How many items are computed at a time.
    pub fn count(&self) -> usize {
        self.pools.len()
    }

    /// Calls `work` on every item. The results are in the order of the items.
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
                .map(|handle| handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect::<Result<Vec<_>>>()
        })?;
        let mut lanes: Vec<_> = lanes.into_iter().map(Vec::into_iter).collect();
        Ok((0..items.len()).filter_map(|i| lanes[i % stride].next()).collect())
    }
}

/// The sum of one lane's gradients, and the other result of each of its items.
type Lane<T> = (NamedGrads, Vec<T>);

impl Workers {
    /// Calls `work` on every item. Returns the sum of the gradients, and the other results in the order of the items. Each
    /// thread holds one sum, not the gradients of every item.
    pub fn sum<I: Sync, T: Send>(
        &self,
        items: &[I],
        work: impl Fn(&I) -> Result<(NamedGrads, T)> + Sync,
    ) -> Result<(NamedGrads, Vec<T>)> {
        let stride = self.pools.len();
        let lane = |lane: &usize| -> Result<Lane<T>> {
            let (mut total, mut outputs) = (NamedGrads::new(), Vec::new());
            for item in items.iter().skip(*lane).step_by(stride) {
                let (grads, output) = work(item)?;
                total = sum([total, grads])?;
                outputs.push(output);
            }
            Ok((total, outputs))
        };
        let lanes: Vec<usize> = (0..stride.min(items.len())).collect();
        let (totals, outputs): (Vec<_>, Vec<_>) = self.map(&lanes, lane)?.into_iter().unzip();
        let mut outputs: Vec<_> = outputs.into_iter().map(Vec::into_iter).collect();
        let in_order = (0..items.len()).filter_map(|i| outputs[i % stride].next()).collect();
        Ok((sum(totals)?, in_order))
    }
}

/// The gradients of `loss` with respect to `vars`. Variables that the loss does not depend on are left out.
pub fn gradients(loss: &Tensor, vars: &BTreeMap<String, Var>) -> Result<NamedGrads> {
    Ok(take(&mut loss.backward()?, vars))
}

/// Takes those gradients of `vars` out of `store` that are there.
pub fn take(store: &mut GradStore, vars: &BTreeMap<String, Var>) -> NamedGrads {
    vars.iter().filter_map(|(name, var)| Some((name.clone(), store.remove(var)?))).collect()
}

/// The sum of gradients, added in the given order.
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
