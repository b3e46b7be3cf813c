//! What is refused, in OpenAI's form: `{"error": {"message", "type", "param", "code"}}`.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use engine::EngineError;
use serde_json::json;

/// Why a request is not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub status: StatusCode,
    pub message: String,
    /// The parameter at fault.
    pub parameter: Option<String>,
}

impl Refused {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), parameter: None }
    }

    /// A parameter with a wrong value.
    pub fn parameter(name: &str, problem: impl std::fmt::Display) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: format!("{name}: {problem}"), parameter: Some(name.into()) }
    }

    /// No model or adapter has this name.
    pub fn unknown_model(name: &str) -> Self {
        let shown: String = name.chars().take(100).collect();
        let message = format!("model {shown:?} does not exist; GET /v1/models lists those that do");
        Self { parameter: Some("model".into()), ..Self::new(StatusCode::NOT_FOUND, message) }
    }
}

impl From<EngineError> for Refused {
    fn from(error: EngineError) -> Self {
        let status = match error {
            EngineError::PromptLength { .. } | EngineError::Adapter(_) => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            404 => "not_found_error",
            503 => "overloaded_error",
            status if status < 500 => "invalid_request_error",
            _ => "server_error",
        };
        let error =
            json!({"message": self.message, "type": kind, "param": self.parameter, "code": self.status.as_u16()});
        let mut response = (self.status, Json(json!({ "error": error }))).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
