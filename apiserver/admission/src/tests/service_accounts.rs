//! ServiceAccount: whose token a pod gets.

use serde_json::{Value, json};

use super::{World, pod, run};

fn account(name: &str, more: Value) -> Value {
    let mut object = json!({"metadata": {"namespace": "ns", "name": name}});
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
    object
}

#[tokio::test]
async fn a_pod_gets_the_default_account_its_token_and_its_pull_secrets() {
    let mut world = World::default();
    world.put(
        "",
        "serviceaccounts",
        account("default", json!({"imagePullSecrets": [{"name": "registry"}]})),
    );
    let chain = world.chain(&["ServiceAccount"]);
    let taken = "/var/run/secrets/kubernetes.io/serviceaccount";
    let spec = json!({"initContainers": [{"name": "i"}],
                      "containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "own", "mountPath": taken}]}]});
    let pod = run(&chain, pod(spec)).await.expect("admitted");
    let spec = &pod["spec"];
    assert_eq!(
        (&spec["serviceAccountName"], &spec["serviceAccount"]),
        (&json!("default"), &json!("default"))
    );
    assert_eq!(spec["imagePullSecrets"], json!([{"name": "registry"}]));
    let name = spec["volumes"][0]["name"].as_str().expect("a volume");
    let random = name.strip_prefix("kube-api-access-").expect("its prefix");
    assert!(
        random.len() == 5 && random.bytes().all(|b| b"bcdfghjklmnpqrstvwxz2456789".contains(&b)),
        "{name}"
    );
    let mount = json!([{"name": name, "readOnly": true, "mountPath": taken}]);
    assert_eq!(spec["initContainers"][0]["volumeMounts"], mount);
    assert_eq!(spec["containers"][0]["volumeMounts"], mount);
    assert_eq!(spec["containers"][1]["volumeMounts"][0]["name"], "own");
    assert_eq!(
        spec["volumes"][0]["projected"],
        json!({"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]})
    );
}

#[tokio::test]
async fn the_pod_before_the_account_decides_whether_a_token_is_mounted() {
    let spec = |own: Option<bool>| {
        let mut spec = json!({"serviceAccountName": "a", "containers": [{"name": "c"}]});
        if let Some(own) = own {
            spec["automountServiceAccountToken"] = own.into();
        }
        spec
    };
    for (of_account, of_pod, want) in [
        (None, None, true),
        (Some(false), None, false),
        (Some(false), Some(true), true),
        (Some(true), Some(false), false),
    ] {
        let mut world = World::default();
        let more = of_account.map_or(json!({}), |flag: bool| json!({"automountServiceAccountToken": flag}));
        world.put("", "serviceaccounts", account("a", more));
        let pod = run(&world.chain(&["ServiceAccount"]), pod(spec(of_pod)))
            .await
            .expect("admitted");
        assert_eq!(pod["spec"]["volumes"].is_array(), want, "{of_account:?} {of_pod:?}");
    }
}

#[tokio::test]
async fn a_missing_account_refuses_unless_it_is_only_late() {
    let world = World::default();
    world
        .late
        .lock()
        .push(("", "serviceaccounts", account("default", json!({}))));
    let chain = world.chain(&["ServiceAccount"]);
    assert!(run(&chain, pod(json!({"containers": []}))).await.is_ok());
    let refused = run(&chain, pod(json!({"serviceAccountName": "none"}))).await;
    let want = "pods \"p\" is forbidden: error looking up service account ns/none: serviceaccount \"none\" not found";
    assert_eq!(refused, Err(want.into()));
}

#[tokio::test]
async fn a_mirror_pod_stays_as_it_is_and_reaches_for_nothing() {
    let chain = World::default().chain(&["ServiceAccount"]);
    let mirror = |spec: Value| {
        let mut request = pod(spec);
        if let Some(object) = request.object.as_mut() {
            object["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        }
        request
    };
    let plain = json!({"containers": [{"name": "c"}]});
    assert_eq!(
        run(&chain, mirror(plain.clone())).await.map(|p| p["spec"].clone()),
        Ok(plain)
    );
    for (spec, want) in [
        (
            json!({"serviceAccountName": "a"}),
            "a mirror pod may not reference service accounts",
        ),
        (
            json!({"volumes": [{"secret": {"secretName": "s"}}]}),
            "a mirror pod may not reference secrets",
        ),
        (
            json!({"volumes": [{"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}),
            "a mirror pod may not use ServiceAccountToken volume projections",
        ),
    ] {
        assert_eq!(
            run(&chain, mirror(spec)).await,
            Err(format!("pods \"p\" is forbidden: {want}"))
        );
    }
}

#[tokio::test]
async fn an_account_may_limit_its_pods_to_the_secrets_it_lists() {
    let mut world = World::default();
    let mut limited = account(
        "a",
        json!({"secrets": [{"name": "ok"}], "imagePullSecrets": [{"name": "pull"}]}),
    );
    limited["metadata"]["annotations"] = json!({"kubernetes.io/enforce-mountable-secrets": "true"});
    world.put("", "serviceaccounts", limited);
    let chain = world.chain(&["ServiceAccount"]);
    let not = "is not allowed because service account a does not reference that";
    for (spec, want) in [
        (json!({"volumes": [{"secret": {"secretName": "ok"}}]}), String::new()),
        (
            json!({"volumes": [{"secret": {"secretName": "no"}}]}),
            format!("volume with secret.secretName=\"no\" {not} secret"),
        ),
        (
            json!({"initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "no"}}]}]}),
            format!("init container i with envFrom referencing secret.secretName=\"no\" {not} secret"),
        ),
        (
            json!({"containers": [{"name": "c", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "no"}}}]}]}),
            format!("container c with envVar E referencing secret.secretName=\"no\" {not} secret"),
        ),
        (
            json!({"imagePullSecrets": [{"name": "no"}]}),
            format!("imagePullSecrets[0].name=\"no\" {not} imagePullSecret"),
        ),
    ] {
        let mut spec = spec;
        spec["serviceAccountName"] = "a".into();
        let got = run(&chain, pod(spec)).await.map(|_| ());
        let want = if want.is_empty() {
            Ok(())
        } else {
            Err(format!("pods \"p\" is forbidden: {want}"))
        };
        assert_eq!(got, want);
    }
}
