//! The scripted engine gives the same guarantees as real ones.

use std::sync::Arc;

use engine::scripted::Scripted;
use engine::seed::mix_seed;
use engine::{PolicyVersion, Request};

use super::checks::{check_endings, check_groups, check_repeatable, check_versions};
use super::trainer;
use crate::fixtures::model::TinyModel;

/// Its tokens look random, and depend only on the request.
fn scripted() -> Arc<Scripted> {
    let token = |seed: u64, at: usize| 3 + (mix_seed(seed, at as u64) % 250) as u32;
    let script = move |request: &Request, index: usize, _: &PolicyVersion| {
        (0..32).map(|at| token(mix_seed(request.seed, index as u64), at)).collect()
    };
    Arc::new(Scripted::new(script).with_context(512))
}

#[tokio::test]
async fn scripted_keeps_the_guarantees() {
    let base = PolicyVersion { step: 0, adapter: engine::AdapterHash("base".into()) };
    check_groups(&scripted(), &base).await;
    check_repeatable(scripted()).await;
    check_endings(scripted()).await;
    let model = TinyModel::new();
    check_versions(scripted(), trainer(model.path()).adapter().unwrap()).await;
}
