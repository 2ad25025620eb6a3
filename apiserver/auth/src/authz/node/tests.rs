//! What a node reaches through its pods, what it never reaches, and upstream's texts.

use super::*;
use crate::authz::Requirement;
use crate::user::UserInfo;
use proptest::prelude::*;
use serde_json::json;
use std::sync::Arc;

fn pod(name: &str, node: &str) -> Value {
    json!({
        "metadata": {"namespace": "ns", "name": name, "uid": format!("{name}-uid")},
        "spec": {
            "nodeName": node, "serviceAccountName": "account", "imagePullSecrets": [{"name": "pull"}],
            "initContainers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "init-env"}}}]}],
            "containers": [{"envFrom": [{"configMapRef": {"name": "env-map"}}, {"secretRef": {"name": "env-from"}}]}],
            "ephemeralContainers": [{"envFrom": [{"secretRef": {"name": "debug"}}]}],
            "volumes": [
                {"name": "a", "secret": {"secretName": "mounted"}},
                {"name": "b", "configMap": {"name": "map"}},
                {"name": "c", "projected": {"sources": [{"secret": {"name": "part"}}, {"configMap": {"name": "part-map"}}]}},
                {"name": "d", "persistentVolumeClaim": {"claimName": "claim"}},
                {"name": "scratch", "ephemeral": {}},
                {"name": "e", "csi": {"nodePublishSecretRef": {"name": "csi"}}},
            ],
            "resourceClaims": [{"name": "gpu", "resourceClaimName": "gpu"}],
        },
    })
}

fn user(name: &str) -> User {
    Arc::new(UserInfo {
        groups: vec!["system:nodes".into()],
        ..UserInfo::named(format!("system:node:{name}"))
    })
}

fn ask(node: &str, verb: &str, group: &str, resource: &str, namespace: &str, name: &str) -> Attributes {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    Attributes {
        user: user(node),
        verb: verb.into(),
        resource_request: true,
        group: group.into(),
        resource: resource.into(),
        subresource: subresource.into(),
        namespace: namespace.into(),
        name: name.into(),
        ..Attributes::default()
    }
}

fn verdict(nodes: &NodeAuthorizer, what: &Attributes) -> String {
    let outcome = nodes.authorize(what);
    if outcome.allowed() {
        "yes".into()
    } else {
        outcome.reason.as_str().to_owned()
    }
}

const STRANGER: &str = "no relationship found between node 'other' and this object";

#[test]
fn a_node_reads_what_its_pods_refer_to_and_no_other_node_does() {
    let nodes = NodeAuthorizer::new();
    let pod = pod("p", "mine");
    nodes.changed("", "pods", None, Some(&pod));
    let volume = json!({"metadata": {"name": "pv"}, "spec": {"claimRef": {"namespace": "ns", "name": "claim"},
                        "csi": {"nodeStageSecretRef": {"namespace": "vault", "name": "stage"},
                                "controllerPublishSecretRef": {"namespace": "vault", "name": "controller"}}}});
    nodes.changed("", "persistentvolumes", None, Some(&volume));
    let mut cases: Vec<(&str, &str, &str, &str)> = vec![
        ("", "persistentvolumeclaims", "ns", "claim"),
        ("", "persistentvolumeclaims", "ns", "p-scratch"),
        ("", "persistentvolumes", "", "pv"),
        ("", "secrets", "vault", "stage"),
        ("resource.k8s.io", "resourceclaims", "ns", "gpu"),
        ("", "serviceaccounts", "ns", "account"),
        ("", "pods", "ns", "p"),
    ];
    cases.extend(["pull", "init-env", "env-from", "debug", "mounted", "part", "csi"].map(|s| ("", "secrets", "ns", s)));
    cases.extend(["env-map", "map", "part-map"].map(|s| ("", "configmaps", "ns", s)));
    for (group, resource, namespace, name) in &cases {
        assert_eq!(
            verdict(&nodes, &ask("mine", "get", group, resource, namespace, name)),
            "yes",
            "{name}"
        );
        assert_eq!(
            verdict(&nodes, &ask("other", "get", group, resource, namespace, name)),
            STRANGER,
            "{name}"
        );
    }
    let controller = ask("mine", "get", "", "secrets", "vault", "controller");
    assert!(verdict(&nodes, &controller).starts_with("no relationship"));
    assert_eq!(
        verdict(
            &nodes,
            &ask("mine", "create", "", "serviceaccounts/token", "ns", "account")
        ),
        "yes"
    );
    nodes.changed("", "pods", Some(&pod), None);
    for (group, resource, namespace, name) in &cases {
        assert_ne!(
            verdict(&nodes, &ask("mine", "get", group, resource, namespace, name)),
            "yes",
            "{name}"
        );
    }
    nodes.changed("", "persistentvolumes", Some(&volume), None);
    assert!(nodes.graph.read().is_empty());
}

#[test]
fn a_mirror_pod_lends_nothing_but_itself() {
    let nodes = NodeAuthorizer::new();
    let mut mirror = pod("m", "mine");
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    nodes.changed("", "pods", None, Some(&mirror));
    assert_eq!(verdict(&nodes, &ask("mine", "get", "", "pods", "ns", "m")), "yes");
    assert_ne!(
        verdict(&nodes, &ask("mine", "get", "", "secrets", "ns", "mounted")),
        "yes"
    );
}

#[test]
fn refusals_have_upstreams_reasons() {
    let nodes = NodeAuthorizer::new();
    nodes.changed("", "pods", None, Some(&pod("p", "mine")));
    for (verb, group, resource, namespace, name, want) in [
        ("list", "", "secrets", "ns", "mounted", "yes"),
        ("list", "", "secrets", "ns", "", "No Object name found"),
        (
            "list",
            "",
            "secrets",
            "",
            "",
            "can only read namespaced object of this type",
        ),
        (
            "create",
            "",
            "secrets",
            "ns",
            "",
            "can only read resources of this type",
        ),
        (
            "list",
            "",
            "persistentvolumes",
            "",
            "",
            "can only get individual resources of this type",
        ),
        ("patch", "", "persistentvolumeclaims/status", "ns", "claim", "yes"),
        (
            "get",
            "",
            "persistentvolumeclaims/status",
            "ns",
            "claim",
            "can only get/update/patch this type",
        ),
        (
            "create",
            "",
            "serviceaccounts",
            "ns",
            "",
            "can only create tokens for individual service accounts",
        ),
        (
            "create",
            "",
            "serviceaccounts/x",
            "ns",
            "account",
            "can only create token subresource of serviceaccount",
        ),
        ("create", "coordination.k8s.io", "leases", "kube-node-lease", "", "yes"),
        (
            "update",
            "coordination.k8s.io",
            "leases",
            "kube-node-lease",
            "mine",
            "yes",
        ),
        (
            "update",
            "coordination.k8s.io",
            "leases",
            "kube-node-lease",
            "other",
            "can only access node lease with the same name as the requesting node",
        ),
        (
            "get",
            "coordination.k8s.io",
            "leases",
            "kube-system",
            "mine",
            "can only access leases in the \"kube-node-lease\" system namespace",
        ),
        (
            "list",
            "coordination.k8s.io",
            "leases",
            "kube-node-lease",
            "",
            "can only get, create, update, patch, or delete a node lease",
        ),
        (
            "get",
            "storage.k8s.io",
            "csinodes",
            "",
            "other",
            "can only access CSINode with the same name as the requesting node",
        ),
        ("get", "", "nodes", "", "mine", "yes"),
        (
            "get",
            "",
            "nodes",
            "",
            "other",
            "node 'mine' cannot read 'other', only its own Node object",
        ),
        (
            "list",
            "",
            "nodes",
            "",
            "",
            "node 'mine' cannot read all nodes, only its own Node object",
        ),
        ("delete", "", "nodes", "", "mine", ""),
        ("patch", "", "nodes/status", "", "mine", "yes"),
        (
            "list",
            "",
            "pods",
            "",
            "",
            "can only list/watch pods with spec.nodeName field selector",
        ),
        ("create", "", "pods/eviction", "ns", "p", "yes"),
        ("update", "", "pods", "ns", "p", ""),
        ("list", "", "services", "", "", "yes"),
        ("create", "", "events", "ns", "", "yes"),
        (
            "create",
            "certificates.k8s.io",
            "certificatesigningrequests",
            "",
            "",
            "yes",
        ),
        ("create", "authorization.k8s.io", "subjectaccessreviews", "", "", "yes"),
        ("delete", "apps", "deployments", "ns", "x", ""),
    ] {
        assert_eq!(
            verdict(&nodes, &ask("mine", verb, group, resource, namespace, name)),
            want,
            "{verb} {resource} {name}"
        );
    }
    let mut selective = ask("mine", "watch", "", "pods", "", "");
    selective.field_selector = vec![Requirement {
        key: "spec.nodeName".into(),
        operator: "In",
        values: vec!["mine".into()],
    }];
    assert_eq!(verdict(&nodes, &selective), "yes");
    selective.user = user("other");
    assert_ne!(verdict(&nodes, &selective), "yes");
    assert_eq!(
        verdict(&nodes, &ask("", "get", "", "nodes", "", "x")),
        "unknown node for user \"system:node:\""
    );
    let mut outsider = ask("mine", "get", "", "nodes", "", "mine");
    outsider.user = Arc::new(UserInfo::named("system:node:mine"));
    assert_eq!(verdict(&nodes, &outsider), "");
}

proptest! {
    #[test]
    fn a_node_reads_a_secret_exactly_while_one_of_its_pods_refers_to_it(
        changes in proptest::collection::vec((0usize..3, 0usize..3, 0usize..3, any::<bool>()), 0..30)
    ) {
        let nodes = NodeAuthorizer::new();
        let mut world: std::collections::BTreeMap<usize, Value> = Default::default();
        for (name, node, secret, delete) in changes {
            let made = json!({"metadata": {"namespace": "ns", "name": format!("p{name}"), "uid": format!("{node}{secret}")},
                "spec": {"nodeName": (["", "n1", "n2"][node]), "volumes": [{"secret": {"secretName": format!("s{secret}")}}]}});
            let old = world.get(&name).cloned();
            if delete && old.is_none() {
                continue;
            }
            nodes.changed("", "pods", old.as_ref(), (!delete).then_some(&made));
            if delete { world.remove(&name); } else { world.insert(name, made); }
            for node in ["n1", "n2"] {
                for secret in ["s0", "s1", "s2"] {
                    let want = world.values().any(|p| {
                        p["spec"]["nodeName"] == node && p["spec"]["volumes"][0]["secret"]["secretName"] == secret
                    });
                    let got = nodes.authorize(&ask(node, "get", "", "secrets", "ns", secret)).allowed();
                    prop_assert_eq!(got, want);
                }
            }
        }
        for (_, pod) in world {
            nodes.changed("", "pods", Some(&pod), None);
        }
        prop_assert!(nodes.graph.read().is_empty());
    }
}
