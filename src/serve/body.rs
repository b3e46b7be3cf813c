//! The bytes of a request, within limits.

use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::StatusCode;

use super::error::Refused;

/// The longest body of a request in JSON.
pub const BODY: usize = 16 << 20;
/// How long a client may take to send it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The bytes of a body.
///
/// # Errors
/// One that is longer than `most`, or is not sent in time.
pub async fn body(body: Body, most: usize) -> Result<Bytes, Refused> {
    match tokio::time::timeout(PATIENCE, to_bytes(body, most)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(Refused::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {most} bytes"))),
        Err(_) => Err(Refused::new(StatusCode::REQUEST_TIMEOUT, "the body was not sent in time")),
    }
}
