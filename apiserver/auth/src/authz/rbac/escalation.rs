//! Nobody grants what they do not hold: checked on every write of a role or a binding.
//!
//! Writing a role needs every permission in it, or the verb `escalate` on it; writing a binding needs every permission of
//! the role it names, or the verb `bind` on that role. Members of `system:masters` may do both. The server calls
//! [`check`] after its cache has caught up with the store, before validation.

use std::sync::Arc;

use serde_json::Value;
use steersman_schema::status::Status;

use super::{GROUP, Rbac, quoted, rule, rules_of};
use crate::authz::{Attributes, Authorizer, Rule};
use crate::lister::{Lister, items, text};
use crate::user::{MASTERS, User};

/// A write to one of the four RBAC resources.
pub struct Write<'a> {
    pub user: &'a User,
    /// `roles`, `clusterroles`, `rolebindings` or `clusterrolebindings`; every other resource passes.
    pub plural: &'a str,
    /// The URL's; empty for the cluster-scoped ones.
    pub namespace: &'a str,
    /// The URL's name, empty on create.
    pub name: &'a str,
    pub object: &'a Value,
    /// The stored object on update.
    pub old: Option<&'a Value>,
}

/// # Errors
/// 403 naming what is not held; 404 when a binding names a role that does not exist.
pub fn check(
    write: &Write<'_>,
    rbac: &Rbac,
    authorizer: &dyn Authorizer,
    objects: &dyn Lister,
) -> Result<(), Box<Status>> {
    let binding = match write.plural {
        "roles" | "clusterroles" => false,
        "rolebindings" | "clusterrolebindings" => true,
        _ => return Ok(()),
    };
    if write.user.has_group(MASTERS)
        || write
            .old
            .is_some_and(|old| only_for_garbage_collection(write.object, old))
    {
        return Ok(());
    }
    let name = text(write.object, "/metadata/name");
    let forbidden = |why: &str| Box::new(Status::forbidden(GROUP, write.plural, name, why));
    if binding {
        let (kind, role) = (text(write.object, "/roleRef/kind"), text(write.object, "/roleRef/name"));
        let group = text(write.object, "/roleRef/apiGroup");
        let plural = match kind {
            "ClusterRole" => "clusterroles",
            "Role" => "roles",
            _ => {
                return Err(Box::new(Status::internal(format!(
                    "unsupported role reference kind: {kind:?}"
                ))));
            }
        };
        if allowed(write.user, "bind", group, plural, write.namespace, role, authorizer) {
            return Ok(());
        }
        let namespace = (kind == "Role").then_some(write.namespace);
        let found = objects.get(GROUP, plural, namespace, role);
        // Upstream calls what is missing by the resource of the request, not by its own.
        let found = found.ok_or_else(|| Box::new(Status::not_found(GROUP, write.plural, role)))?;
        return confirm(write, rbac, &rules_of(&found)).map_err(|why| forbidden(&why));
    }
    if allowed(
        write.user,
        "escalate",
        GROUP,
        write.plural,
        write.namespace,
        write.name,
        authorizer,
    ) {
        return Ok(());
    }
    confirm(write, rbac, &rules_of(write.object)).map_err(|why| forbidden(&why))?;
    let aggregates = |role: &Value| !items(role, "/aggregationRule/clusterRoleSelectors").is_empty();
    // An aggregated role gathers whatever others write later, so only those who hold everything may make one.
    if (aggregates(write.object) || write.old.is_some_and(aggregates)) && confirm(write, rbac, &everything()).is_err() {
        return Err(forbidden(
            "must have cluster-admin privileges to use the aggregationRule",
        ));
    }
    Ok(())
}

fn everything() -> [Rule; 2] {
    let all = || vec!["*".to_owned()];
    [
        Rule {
            verbs: all(),
            groups: all(),
            resources: all(),
            ..Rule::default()
        },
        Rule {
            verbs: all(),
            paths: all(),
            ..Rule::default()
        },
    ]
}

fn allowed(
    user: &User,
    verb: &str,
    group: &str,
    resource: &str,
    namespace: &str,
    name: &str,
    authorizer: &dyn Authorizer,
) -> bool {
    let what = Attributes {
        user: Arc::clone(user),
        verb: verb.into(),
        resource_request: true,
        group: group.into(),
        version: "*".into(),
        resource: resource.into(),
        namespace: namespace.into(),
        name: name.into(),
        ..Attributes::default()
    };
    authorizer.authorize(&what).allowed()
}

/// Whether the user holds all of `rules` where the write takes effect; the error is upstream's sentence.
fn confirm(write: &Write<'_>, rbac: &Rbac, rules: &[Rule]) -> Result<(), String> {
    let (held, errors) = rbac.held(write.user, write.namespace);
    let missing = rule::missing(&held, rules);
    if missing.is_empty() {
        return Ok(());
    }
    let mut text = format!(
        "user {} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        steersman_schema::field::quote(&write.user.name),
        quoted(&write.user.groups),
        rule::shown_compact(&missing).join("\n")
    );
    if let Some(errors) = crate::authz::aggregate(errors) {
        text.push_str(&format!("; resolution errors: [{errors}]"));
    }
    Err(text)
}

/// Whether an update changes nothing but owner references, finalizers and bookkeeping, so that the garbage collector need not
/// hold what the role grants.
fn only_for_garbage_collection(new: &Value, old: &Value) -> bool {
    let bare = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in [
                "ownerReferences",
                "finalizers",
                "managedFields",
                "resourceVersion",
                "generation",
            ] {
                metadata.remove(field);
            }
        }
        object
    };
    bare(new) == bare(old)
}
