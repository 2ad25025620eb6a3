//! Why a write is refused: data from which the server makes the `Status`.

/// One cause in `status.details.causes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    pub reason: String,
    pub message: String,
    pub field: String,
}

/// A plugin's refusal. The texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 403 on the object written: `pods "x" is forbidden: <why>`. The name shown is [`crate::Request::shown_name`].
    Forbidden { why: String, causes: Vec<Cause> },
    /// 403 on another object than the one written.
    ForbiddenOn {
        group: String,
        resource: String,
        name: String,
        why: String,
    },
    /// 404 for another object, or for the one written: `namespaces "x" not found`.
    NotFound {
        group: String,
        resource: String,
        name: String,
    },
    /// 409: `Operation cannot be fulfilled on …: <why>`.
    Conflict {
        group: String,
        resource: String,
        name: String,
        why: String,
    },
    /// 400.
    BadRequest(String),
    /// 422 with causes; `errors` are field errors of the object written.
    Invalid {
        group: String,
        kind: String,
        name: String,
        errors: steersman_schema::field::FieldErrors,
    },
    /// 500: `Internal error occurred: <why>`.
    Internal(String),
    /// 500 with reason ServerTimeout: a cache that is not ready, try again after so many seconds.
    ServerTimeout { why: String, retry_after: u32 },
}

impl Refusal {
    pub fn forbidden(why: impl Into<String>) -> Self {
        Self::Forbidden {
            why: why.into(),
            causes: Vec::new(),
        }
    }
}
