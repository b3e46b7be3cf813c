//! An adapter as the form that `dump-rl serve` takes.

use std::convert::Infallible;
use std::sync::Arc;

use futures_util::stream;
use reqwest::multipart::{Form, Part};

use crate::Adapter;
use crate::adapter::{ADAPTER, ADAPTER_CONFIG};
use crate::remote::{Failure, FailureKind};

/// How much of an adapter is copied at a time: there may be many servers.
const PIECE: usize = 1 << 20;

pub fn form(policy: &str, adapter: &Adapter) -> Result<Form, Failure> {
    let config = serde_json::to_vec(&*adapter.config)
        .map_err(|e| Failure::new(FailureKind::Refused, format!("{ADAPTER_CONFIG}: {e}")))?;
    let tensors = Part::stream_with_length(
        reqwest::Body::wrap_stream(stream::iter(pieces(&adapter.bytes))),
        adapter.bytes.len() as u64,
    );
    Ok(Form::new()
        .text("lora_name", policy.to_string())
        .part("adapter_config", Part::bytes(config).file_name(ADAPTER_CONFIG))
        .part("adapter_model", tensors.file_name(ADAPTER)))
}

fn pieces(bytes: &Arc<[u8]>) -> impl Iterator<Item = Result<Vec<u8>, Infallible>> + Send + use<> {
    let bytes = bytes.clone();
    (0..bytes.len().div_ceil(PIECE)).map(move |piece| {
        let from = piece * PIECE;
        Ok(bytes[from..bytes.len().min(from + PIECE)].to_vec())
    })
}
