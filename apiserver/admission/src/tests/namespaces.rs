//! NamespaceLifecycle: what may be written where.

use serde_json::{Value, json};

use super::{World, request, run};
use crate::Operation::{Create, Delete, Update};
use crate::Request;

fn namespace(name: &str, phase: &str) -> Value {
    json!({"metadata": {"name": name}, "status": {"phase": phase}})
}

#[tokio::test]
async fn namespaces_must_exist_and_not_end() {
    let mut world = World::default();
    world.put("", "namespaces", namespace("ns", "Active"));
    world.put("", "namespaces", namespace("ending", "Terminating"));
    world.late.lock().push(("", "namespaces", namespace("late", "Active")));
    let chain = world.chain(&["NamespaceLifecycle"]);
    let create = |namespace: &str| Request {
        object: Some(json!({"metadata": {"generateName": "x-"}})),
        ..request(Create, "", "configmaps", namespace, "")
    };
    assert!(run(&chain, create("ns")).await.is_ok());
    assert_eq!(
        run(&chain, create("none")).await,
        Err("namespaces \"none\" not found".into())
    );
    assert!(run(&chain, create("late")).await.is_ok());
    let refused = run(&chain, create("ending")).await;
    let want = "configmaps \"x-\" is forbidden: unable to create new content in namespace ending because it is being \
                terminated";
    assert_eq!(refused, Err(want.into()));
    let status = chain.admit(&mut create("ending")).await.expect_err("ending").to_value();
    assert_eq!(
        status["details"]["causes"],
        json!([{"reason": "NamespaceTerminating", "message": "namespace ending is being terminated",
                "field": "metadata.namespace"}])
    );
    assert!(
        run(&chain, request(Update, "", "configmaps", "ending", "x"))
            .await
            .is_ok()
    );
    assert!(
        run(&chain, request(Delete, "", "configmaps", "none", "x"))
            .await
            .is_ok()
    );
    assert!(run(&chain, request(Create, "", "nodes", "", "x")).await.is_ok());
    let review = request(Create, "authorization.k8s.io", "localsubjectaccessreviews", "none", "");
    assert!(run(&chain, review).await.is_ok());
    for name in ["default", "kube-system", "kube-public", "ns"] {
        let delete = Request {
            kind: "Namespace".into(),
            ..request(Delete, "", "namespaces", name, name)
        };
        let want = format!("namespaces \"{name}\" is forbidden: this namespace may not be deleted");
        assert_eq!(
            run(&chain, delete).await,
            if name == "ns" { Ok(Value::Null) } else { Err(want) }
        );
    }
}

#[tokio::test]
async fn after_its_deletion_a_namespace_that_still_looks_active_is_looked_at_again() {
    let mut world = World::default();
    world.put("", "namespaces", namespace("ns", "Active"));
    world
        .late
        .lock()
        .push(("", "namespaces", namespace("ns", "Terminating")));
    let chain = world.chain(&["NamespaceLifecycle"]);
    assert!(run(&chain, request(Create, "", "secrets", "ns", "a")).await.is_ok());
    let delete = Request {
        kind: "Namespace".into(),
        ..request(Delete, "", "namespaces", "ns", "ns")
    };
    assert!(run(&chain, delete).await.is_ok());
    assert!(run(&chain, request(Create, "", "secrets", "ns", "a")).await.is_err());
}
