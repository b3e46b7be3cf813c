//! The bytes of a request, within limits.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use hyper::body::{Frame, SizeHint};
use tokio::runtime::Handle;

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

/// The request, whose body is read to its end by `most` further bytes also if it is refused. A connection that is closed while its
/// client still sends loses the answer.
pub fn read_to_the_end(request: Request, most: usize) -> Request {
    request.map(|body| Body::new(ReadToTheEnd { body, most }))
}

/// Where this is dropped, the rest of the body is read and forgotten.
struct ReadToTheEnd {
    body: Body,
    most: usize,
}

impl HttpBody for ReadToTheEnd {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ReadToTheEnd {
    fn drop(&mut self) {
        let body = std::mem::take(&mut self.body);
        if body.is_end_stream() {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(tokio::time::timeout(PATIENCE, forget(body, self.most)));
        }
    }
}

/// Reads at most `most` bytes, and a piece.
async fn forget(mut body: Body, most: usize) {
    let mut read = 0;
    while read <= most
        && let Some(Ok(frame)) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
    {
        read += frame.data_ref().map_or(0, Bytes::len);
    }
}
