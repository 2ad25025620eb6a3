//! What can be said besides the object: list options, delete options, patches.

use serde_json::{Value, json};

/// Which objects, from when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ListOptions {
    /// `None`: all namespaces, or a cluster-scoped kind.
    pub namespace: Option<String>,
    pub label_selector: Option<String>,
    pub field_selector: Option<String>,
    /// `None`: the most recent; `Some("0")`: whatever the server has at hand.
    pub resource_version: Option<String>,
    /// Items per page.
    pub limit: Option<u32>,
    pub continue_token: Option<String>,
}

impl ListOptions {
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn in_namespace(namespace: &str) -> Self {
        Self {
            namespace: Some(namespace.to_owned()),
            ..Self::default()
        }
    }

    #[must_use]
    pub fn labels(mut self, selector: &str) -> Self {
        self.label_selector = Some(selector.to_owned());
        self
    }

    #[must_use]
    pub fn fields(mut self, selector: &str) -> Self {
        self.field_selector = Some(selector.to_owned());
        self
    }

    /// Query parameters; the namespace is part of the path instead.
    #[must_use]
    pub fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut pairs = Vec::new();
        let mut push = |name, value: &Option<String>| pairs.extend(value.clone().map(|v| (name, v)));
        push("labelSelector", &self.label_selector);
        push("fieldSelector", &self.field_selector);
        push("resourceVersion", &self.resource_version);
        push("limit", &self.limit.map(|l| l.to_string()));
        push("continue", &self.continue_token);
        pairs
    }
}

/// What happens to the objects that the deleted one owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// Preconditions and manner of a delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub propagation: Option<Propagation>,
}

impl DeleteOptions {
    /// Only if the object is still this one.
    #[must_use]
    pub fn uid(uid: &str) -> Self {
        Self {
            uid: Some(uid.to_owned()),
            ..Self::default()
        }
    }

    #[must_use]
    pub fn propagation(mut self, propagation: Propagation) -> Self {
        self.propagation = Some(propagation);
        self
    }

    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut body = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if let Some(seconds) = self.grace_period_seconds {
            body["gracePeriodSeconds"] = seconds.into();
        }
        if let Some(uid) = &self.uid {
            body["preconditions"]["uid"] = uid.as_str().into();
        }
        if let Some(version) = &self.resource_version {
            body["preconditions"]["resourceVersion"] = version.as_str().into();
        }
        if let Some(propagation) = self.propagation {
            body["propagationPolicy"] = format!("{propagation:?}").into();
        }
        body.to_string().into_bytes()
    }
}

/// A change to an object, in one of the three client-side forms.
#[derive(Clone, Debug, PartialEq)]
pub enum Patch {
    /// RFC 6902.
    Json(Value),
    /// RFC 7386.
    Merge(Value),
    /// Lists with merge keys are merged by key.
    Strategic(Value),
}

impl Patch {
    #[must_use]
    pub fn body(&self) -> &Value {
        match self {
            Self::Json(body) | Self::Merge(body) | Self::Strategic(body) => body,
        }
    }

    #[must_use]
    pub fn media_type(&self) -> &'static str {
        match self {
            Self::Json(_) => "application/json-patch+json",
            Self::Merge(_) => "application/merge-patch+json",
            Self::Strategic(_) => "application/strategic-merge-patch+json",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delete_options_say_only_what_was_set() {
        let text = |o: DeleteOptions| String::from_utf8_lossy(&o.to_vec()).into_owned();
        assert_eq!(
            text(DeleteOptions::default()),
            r#"{"apiVersion":"v1","kind":"DeleteOptions"}"#
        );
        assert!(
            text(DeleteOptions::uid("u").propagation(Propagation::Foreground))
                .contains(r#""propagationPolicy":"Foreground""#)
        );
    }
}
