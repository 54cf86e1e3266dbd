//! Why a request is not answered, in the words of each interface.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::super::reply::Failed;
use super::super::scheduler::{Refusal, Status};

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub status: StatusCode,
    pub message: String,
    /// The field that it is about.
    pub field: Option<String>,
    pub code: Option<&'static str>,
    /// Seconds after which to try again.
    pub retry_after: Option<u64>,
}

/// Whose form an error has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    OpenAi,
    Tgi,
}

impl Problem {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            field: None,
            code: None,
            retry_after: None,
        }
    }

    /// A field of the request that cannot be used.
    pub fn field(name: &str, message: impl std::fmt::Display) -> Self {
        Self {
            field: Some(name.to_owned()),
            ..Self::new(StatusCode::BAD_REQUEST, format!("{name}: {message}"))
        }
    }

    pub fn with_code(self, code: &'static str) -> Self {
        Self {
            code: Some(code),
            ..self
        }
    }

    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "service_unavailable_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The body of the response.
    pub fn body(&self, style: Style) -> Value {
        match style {
            Style::OpenAi => json!({"error": {
                "message": self.message,
                "type": self.kind(),
                "param": self.field,
                "code": self.code,
            }}),
            Style::Tgi => json!({
                "error": self.message,
                "error_type": match self.status {
                    StatusCode::TOO_MANY_REQUESTS => "overloaded",
                    StatusCode::SERVICE_UNAVAILABLE => "unhealthy",
                    status if status.is_server_error() => "generation",
                    _ => "validation",
                },
            }),
        }
    }

    /// The response.
    pub fn response(&self, style: Style) -> Response {
        let status = match (style, self.status) {
            // TGI's codes for the same.
            (Style::Tgi, StatusCode::BAD_REQUEST) => StatusCode::UNPROCESSABLE_ENTITY,
            (Style::Tgi, StatusCode::INTERNAL_SERVER_ERROR) => StatusCode::FAILED_DEPENDENCY,
            (_, status) => status,
        };
        let mut response = (status, Json(self.body(style))).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer");
            headers.insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Busy(seconds) => Self {
                retry_after: Some(seconds),
                ..Self::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "too many requests wait; try again later",
                )
            },
            Refusal::Not(status) => Self {
                retry_after: Some(match status {
                    Status::Loading => 5,
                    _ => 30,
                }),
                ..Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    match status {
                        Status::Loading => "the model is being loaded or compiled",
                        Status::Draining => "the server is shutting down",
                        Status::Failed | Status::Ready => "the devices have failed",
                    },
                )
            },
        }
    }
}

impl From<Failed> for Problem {
    fn from(failed: Failed) -> Self {
        match failed.argument {
            Some(argument) => Self {
                field: Some(argument),
                ..Self::new(StatusCode::BAD_REQUEST, failed.message)
            },
            None => Self::new(StatusCode::INTERNAL_SERVER_ERROR, failed.message),
        }
    }
}
