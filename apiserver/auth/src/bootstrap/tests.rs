//! The policy as a whole, what it lets the usual users do, and how existing objects are brought up to date.

use super::*;
use crate::authz::rbac::Rbac;
use crate::authz::{Attributes, Authorizer};
use crate::lister::Follower;
use crate::user::UserInfo;
use std::collections::BTreeMap;
use std::sync::Arc;

#[test]
fn every_line_of_the_policy_is_read() {
    let lines = |prefix: &str| POLICY.lines().filter(|l| l.starts_with(prefix)).count();
    let objects = parse::parse(POLICY);
    assert_eq!(objects.len(), lines("role ") + lines("binding "));
    assert_eq!(
        objects.iter().map(|o| items(o, "/rules").len()).sum::<usize>(),
        lines("  ")
    );
    let subjects = POLICY
        .lines()
        .filter(|l| l.starts_with("binding ") && l.contains(" to "));
    let subjects: usize = subjects.map(|l| l.matches(';').count() + 1).sum();
    assert_eq!(
        objects.iter().map(|o| items(o, "/subjects").len()).sum::<usize>(),
        subjects
    );
}

#[test]
fn the_policy_has_upstreams_objects() {
    let mut counts = BTreeMap::new();
    for object in policy() {
        *counts.entry(text(&object, "/kind").to_owned()).or_insert(0) += 1;
        assert_eq!(object["metadata"]["annotations"][AUTO_UPDATE], "true");
    }
    let want = [
        ("ClusterRole", 69),
        ("ClusterRoleBinding", 50),
        ("Role", 7),
        ("RoleBinding", 7),
    ];
    assert_eq!(counts, want.map(|(kind, count)| (kind.to_owned(), count)).into());
}

fn rbac() -> Rbac {
    let rbac = Rbac::new();
    for object in policy() {
        rbac.changed(GROUP, resource_of(&object).0, None, Some(&object));
    }
    rbac
}

#[test]
fn the_usual_users_may_do_their_work_and_no_more() {
    let mut rbac = rbac();
    let edit = json!({"metadata": {"namespace": "team", "name": "edit"}, "subjects": [{"kind": "User", "name": "eve"}],
                      "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": "edit"}});
    rbac.changed(GROUP, "rolebindings", None, Some(&edit));
    let rbac = &mut rbac;
    let everybody = "system:authenticated";
    for (user, group, verb, api, resource, namespace, name, want) in [
        (
            "admin",
            "system:masters",
            "delete",
            "apps",
            "deployments",
            "any",
            "x",
            true,
        ),
        ("alice", everybody, "list", "", "pods", "", "", false),
        (
            "alice",
            everybody,
            "create",
            "authorization.k8s.io",
            "selfsubjectaccessreviews",
            "",
            "",
            true,
        ),
        (
            "system:kube-scheduler",
            everybody,
            "create",
            "",
            "pods/binding",
            "ns",
            "p",
            true,
        ),
        (
            "system:kube-scheduler",
            everybody,
            "update",
            "coordination.k8s.io",
            "leases",
            "kube-system",
            "kube-scheduler",
            true,
        ),
        (
            "system:kube-scheduler",
            everybody,
            "get",
            "",
            "secrets",
            "ns",
            "",
            false,
        ),
        (
            "system:kube-controller-manager",
            everybody,
            "create",
            "",
            "serviceaccounts/token",
            "kube-system",
            "x",
            true,
        ),
        (
            "system:kube-proxy",
            everybody,
            "watch",
            "discovery.k8s.io",
            "endpointslices",
            "",
            "",
            true,
        ),
        (
            "system:serviceaccount:kube-system:replicaset-controller",
            everybody,
            "create",
            "",
            "pods",
            "ns",
            "",
            true,
        ),
        (
            "system:serviceaccount:kube-system:replicaset-controller",
            everybody,
            "create",
            "",
            "secrets",
            "ns",
            "",
            false,
        ),
        (
            "system:serviceaccount:kube-system:kube-dns",
            everybody,
            "watch",
            "",
            "services",
            "",
            "",
            true,
        ),
        (
            "eve",
            everybody,
            "update",
            "apps",
            "deployments/scale",
            "team",
            "x",
            true,
        ),
        ("eve", everybody, "get", "", "pods/log", "team", "x", true),
        ("eve", everybody, "create", GROUP, "rolebindings", "team", "", false),
        ("eve", everybody, "get", "", "pods", "other", "x", false),
    ] {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let what = Attributes {
            user: Arc::new(UserInfo {
                groups: vec![group.into()],
                ..UserInfo::named(user)
            }),
            verb: verb.into(),
            resource_request: true,
            group: api.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Attributes::default()
        };
        assert_eq!(
            rbac.authorize(&what).allowed(),
            want,
            "{user} {verb} {resource} in {namespace}"
        );
    }
    for (group, path, want) in [
        ("system:unauthenticated", "/version", true),
        ("system:unauthenticated", "/healthz", true),
        ("system:unauthenticated", "/metrics", false),
        ("system:unauthenticated", "/api", false),
        (everybody, "/openapi/v3", true),
        ("system:monitoring", "/metrics", true),
        ("system:serviceaccounts", "/openid/v1/jwks", true),
    ] {
        let user = Arc::new(UserInfo {
            groups: vec![group.into()],
            ..UserInfo::named("u")
        });
        let what = Attributes {
            user,
            verb: "get".into(),
            path: path.into(),
            ..Attributes::default()
        };
        assert_eq!(rbac.authorize(&what).allowed(), want, "{group} {path}");
    }
}

#[test]
fn admin_edit_and_view_hold_what_they_gather() {
    let objects = policy();
    let role = |name: &str| {
        objects
            .iter()
            .find(|o| text(o, "/metadata/name") == name)
            .map(rules_of)
            .unwrap_or_default()
    };
    assert!(missing(&role("edit"), &role("view")).is_empty());
    assert!(missing(&role("admin"), &role("edit")).is_empty());
    assert!(!missing(&role("view"), &role("edit")).is_empty());
    assert!(!role("view").is_empty());
}

#[test]
fn reconciling_adds_what_is_missing_keeps_what_was_added_and_then_rests() {
    for wanted in policy() {
        assert_eq!(reconcile(&wanted, &wanted), Action::Nothing);
        let mut existing = wanted.clone();
        existing["metadata"]["labels"] = json!({"own": "label"});
        existing["metadata"]["resourceVersion"] = "7".into();
        if existing.get("roleRef").is_some() {
            existing["subjects"] = json!([{"kind": "User", "name": "added"}]);
        } else {
            existing["rules"] = json!([{"verbs": ["dance"], "apiGroups": [""], "resources": ["floors"]}]);
            existing["aggregationRule"] = Value::Null;
        }
        let Action::Update(updated) = reconcile(&existing, &wanted) else {
            panic!("not updated: {wanted}")
        };
        assert_eq!(updated["metadata"]["resourceVersion"], "7");
        assert_eq!(updated["metadata"]["labels"]["own"], "label");
        assert_eq!(reconcile(&updated, &wanted), Action::Nothing, "{updated}");
        if wanted.get("roleRef").is_none() {
            assert!(missing(&rules_of(&updated), &rules_of(&wanted)).is_empty());
            assert!(rules_of(&updated).iter().any(|r| r.verbs == ["dance"]));
        } else {
            assert!(items(&updated, "/subjects").iter().any(|s| s["name"] == "added"));
        }
        existing["metadata"]["annotations"] = json!({AUTO_UPDATE: "false"});
        assert_eq!(reconcile(&existing, &wanted), Action::Nothing);
    }
    let binding = policy()
        .into_iter()
        .find(|o| o["metadata"]["name"] == "system:discovery" && o.get("roleRef").is_some());
    let wanted = binding.expect("a binding");
    let mut existing = wanted.clone();
    existing["roleRef"]["name"] = "cluster-admin".into();
    assert_eq!(reconcile(&existing, &wanted), Action::Recreate(wanted));
}
