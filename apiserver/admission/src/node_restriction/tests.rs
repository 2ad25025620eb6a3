//! What a node may not do, in upstream's words.

use serde_json::{Value, json};

use crate::Operation::{self, Create, Delete, Update};
use crate::Request;
use crate::tests::{World, request};

const NODE: &str = "node-1";

/// A change to an object before it is judged.
type Change = Box<dyn FnOnce(&mut Value)>;

fn mirror(change: impl FnOnce(&mut Value)) -> Value {
    let mut pod = json!({
        "metadata": {"namespace": "ns", "name": "m", "annotations": {"kubernetes.io/config.mirror": "hash"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": "n1", "controller": true}]},
        "spec": {"nodeName": NODE, "containers": [{"name": "c"}], "volumes": [{"name": "v", "hostPath": {"path": "/"}}]},
    });
    change(&mut pod);
    pod
}

fn world() -> World {
    let mut world = World::default();
    world.put("", "nodes", json!({"metadata": {"name": NODE, "uid": "n1"}}));
    for (name, node) in [("mine", NODE), ("theirs", "node-2")] {
        let token = |audience: &str| json!({"serviceAccountToken": {"audience": audience, "path": "t"}});
        let volumes = json!([{"name": "t", "projected": {"sources": [token("vault")]}}]);
        world.put(
            "",
            "pods",
            json!({"metadata": {"namespace": "ns", "name": name, "uid": format!("{name}-uid")},
            "spec": {"nodeName": node, "serviceAccountName": "a", "volumes": volumes}}),
        );
    }
    world
}

fn by_node(mut request: Request) -> Request {
    request.user = crate::tests::user("system:node:node-1", &["system:nodes", "system:authenticated"]);
    request
}

async fn verdict(request: Request) -> String {
    let chain = world().chain(&["NodeRestriction"]);
    let mut request = by_node(request);
    match chain.admit(&mut request).await {
        Ok(()) => "yes".into(),
        Err(status) => status.to_string(),
    }
}

/// A refusal without its beginning `pods "m" is forbidden: `.
async fn why(request: Request) -> String {
    let text = verdict(request).await;
    text.split_once("is forbidden: ")
        .map_or(text.clone(), |(_, why)| why.to_owned())
}

fn pod(operation: Operation, name: &str, object: Option<Value>) -> Request {
    Request {
        object,
        ..request(operation, "", "pods", "ns", name)
    }
}

#[tokio::test]
async fn a_node_makes_only_mirror_pods_of_its_own_that_reach_for_nothing() {
    assert_eq!(verdict(pod(Create, "m", Some(mirror(|_| {})))).await, "yes");
    let cases: Vec<(Change, &str)> = vec![
        (
            Box::new(|p| p["metadata"]["annotations"] = json!({})),
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"node-1\" can only create mirror pods",
        ),
        (
            Box::new(|p| p["spec"]["nodeName"] = "node-2".into()),
            "node \"node-1\" can only create pods with spec.nodeName set to itself",
        ),
        (
            Box::new(|p| p["metadata"]["ownerReferences"] = json!([])),
            "node \"node-1\" can only create pods with an owner reference set to itself",
        ),
        (
            Box::new(|p| p["metadata"]["ownerReferences"] = json!([{}, {}])),
            "node \"node-1\" can only create pods with a single owner reference set to itself",
        ),
        (
            Box::new(|p| p["metadata"]["ownerReferences"][0]["controller"] = false.into()),
            "node \"node-1\" can only create pods with a controller owner reference set to itself",
        ),
        (
            Box::new(|p| p["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] = true.into()),
            "node \"node-1\" must not set blockOwnerDeletion on an owner reference",
        ),
        (
            Box::new(|p| p["metadata"]["ownerReferences"][0]["uid"] = "other".into()),
            "node node-1 UID mismatch: expected other got n1",
        ),
        (
            Box::new(|p| p["spec"]["serviceAccountName"] = "a".into()),
            "node \"node-1\" can not create pods that reference serviceaccounts",
        ),
        (
            Box::new(|p| p["spec"]["containers"][0]["envFrom"] = json!([{"secretRef": {"name": "s"}}])),
            "node \"node-1\" can not create pods that reference secrets",
        ),
        (
            Box::new(|p| p["spec"]["resourceClaims"] = json!([{"name": "gpu", "resourceClaimName": "gpu"}])),
            "node \"node-1\" can not create pods that reference resourceclaims",
        ),
        (
            Box::new(|p| p["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}])),
            "node \"node-1\" can not create pods that reference persistentvolumeclaims",
        ),
        (
            Box::new(|p| {
                p["spec"]["volumes"] = json!([{"name": "v", "projected": {"sources": [{"serviceAccountToken": {}}]}}])
            }),
            "node \"node-1\" can not create pods that reference serviceaccounts (via projected volumes)",
        ),
    ];
    for (change, want) in cases {
        assert_eq!(why(pod(Create, "m", Some(mirror(change)))).await, want);
    }
}

#[tokio::test]
async fn a_node_touches_only_pods_bound_to_it() {
    assert_eq!(verdict(pod(Delete, "mine", None)).await, "yes");
    assert_eq!(
        verdict(pod(Delete, "theirs", None)).await,
        "pods \"theirs\" is forbidden: node \"node-1\" can only delete pods with spec.nodeName set to itself"
    );
    assert_eq!(verdict(pod(Delete, "absent", None)).await, "pods \"absent\" not found");
    assert_eq!(
        why(pod(Update, "mine", Some(json!({})))).await,
        "unexpected operation \"UPDATE\", node \"node-1\" can only create and delete mirror pods"
    );
    let part = |name: &str, subresource: &str| {
        let operation = if subresource == "status" { Update } else { Create };
        Request {
            subresource: subresource.into(),
            ..pod(operation, name, Some(json!({})))
        }
    };
    assert_eq!(verdict(part("mine", "eviction")).await, "yes");
    assert_eq!(
        why(part("theirs", "eviction")).await,
        "node node-1 can only evict pods with spec.nodeName set to itself"
    );
    assert_eq!(
        why(part("mine", "exec")).await,
        "unexpected pod subresource \"exec\", only 'status' and 'eviction' are allowed"
    );
    let status = |old: Value, new: Value| {
        let mut request = part("mine", "status");
        request.old = Some(std::sync::Arc::new(old));
        request.object = Some(new);
        request
    };
    let bound = json!({"spec": {"nodeName": NODE}, "metadata": {}});
    assert_eq!(verdict(status(bound.clone(), bound.clone())).await, "yes");
    let mut labelled = bound.clone();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    assert_eq!(
        why(status(bound.clone(), labelled)).await,
        "node \"node-1\" cannot update labels through pod status"
    );
    let mut claimed = bound.clone();
    claimed["status"] = json!({"resourceClaimStatuses": [{"name": "a"}]});
    assert_eq!(
        why(status(bound, claimed)).await,
        "node \"node-1\" cannot update resource claim statues"
    );
    let foreign = json!({"spec": {"nodeName": "node-2"}});
    assert_eq!(
        why(status(foreign.clone(), foreign)).await,
        "node \"node-1\" can only update pod status for pods with spec.nodeName set to itself"
    );
}

#[tokio::test]
async fn a_node_changes_only_harmless_parts_of_itself() {
    let node = |labels: Value| json!({"metadata": {"name": NODE, "labels": labels}, "spec": {}});
    let create = |object: Value| Request {
        object: Some(object),
        ..request(Create, "", "nodes", "", NODE)
    };
    let update = |old: Value, new: Value| Request {
        object: Some(new),
        old: Some(std::sync::Arc::new(old)),
        ..request(Update, "", "nodes", "", NODE)
    };
    let fine = json!({"kubernetes.io/hostname": "h", "node.kubernetes.io/x": "y", "a.node.kubernetes.io/x": "y", "own/x": "y"});
    assert_eq!(verdict(create(node(fine.clone()))).await, "yes");
    assert_eq!(
        why(create(node(
            json!({"node-role.kubernetes.io/master": "", "x.k8s.io/a": "", "node-restriction.kubernetes.io/z": ""})
        )))
        .await,
        "node \"node-1\" is not allowed to set the following labels: node-restriction.kubernetes.io/z, \
         node-role.kubernetes.io/master, x.k8s.io/a"
    );
    assert_eq!(
        why(update(
            node(fine.clone()),
            node(json!({"node-restriction.kubernetes.io/z": "1"}))
        ))
        .await,
        "is not allowed to modify labels: node-restriction.kubernetes.io/z"
    );
    let restricted = node(json!({"node-restriction.kubernetes.io/z": "1"}));
    assert_eq!(verdict(update(restricted.clone(), restricted)).await, "yes");
    let mut tainted = node(fine.clone());
    tainted["spec"]["taints"] = json!([{"key": "a", "effect": "NoSchedule"}]);
    assert_eq!(
        why(update(tainted, node(fine.clone()))).await,
        "node \"node-1\" is not allowed to modify taints"
    );
    let mut owned = node(fine.clone());
    owned["metadata"]["ownerReferences"] = json!([{"name": "x"}]);
    assert_eq!(
        why(update(node(fine), owned)).await,
        "node \"node-1\" is not allowed to modify ownerReferences"
    );
    let other = Request {
        object: Some(node(json!({}))),
        ..request(Create, "", "nodes", "", "node-2")
    };
    assert_eq!(
        why(other).await,
        "node \"node-1\" is not allowed to modify node \"node-2\""
    );
}

#[tokio::test]
async fn a_node_gets_tokens_only_for_its_pods_and_their_audiences() {
    let ask = |spec: Value| Request {
        subresource: "token".into(),
        object: Some(json!({"kind": "TokenRequest", "spec": spec})),
        ..request(Create, "", "serviceaccounts", "ns", "a")
    };
    let bound = |name: &str, uid: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid});
    for (spec, want) in [
        (
            json!({"audiences": ["vault"], "boundObjectRef": bound("mine", "mine-uid")}),
            "yes",
        ),
        (
            json!({"audiences": ["vault"]}),
            "node requested token not bound to a pod",
        ),
        (
            json!({"boundObjectRef": bound("mine", "")}),
            "node requested token with a pod binding without a uid",
        ),
        (
            json!({"audiences": ["vault"], "boundObjectRef": bound("mine", "old")}),
            "the UID in the bound object reference (old) does not match the UID in record. The object might have been \
             deleted and then recreated",
        ),
        (
            json!({"audiences": ["vault"], "boundObjectRef": bound("theirs", "theirs-uid")}),
            "node requested token bound to a pod scheduled on a different node",
        ),
        (
            json!({"audiences": ["a", "b"], "boundObjectRef": bound("mine", "mine-uid")}),
            "node may only request 0 or 1 audiences",
        ),
        (
            json!({"audiences": ["bank"], "boundObjectRef": bound("mine", "mine-uid")}),
            "audience \"bank\" not found in pod spec volume, system:node:node-1 is not authorized to request tokens for \
             this audience",
        ),
    ] {
        assert_eq!(why(ask(spec)).await, want);
    }
}

#[tokio::test]
async fn leases_and_the_like_carry_the_nodes_name() {
    let named = |group: &str, plural: &str, namespace: &str, name: &str| Request {
        object: Some(json!({"metadata": {"name": name}})),
        ..request(Create, group, plural, namespace, name)
    };
    for (group, plural, namespace, name, want) in [
        ("coordination.k8s.io", "leases", "kube-node-lease", NODE, "yes"),
        (
            "coordination.k8s.io",
            "leases",
            "kube-node-lease",
            "node-2",
            "can only access node lease with the same name as the requesting node",
        ),
        (
            "coordination.k8s.io",
            "leases",
            "default",
            NODE,
            "can only access leases in the \"kube-node-lease\" system namespace",
        ),
        ("storage.k8s.io", "csinodes", "", NODE, "yes"),
        (
            "storage.k8s.io",
            "csinodes",
            "",
            "node-2",
            "can only access CSINode with the same name as the requesting node",
        ),
        (
            "resource.k8s.io",
            "resourceslices",
            "",
            "s",
            "can only create ResourceSlice with the same NodeName as the requesting node",
        ),
        ("", "persistentvolumeclaims", "ns", "c", "may only update PVC status"),
        ("", "events", "ns", "e", "yes"),
    ] {
        assert_eq!(why(named(group, plural, namespace, name)).await, want);
    }
    let mut nameless = request(Create, "", "events", "ns", "e");
    nameless.user = crate::tests::user("system:node:", &["system:nodes"]);
    let refused = world()
        .chain(&["NodeRestriction"])
        .admit(&mut nameless)
        .await
        .map_err(|s| s.to_string());
    assert_eq!(
        refused,
        Err("events \"e\" is forbidden: could not determine node from user \"system:node:\"".into())
    );
}
