//! Requests that are not answered as asked, and why.

use axum::http::header::{CONNECTION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::Refused;
use crate::job::JobError;
use crate::json::json;
use crate::picture::PictureError;

/// What a refused request gets: `{"error": "..."}`, as the Open Inference Protocol has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    status: StatusCode,
    message: String,
    /// Seconds after which it may be different.
    retry_after: Option<u64>,
}

/// Why a request was refused.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// What was found, what was expected, and what to do.
    error: String,
}

impl Refusal {
    /// Refused with a status, for a reason.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            retry_after: None,
        }
    }

    /// 422: the request is understood, and cannot be done.
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, message)
    }

    /// 400: the request is not understood.
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 413: the body is too large.
    pub fn too_large(most: usize) -> Self {
        let message = format!("the body is larger than the limit of {most} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    /// The same, to be tried again after so many seconds.
    pub fn retry_after(self, seconds: f64) -> Self {
        Self {
            retry_after: Some(seconds.ceil().clamp(1.0, 3600.0) as u64),
            ..self
        }
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Why.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = ErrorBody {
            error: self.message,
        };
        let mut response = json(self.status, &body);
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // What is left of a body is not read: the connection cannot go on.
        if self.status == StatusCode::PAYLOAD_TOO_LARGE
            || self.status == StatusCode::REQUEST_TIMEOUT
        {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl From<PictureError> for Refusal {
    fn from(error: PictureError) -> Self {
        let status = match &error {
            PictureError::Format { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            PictureError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::new(status, error.to_string())
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let message = refused.to_string();
        match refused {
            Refused::Full { wait, most } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, message).retry_after(wait - most)
            }
            Refused::Closing => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, message).retry_after(5.0)
            }
        }
    }
}

impl From<JobError> for Refusal {
    fn from(error: JobError) -> Self {
        let message = error.to_string();
        match error {
            JobError::Picture(error) => error.into(),
            JobError::NotFinite(_) => Self::unprocessable(message),
            JobError::Late => Self::new(StatusCode::SERVICE_UNAVAILABLE, message).retry_after(1.0),
            JobError::Failed => Self::new(StatusCode::INTERNAL_SERVER_ERROR, message),
        }
    }
}
