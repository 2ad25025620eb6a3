//! May this user do this? One question ([`Attributes`]), one answer ([`Outcome`]), several authorizers asked in order.
//!
//! The request path, the review APIs and the admission plugins ask through [`Authorizer`]. What stays true: an
//! authorizer never waits and never changes anything; no opinion from all of them means no.

pub mod node;
pub mod rbac;

use std::borrow::Cow;
use std::sync::Arc;

use steersman_schema::field::quote;
use steersman_schema::status::{Status, sanitize};

use crate::user::{MASTERS, User};

/// One requirement of a label or field selector, as the authorizer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist` for labels; `=` is `In` with one value, `!=` is `NotIn` with one.
    pub operator: &'static str,
    pub values: Vec<String>,
}

/// What is asked. Resource requests fill group to name; all others fill `path`.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    pub user: User,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, `impersonate`, …; the lower-case HTTP
    /// method for non-resource requests.
    pub verb: String,
    pub resource_request: bool,
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
    /// Empty for cluster-scoped requests and for lists over all namespaces.
    pub namespace: String,
    pub name: String,
    /// The URL's path; only for non-resource requests.
    pub path: String,
    /// What parsed of `fieldSelector`; empty when there is none or when it does not parse.
    pub field_selector: Vec<Requirement>,
    pub label_selector: Vec<Requirement>,
}

/// The answer of one authorizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow,
    /// No, and nobody else is asked.
    Deny,
    /// Ask the next one; if there is none, no.
    NoOpinion,
}

/// A decision with its reasons: what the audit log, the 403 text and SubjectAccessReview show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub decision: Decision,
    pub reason: Reason,
    /// Trouble while deciding (for instance a role that a binding names and that does not exist).
    pub error: Option<String>,
}

/// A reason's text: fixed, or shared with the index it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    Text(Cow<'static, str>),
    Shared(Arc<str>),
}

impl Reason {
    pub fn as_str(&self) -> &str {
        match self {
            Self::Text(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl Default for Reason {
    fn default() -> Self {
        Self::Text(Cow::Borrowed(""))
    }
}

impl Outcome {
    pub fn allow(reason: Reason) -> Self {
        Self {
            decision: Decision::Allow,
            reason,
            error: None,
        }
    }

    pub fn no_opinion(reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            decision: Decision::NoOpinion,
            reason: Reason::Text(reason.into()),
            error: None,
        }
    }

    pub fn allowed(&self) -> bool {
        self.decision == Decision::Allow
    }
}

/// One rule that a user holds, as SelfSubjectRulesReview lists them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub groups: Vec<String>,
    pub resources: Vec<String>,
    pub resource_names: Vec<String>,
    pub paths: Vec<String>,
}

/// What a user may do in one namespace.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    pub rules: Vec<Rule>,
    /// Whether the list lacks rules that an authorizer cannot enumerate.
    pub incomplete: bool,
    pub error: Option<String>,
}

/// Decides, from memory, at once.
pub trait Authorizer: Send + Sync {
    fn authorize(&self, what: &Attributes) -> Outcome;
    /// The rules that a user holds in a namespace (empty: cluster-wide rules alone).
    fn rules_for(&self, user: &User, namespace: &str) -> Rules;
}

/// Asks authorizers in order until one allows or denies (upstream: union authorizer), `system:masters` before all.
pub struct Union {
    members: Vec<Arc<dyn Authorizer>>,
}

impl Union {
    pub fn new(members: Vec<Arc<dyn Authorizer>>) -> Self {
        Self { members }
    }
}

impl Authorizer for Union {
    fn authorize(&self, what: &Attributes) -> Outcome {
        if what.user.has_group(MASTERS) {
            return Outcome::allow(Reason::default());
        }
        let (mut reasons, mut errors) = (Vec::new(), Vec::new());
        for member in &self.members {
            let outcome = member.authorize(what);
            match outcome.decision {
                Decision::Allow | Decision::Deny => return outcome,
                Decision::NoOpinion => {
                    if !outcome.reason.as_str().is_empty() {
                        reasons.push(outcome.reason.as_str().to_owned());
                    }
                    errors.extend(outcome.error);
                }
            }
        }
        Outcome {
            decision: Decision::NoOpinion,
            reason: Reason::Text(reasons.join("\n").into()),
            error: aggregate(errors),
        }
    }

    fn rules_for(&self, user: &User, namespace: &str) -> Rules {
        let (mut all, mut errors) = (Rules::default(), Vec::new());
        for member in &self.members {
            let part = member.rules_for(user, namespace);
            all.rules.extend(part.rules);
            all.incomplete |= part.incomplete;
            errors.extend(part.error);
        }
        all.error = aggregate(errors);
        all
    }
}

/// The 403 of a request that nobody allowed (upstream: `ForbiddenStatusError`).
pub fn forbidden(what: &Attributes, reason: &str) -> Status {
    let user = quote(&what.user.name);
    let verb = &what.verb;
    let text = if what.resource_request {
        let resource = match what.subresource.as_str() {
            "" => what.resource.clone(),
            subresource => format!("{}/{subresource}", what.resource),
        };
        let place = match what.namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {}", quote(namespace)),
        };
        let (resource, group) = (quote(&resource), quote(&what.group));
        format!("User {user} cannot {verb} resource {resource} in API group {group} {place}")
    } else {
        format!("User {user} cannot {verb} path {}", quote(&what.path))
    };
    let text = sanitize(&text);
    let why = if reason.is_empty() {
        text
    } else {
        format!("{text}: {reason}")
    };
    Status::forbidden(&what.group, &what.resource, &what.name, &why)
}

/// Several errors in one text, as upstream's aggregate prints them: one alone, more in brackets, repeated ones once.
pub(crate) fn aggregate(mut errors: Vec<String>) -> Option<String> {
    let mut seen = std::collections::BTreeSet::new();
    errors.retain(|e| seen.insert(e.clone()));
    match errors.len() {
        0 => None,
        1 => errors.pop(),
        _ => Some(format!("[{}]", errors.join(", "))),
    }
}
