//! Role-based access control, answered from an index: subject -> bindings -> role -> rules.
//!
//! A request looks up its user name and its groups among the cluster's bindings and its namespace's, and tries the rules
//! of the roles they name; nothing is parsed or listed per request. The server feeds the index as a [`Follower`]. A
//! binding whose role does not exist grants nothing and says so in the reason, as upstream does. This index decides
//! nothing about who may write roles: that is [`escalation`].

pub mod escalation;
mod rule;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serde_json::Value;

pub use rule::rules_of;
pub(crate) use rule::{missing, quoted};

use super::{Attributes, Authorizer, Decision, Outcome, Reason, Rule, Rules, aggregate};
use crate::lister::{Follower, items, text};
use crate::user::{SERVICE_ACCOUNT_PREFIX, User};

pub const GROUP: &str = "rbac.authorization.k8s.io";

/// The RBAC authorizer.
#[derive(Default)]
pub struct Rbac {
    index: RwLock<Index>,
}

#[derive(Default)]
struct Index {
    cluster_roles: HashMap<String, Arc<[Rule]>>,
    roles: HashMap<String, HashMap<String, Arc<[Rule]>>>,
    cluster: Scope,
    namespaces: HashMap<String, Scope>,
}

/// The bindings of the cluster, or of one namespace, by subject.
#[derive(Default)]
struct Scope {
    users: HashMap<String, Vec<Grant>>,
    groups: HashMap<String, Vec<Grant>>,
    /// The subjects under which each binding is entered, to take it out again.
    entered: HashMap<Arc<str>, Vec<Subject>>,
}

/// One subject of one binding.
#[derive(Clone)]
struct Grant {
    binding: Arc<str>,
    role: Arc<RoleRef>,
    reason: Arc<str>,
}

struct RoleRef {
    kind: String,
    name: String,
}

#[derive(Clone, PartialEq, Eq)]
enum Subject {
    User(String),
    Group(String),
}

impl Rbac {
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls `visit` with each rule that the user holds, and with each error met on the way, until it returns false. A rule
    /// is visited once per binding, whichever of the binding's subjects match.
    fn visit(&self, user: &User, namespace: &str, mut visit: impl FnMut(Result<(&Rule, &Grant), String>) -> bool) {
        let index = self.index.read();
        let scopes = [
            Some((&index.cluster, "")),
            index.namespaces.get(namespace).map(|scope| (scope, namespace)),
        ];
        for (scope, namespace) in scopes.into_iter().flatten() {
            let mut seen: Vec<&str> = Vec::new();
            let by_user = scope.users.get(&user.name).into_iter();
            let grants = by_user
                .chain(user.groups.iter().filter_map(|g| scope.groups.get(g)))
                .flatten();
            for grant in grants {
                if seen.contains(&&*grant.binding) {
                    continue;
                }
                seen.push(&grant.binding);
                match index.rules(&grant.role, namespace) {
                    Ok(rules) => {
                        if !rules.iter().all(|rule| visit(Ok((rule, grant)))) {
                            return;
                        }
                    }
                    Err(error) => {
                        if !visit(Err(error)) {
                            return;
                        }
                    }
                }
            }
        }
    }

    /// The rules that a user holds (cluster-wide, and in the namespace unless it is empty), and errors met on the way.
    pub fn held(&self, user: &User, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        self.visit(user, namespace, |found| {
            match found {
                Ok((rule, _)) => rules.push(rule.clone()),
                Err(error) => errors.push(error),
            }
            true
        });
        (rules, errors)
    }
}

impl Authorizer for Rbac {
    fn authorize(&self, what: &Attributes) -> Outcome {
        let (mut reason, mut errors) = (None, Vec::new());
        self.visit(&what.user, &what.namespace, |found| {
            match found {
                Ok((rule, grant)) if rule.allows(what) => reason = Some(grant.reason.clone()),
                Ok(_) => {}
                Err(error) => errors.push(error),
            }
            reason.is_none()
        });
        match reason {
            Some(reason) => Outcome::allow(Reason::Shared(reason)),
            None => {
                let why = aggregate(errors)
                    .map(|errors| format!("RBAC: {errors}"))
                    .unwrap_or_default();
                Outcome {
                    decision: Decision::NoOpinion,
                    reason: Reason::Text(why.into()),
                    error: None,
                }
            }
        }
    }

    fn rules_for(&self, user: &User, namespace: &str) -> Rules {
        let (rules, errors) = self.held(user, namespace);
        Rules {
            rules,
            incomplete: false,
            error: aggregate(errors),
        }
    }
}

impl Follower for Rbac {
    fn follows(&self) -> &'static [(&'static str, &'static str)] {
        &[
            (GROUP, "clusterroles"),
            (GROUP, "roles"),
            (GROUP, "clusterrolebindings"),
            (GROUP, "rolebindings"),
        ]
    }

    fn changed(&self, _group: &str, plural: &str, old: Option<&Value>, new: Option<&Value>) {
        let Some(object) = new.or(old) else { return };
        let (namespace, name) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
        let mut index = self.index.write();
        match plural {
            "clusterroles" => set(&mut index.cluster_roles, name, new),
            "roles" => {
                let roles = index.roles.entry(namespace.to_owned()).or_default();
                set(roles, name, new);
                if roles.is_empty() {
                    index.roles.remove(namespace);
                }
            }
            "clusterrolebindings" => index.cluster.set("", name, new),
            "rolebindings" => {
                let scope = index.namespaces.entry(namespace.to_owned()).or_default();
                scope.set(namespace, name, new);
                if scope.entered.is_empty() {
                    index.namespaces.remove(namespace);
                }
            }
            _ => {}
        }
    }
}

fn set(roles: &mut HashMap<String, Arc<[Rule]>>, name: &str, role: Option<&Value>) {
    match role {
        Some(role) => roles.insert(name.to_owned(), rules_of(role).into()),
        None => roles.remove(name),
    };
}

impl Index {
    fn rules(&self, role: &RoleRef, namespace: &str) -> Result<&Arc<[Rule]>, String> {
        let missing = |what: &str| {
            format!(
                "{what}.{GROUP} {} not found",
                steersman_schema::field::quote(&role.name)
            )
        };
        match role.kind.as_str() {
            "ClusterRole" => self.cluster_roles.get(&role.name).ok_or_else(|| missing("clusterrole")),
            "Role" => {
                let found = self.roles.get(namespace).and_then(|roles| roles.get(&role.name));
                found.ok_or_else(|| missing("role"))
            }
            other => Err(format!("unsupported role reference kind: {other:?}")),
        }
    }
}

impl Scope {
    /// Enters a binding in place of the one of that name, or takes it out. `namespace` is empty for the cluster's.
    fn set(&mut self, namespace: &str, name: &str, binding: Option<&Value>) {
        for subject in self.entered.remove(name).unwrap_or_default() {
            let (map, key) = match &subject {
                Subject::User(key) => (&mut self.users, key),
                Subject::Group(key) => (&mut self.groups, key),
            };
            if let Some(grants) = map.get_mut(key) {
                grants.retain(|grant| &*grant.binding != name);
                if grants.is_empty() {
                    map.remove(key);
                }
            }
        }
        let Some(binding) = binding else { return };
        let id: Arc<str> = name.into();
        let (kind, role) = (text(binding, "/roleRef/kind"), text(binding, "/roleRef/name"));
        let shown = if namespace.is_empty() {
            format!("ClusterRoleBinding {name:?}")
        } else {
            format!("RoleBinding {:?}", format!("{name}/{namespace}"))
        };
        let reference = Arc::new(RoleRef {
            kind: kind.to_owned(),
            name: role.to_owned(),
        });
        let mut entered: Vec<Subject> = Vec::new();
        for subject in items(binding, "/subjects") {
            let Some((key, described)) = subject_of(subject, namespace) else {
                continue;
            };
            if entered.contains(&key) {
                continue;
            }
            let reason = format!("RBAC: allowed by {shown} of {kind} {role:?} to {described}").into();
            let grant = Grant {
                binding: id.clone(),
                role: reference.clone(),
                reason,
            };
            let (map, at) = match &key {
                Subject::User(at) => (&mut self.users, at),
                Subject::Group(at) => (&mut self.groups, at),
            };
            map.entry(at.clone()).or_default().push(grant);
            entered.push(key);
        }
        self.entered.insert(id, entered);
    }
}

/// How a subject is found, and how reasons call it; `None` for one that matches nobody.
fn subject_of(subject: &Value, namespace: &str) -> Option<(Subject, String)> {
    let (kind, name) = (text(subject, "/kind"), text(subject, "/name"));
    match kind {
        "User" => Some((Subject::User(name.into()), format!("User {name:?}"))),
        "Group" => Some((Subject::Group(name.into()), format!("Group {name:?}"))),
        "ServiceAccount" => {
            let own = text(subject, "/namespace");
            let namespace = if own.is_empty() { namespace } else { own };
            if namespace.is_empty() {
                return None;
            }
            let user = format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}");
            Some((
                Subject::User(user),
                format!("ServiceAccount {:?}", format!("{name}/{namespace}")),
            ))
        }
        _ => None,
    }
}
