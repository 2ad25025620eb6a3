//! Who sends a request: [`UserInfo`] and the names that upstream gives special meaning.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Holders may do everything, before any authorizer is asked.
pub const MASTERS: &str = "system:masters";
/// Every user that proved who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Every user that did not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The user of requests without credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// Every node agent.
pub const NODES: &str = "system:nodes";
/// Prefix of a node agent's user name; the node's name follows.
pub const NODE_PREFIX: &str = "system:node:";
/// Prefix of a service account's user name: `system:serviceaccount:<namespace>:<name>`.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
/// Every service account.
pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
/// Prefix of the group of all service accounts of one namespace.
pub const SERVICE_ACCOUNTS_PREFIX: &str = "system:serviceaccounts:";
/// Extra key naming the credential: `X509SHA256=<hex>` or `JTI=<uuid>`.
pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
/// Extra keys of service account tokens bound to a pod or a node.
pub const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
pub const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
pub const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
pub const NODE_UID: &str = "authentication.kubernetes.io/node-uid";

/// An authenticated (or anonymous) user. Cheap to clone through `Arc`; compared by content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    pub name: String,
    /// Empty when the credential carries none.
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user without uid, groups or extra.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// The user that stands for requests without credentials.
    pub fn anonymous() -> Self {
        Self {
            name: ANONYMOUS.into(),
            groups: vec![UNAUTHENTICATED.into()],
            ..Self::default()
        }
    }

    /// A service account with the groups that belong to it, `system:authenticated` excepted.
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        Self {
            name: format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"),
            uid: uid.into(),
            groups: vec![SERVICE_ACCOUNTS.into(), format!("{SERVICE_ACCOUNTS_PREFIX}{namespace}")],
            extra: BTreeMap::new(),
        }
    }

    pub fn is_anonymous(&self) -> bool {
        self.name == ANONYMOUS
    }

    pub fn has_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The node that this user speaks for: `system:node:<name>` in group `system:nodes` (upstream: `NodeIdentity`).
    /// `Some("")` is a node agent without a name, which may do nothing.
    pub fn node(&self) -> Option<&str> {
        let name = self.name.strip_prefix(NODE_PREFIX)?;
        self.has_group(NODES).then_some(name)
    }

    /// Adds `system:authenticated`, unless the user is anonymous or already carries one of the two groups that say so.
    #[must_use]
    pub fn with_authenticated_group(mut self) -> Self {
        if !self.is_anonymous() && !self.has_group(AUTHENTICATED) && !self.has_group(UNAUTHENTICATED) {
            self.groups.push(AUTHENTICATED.into());
        }
        self
    }

    /// The `UserInfo` object of authentication.k8s.io/v1, empty fields left out.
    pub fn to_value(&self) -> serde_json::Value {
        let mut out = serde_json::Map::new();
        if !self.name.is_empty() {
            out.insert("username".into(), self.name.clone().into());
        }
        if !self.uid.is_empty() {
            out.insert("uid".into(), self.uid.clone().into());
        }
        if !self.groups.is_empty() {
            out.insert("groups".into(), self.groups.clone().into());
        }
        if !self.extra.is_empty() {
            out.insert("extra".into(), serde_json::json!(self.extra));
        }
        out.into()
    }
}

/// Splits `system:serviceaccount:<namespace>:<name>`; `None` for every other user name.
pub fn split_service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    let label = |s: &str, dots: bool, max: usize| {
        let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || (dots && c == b'.');
        !s.is_empty() && s.len() <= max && s.bytes().all(fits) && !s.starts_with(['-', '.']) && !s.ends_with(['-', '.'])
    };
    (label(namespace, false, 63) && label(name, true, 253)).then_some((namespace, name))
}

/// A user shared between the stages of a request.
pub type User = Arc<UserInfo>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_well_formed_service_account_names_split() {
        for (user, want) in [
            ("system:serviceaccount:default:builder", Some(("default", "builder"))),
            ("system:serviceaccount:a:b.c", Some(("a", "b.c"))),
            ("system:serviceaccount:a:b:c", None),
            ("system:serviceaccount::b", None),
            ("system:serviceaccount:a.b:c", None),
            ("system:serviceaccount:a", None),
            ("alice", None),
        ] {
            assert_eq!(split_service_account(user), want, "{user}");
        }
    }

    #[test]
    fn a_node_needs_the_name_and_the_group() {
        let mut user = UserInfo::named("system:node:a");
        assert_eq!(user.node(), None);
        user.groups.push(NODES.into());
        assert_eq!(user.node(), Some("a"));
    }
}
