//! Why a call failed, as data.
//!
//! Callers decide with the `is_*` questions and print with `Display`: for a refusal that is the server's own message.

use serde_json::Value;

use super::transport::TransportError;

/// A kubeconfig that cannot be used. One line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("error loading config file \"{path}\": {reason}")]
    Load { path: String, reason: String },
    #[error("preparing a connection to {server}: {reason}")]
    Client { server: String, reason: String },
}

/// The failure of one call.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The server refused: its `Status`, or one made of the HTTP code when the body was something else.
    #[error("{message}")]
    Status {
        code: u16,
        /// `NotFound`, `AlreadyExists`, `Conflict`, …; empty when the server gave none.
        reason: String,
        message: String,
        /// `Status.details`, null when absent.
        details: Value,
    },
    /// No answer, or one that broke off.
    #[error("{}", chain(.0.as_ref()))]
    Transport(TransportError),
    /// An answer that is not what was asked for.
    #[error("{0}")]
    Decode(String),
    #[error("context deadline exceeded")]
    Timeout,
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}

impl ApiError {
    /// From a non-2xx answer.
    #[must_use]
    pub fn from_body(code: u16, body: &[u8]) -> Self {
        match serde_json::from_slice::<Value>(body) {
            Ok(status) if status["kind"] == "Status" => Self::from_status(code, &status),
            _ => {
                let text = String::from_utf8_lossy(body.get(..body.len().min(512)).unwrap_or_default());
                let text = text.trim();
                let message = if text.is_empty() {
                    format!("the server answered {code}")
                } else {
                    text.to_owned()
                };
                Self::Status {
                    code,
                    reason: String::new(),
                    message,
                    details: Value::Null,
                }
            }
        }
    }

    /// From a `Status` object, for instance in a watch's ERROR event. `code` counts when the object has none.
    #[must_use]
    pub fn from_status(code: u16, status: &Value) -> Self {
        let text = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
        Self::Status {
            code: status["code"]
                .as_u64()
                .and_then(|c| u16::try_from(c).ok())
                .filter(|c| *c != 0)
                .unwrap_or(code),
            reason: text("reason"),
            message: text("message"),
            details: status["details"].clone(),
        }
    }

    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Status { code, .. } => Some(*code),
            _ => None,
        }
    }

    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Status { reason, .. } => reason,
            _ => "",
        }
    }

    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.reason() == "NotFound" || (self.reason().is_empty() && self.code() == Some(404))
    }

    /// Somebody else wrote first, or a precondition failed.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.reason() == "Conflict"
    }

    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        self.reason() == "AlreadyExists"
    }

    #[must_use]
    pub fn is_invalid(&self) -> bool {
        self.reason() == "Invalid"
    }

    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.code() == Some(403)
    }

    /// The revision that was asked for is gone: list again.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.code() == Some(410)
    }

    /// The server is behind the revision that was asked for.
    #[must_use]
    pub fn is_too_large_resource_version(&self) -> bool {
        let caused = |details: &Value| {
            details["causes"]
                .as_array()
                .is_some_and(|causes| causes.iter().any(|c| c["reason"] == "ResourceVersionTooLarge"))
        };
        matches!(self, Self::Status { code: 504, details, message, .. }
            if caused(details) || message.starts_with("Too large resource version"))
    }

    /// Whether the refusal says that the namespace is on its way out, so that creating in it is pointless.
    #[must_use]
    pub fn is_namespace_terminating(&self) -> bool {
        matches!(self, Self::Status { details, .. }
            if details["causes"].as_array().is_some_and(|causes| causes.iter().any(|c| c["reason"] == "NamespaceTerminating")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_body_becomes_its_reason_and_message() {
        let body = br#"{"kind":"Status","code":404,"reason":"NotFound","message":"pods \"a\" not found"}"#;
        let error = ApiError::from_body(404, body);
        assert!(error.is_not_found());
        assert_eq!(error.to_string(), "pods \"a\" not found");
    }

    #[test]
    fn a_body_that_is_no_status_keeps_the_code() {
        let error = ApiError::from_body(502, b"bad gateway\n");
        assert_eq!((error.code(), error.to_string()), (Some(502), "bad gateway".to_owned()));
    }
}
