//! [`Status`]: the answer of every refused request, with upstream's codes, reasons and texts.
//!
//! One constructor per upstream error constructor (`apimachinery/pkg/api/errors`). Clients compare reasons and grep
//! messages, so the texts here are part of the API. A `Status` says what the client may know; what only the log may
//! know is logged where the error happened.

use serde_json::{Map, Value, json};

use crate::field::{FieldErrors, quote};

/// One cause of a refusal (`metav1.StatusCause`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// For instance `FieldValueRequired`; empty when upstream leaves it out.
    pub reason: String,
    pub message: String,
    /// The field's path, for instance `spec.containers[0].name`.
    pub field: String,
}

/// What the refusal is about (`metav1.StatusDetails`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    pub name: String,
    pub group: String,
    /// The resource's plural name, or for `Invalid` its kind.
    pub kind: String,
    pub uid: String,
    pub causes: Vec<Cause>,
    pub retry_after_seconds: i32,
}

/// A refusal (`metav1.Status`), or for deletes a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// Empty for success.
    pub reason: String,
    pub message: String,
    pub details: Option<Box<Details>>,
    /// List metadata, used by `410 Expired` to carry a continue token.
    pub continue_token: String,
    pub success: bool,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

/// `pods` for core, `deployments.apps` otherwise: how upstream prints a group and resource (or kind).
#[must_use]
pub fn qualified(group: &str, name: &str) -> String {
    if group.is_empty() {
        name.to_owned()
    } else {
        format!("{name}.{group}")
    }
}

/// Text that cannot be taken for HTML, as upstream does for user names in refusals.
#[must_use]
pub fn sanitize(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

impl Status {
    /// A failure without details.
    #[must_use]
    pub fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.to_owned(),
            message: message.into(),
            details: None,
            continue_token: String::new(),
            success: false,
        }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        self.details = Some(Box::new(Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            ..Details::default()
        }));
        self
    }

    /// Sets `details.retryAfterSeconds`, which is also sent as the `Retry-After` header.
    #[must_use]
    pub fn retry_after(mut self, seconds: i32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    #[must_use]
    pub fn with_cause(mut self, reason: &str, message: impl Into<String>, field: &str) -> Self {
        self.details.get_or_insert_default().causes.push(Cause {
            reason: reason.to_owned(),
            message: message.into(),
            field: field.to_owned(),
        });
        self
    }

    /// 200 with the deleted object's coordinates: the answer to most deletes.
    #[must_use]
    pub fn deleted(group: &str, plural: &str, name: &str, uid: &str) -> Self {
        let mut status = Self {
            success: true,
            ..Self::new(200, "", "")
        }
        .about(group, plural, name);
        uid.clone_into(&mut status.details.get_or_insert_default().uid);
        status
    }

    /// A success without details, for instance of a binding.
    #[must_use]
    pub fn success(code: u16) -> Self {
        Self {
            success: true,
            ..Self::new(code, "", "")
        }
    }

    #[must_use]
    pub fn not_found(group: &str, plural: &str, name: &str) -> Self {
        Self::new(
            404,
            "NotFound",
            format!("{} {} not found", qualified(group, plural), quote(name)),
        )
        .about(group, plural, name)
    }

    /// 404 for a path that no resource serves.
    #[must_use]
    pub fn no_such_path() -> Self {
        let mut status = Self::new(404, "NotFound", "the server could not find the requested resource");
        status.details = Some(Box::default());
        status
    }

    #[must_use]
    pub fn already_exists(group: &str, plural: &str, name: &str) -> Self {
        Self::new(
            409,
            "AlreadyExists",
            format!("{} {} already exists", qualified(group, plural), quote(name)),
        )
        .about(group, plural, name)
    }

    #[must_use]
    pub fn generate_name_conflict(group: &str, plural: &str, name: &str, retry_after_seconds: i32) -> Self {
        let message = format!(
            "{} {} already exists, the server was not able to generate a unique name for the object",
            qualified(group, plural),
            quote(name)
        );
        Self::new(409, "AlreadyExists", message)
            .about(group, plural, name)
            .retry_after(retry_after_seconds)
    }

    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// `plural` and `group` empty: a non-resource path.
    #[must_use]
    pub fn forbidden(group: &str, plural: &str, name: &str, why: &str) -> Self {
        let resource = qualified(group, plural);
        let message = if plural.is_empty() && group.is_empty() {
            format!("forbidden: {why}")
        } else if name.is_empty() {
            format!("{resource} is forbidden: {why}")
        } else {
            format!("{resource} {} is forbidden: {why}", quote(name))
        };
        Self::new(403, "Forbidden", message).about(group, plural, name)
    }

    #[must_use]
    pub fn conflict(group: &str, plural: &str, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {}: {why}",
            qualified(group, plural),
            quote(name)
        );
        Self::new(409, "Conflict", message).about(group, plural, name)
    }

    /// The conflict of a stale `resourceVersion`.
    #[must_use]
    pub fn modified(group: &str, plural: &str, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, plural, name, why)
    }

    #[must_use]
    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, "Gone", message)
    }

    #[must_use]
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// Every fault of an object, one cause each.
    #[must_use]
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &FieldErrors) -> Self {
        let mut texts: Vec<String> = Vec::with_capacity(errors.len());
        for error in errors {
            let text = error.to_string();
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let what = format!("{} {} is invalid", qualified(group, kind), quote(name));
        let message = match texts.as_slice() {
            [] => what,
            [one] => format!("{what}: {one}"),
            many => format!("{what}: [{}]", many.join(", ")),
        };
        let mut status = Self::new(422, "Invalid", message).about(group, kind, name);
        status.details.get_or_insert_default().causes = errors
            .iter()
            .map(|error| Cause {
                reason: error.cause_reason().to_owned(),
                message: error.body(),
                field: error.field.clone(),
            })
            .collect();
        status
    }

    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    #[must_use]
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: i32) -> Self {
        Self::new(429, "TooManyRequests", message).retry_after(retry_after_seconds)
    }

    #[must_use]
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// A verb that the resource does not have, upstream's wording inside the registry.
    #[must_use]
    pub fn method_not_supported(group: &str, plural: &str, action: &str) -> Self {
        let message = format!(
            "{action} is not supported on resources of kind {}",
            quote(&qualified(group, plural))
        );
        Self::new(405, "MethodNotAllowed", message).about(group, plural, "")
    }

    /// A method that no route of the path has: upstream's router answers before any handler.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        let mut status = Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        );
        status.details = Some(Box::default());
        status
    }

    #[must_use]
    pub fn server_timeout(group: &str, plural: &str, operation: &str, retry_after_seconds: i32) -> Self {
        let message = format!(
            "The {operation} operation against {} could not be completed at this time, please try again.",
            qualified(group, plural)
        );
        Self::new(500, "ServerTimeout", message)
            .about(group, plural, operation)
            .retry_after(retry_after_seconds)
    }

    #[must_use]
    pub fn internal(why: impl std::fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {why}")).with_cause("", why.to_string(), "")
    }

    /// 504; the message is prefixed with `Timeout: `.
    #[must_use]
    pub fn timeout(message: &str, retry_after_seconds: i32) -> Self {
        Self::new(504, "Timeout", format!("Timeout: {message}")).retry_after(retry_after_seconds)
    }

    /// A read that asks for a revision the server has not seen, after it waited.
    #[must_use]
    pub fn too_large_resource_version(wanted: i64, current: i64) -> Self {
        Self::timeout(&format!("Too large resource version: {wanted}, current: {current}"), 1).with_cause(
            "ResourceVersionTooLarge",
            "Too large resource version",
            "",
        )
    }

    /// `accepted` lists the media types the endpoint takes.
    #[must_use]
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let accepted = accepted.join(", ");
        let message =
            format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
        Self::new(415, "UnsupportedMediaType", message)
    }

    #[must_use]
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let accepted = accepted.join(", ");
        Self::new(
            406,
            "NotAcceptable",
            format!("only the following media types are accepted: {accepted}"),
        )
    }

    /// 406 for a conversion (`Table`, `PartialObjectMetadata`) that this encoding or resource does not have.
    #[must_use]
    pub fn not_acceptable_conversion(target: &str, accepted: &[&str]) -> Self {
        let accepted = accepted.join(", ");
        let message = format!("only the following media types are accepted when converting to {target}: {accepted}");
        Self::new(406, "NotAcceptable", message)
    }

    #[must_use]
    pub fn request_entity_too_large(message: &str) -> Self {
        Self::new(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: {message}"),
        )
    }

    /// The object on the wire, with `apiVersion: v1` and `kind: Status`.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut metadata = Map::new();
        if !self.continue_token.is_empty() {
            metadata.insert("continue".into(), json!(self.continue_token));
        }
        let mut out = Map::new();
        out.insert("apiVersion".into(), json!("v1"));
        out.insert("kind".into(), json!("Status"));
        out.insert("metadata".into(), Value::Object(metadata));
        out.insert("status".into(), json!(if self.success { "Success" } else { "Failure" }));
        if !self.message.is_empty() {
            out.insert("message".into(), json!(self.message));
        }
        if !self.reason.is_empty() {
            out.insert("reason".into(), json!(self.reason));
        }
        if let Some(details) = &self.details {
            out.insert("details".into(), details.to_value());
        }
        if !self.success || self.code != 200 {
            out.insert("code".into(), json!(self.code));
        }
        Value::Object(out)
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut out = Map::new();
        for (key, text) in [
            ("name", &self.name),
            ("group", &self.group),
            ("kind", &self.kind),
            ("uid", &self.uid),
        ] {
            if !text.is_empty() {
                out.insert(key.into(), json!(text));
            }
        }
        if !self.causes.is_empty() {
            out.insert("causes".into(), self.causes.iter().map(Cause::to_value).collect());
        }
        if self.retry_after_seconds != 0 {
            out.insert("retryAfterSeconds".into(), json!(self.retry_after_seconds));
        }
        Value::Object(out)
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut out = Map::new();
        for (key, text) in [
            ("reason", &self.reason),
            ("message", &self.message),
            ("field", &self.field),
        ] {
            if !text.is_empty() {
                out.insert(key.into(), json!(text));
            }
        }
        Value::Object(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_upstreams() {
        let modified = concat!(
            "Operation cannot be fulfilled on pods \"x\": the object has been modified; ",
            "please apply your changes to the latest version and try again"
        );
        let cases = [
            (Status::not_found("", "pods", "x"), r#"pods "x" not found"#),
            (
                Status::already_exists("apps", "deployments", "x"),
                r#"deployments.apps "x" already exists"#,
            ),
            (Status::forbidden("", "", "", "no"), "forbidden: no"),
            (Status::forbidden("", "pods", "", "no"), "pods is forbidden: no"),
            (Status::modified("", "pods", "x"), modified),
            (
                Status::too_large_resource_version(9, 5),
                "Timeout: Too large resource version: 9, current: 5",
            ),
        ];
        for (status, text) in cases {
            assert_eq!(status.message, text);
        }
    }

    #[test]
    fn a_deletes_success_has_no_code() {
        let value = Status::deleted("", "configmaps", "a", "u-1").to_value();
        assert_eq!(value["status"], "Success");
        assert_eq!(value["details"]["uid"], "u-1");
        assert!(value.get("code").is_none());
    }
}
