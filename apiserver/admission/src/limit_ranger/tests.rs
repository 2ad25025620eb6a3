//! Defaults, bounds and upstream's sentences.

use serde_json::{Value, json};

use crate::Operation::{Create, Update};
use crate::tests::{World, request};
use crate::{Chain, Request};

fn chain(limits: Value) -> Chain {
    let mut world = World::default();
    world.put(
        "",
        "limitranges",
        json!({"metadata": {"namespace": "ns", "name": "l"}, "spec": {"limits": limits}}),
    );
    world.chain(&["LimitRanger"])
}

fn pod(spec: Value) -> Request {
    let object = json!({"metadata": {"namespace": "ns", "name": "p"}, "spec": spec});
    Request {
        object: Some(object),
        ..request(Create, "", "pods", "ns", "p")
    }
}

async fn run(chain: &Chain, mut request: Request) -> Result<Value, String> {
    let why = |text: String| {
        text.split_once("is forbidden: ")
            .map_or(text.clone(), |(_, why)| why.to_owned())
    };
    chain.admit(&mut request).await.map_err(|s| why(s.to_string()))?;
    chain.validate(&request).await.map_err(|s| why(s.to_string()))?;
    Ok(request.object.unwrap_or_default())
}

#[tokio::test]
async fn containers_that_do_not_say_get_the_defaults_and_a_note() {
    let chain = chain(
        json!([{"type": "Container", "default": {"cpu": "500m", "memory": "1Gi"},
                              "defaultRequest": {"cpu": "100m"}}]),
    );
    let spec = json!({"containers": [{"name": "a"}, {"name": "b", "resources": {"limits": {"cpu": "2"}}}],
                      "initContainers": [{"name": "i"}]});
    let got = run(&chain, pod(spec)).await.expect("admitted");
    assert_eq!(
        got["spec"]["containers"][0]["resources"],
        json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "500m", "memory": "1Gi"}})
    );
    assert_eq!(
        got["spec"]["containers"][1]["resources"]["limits"],
        json!({"cpu": "2", "memory": "1Gi"})
    );
    assert_eq!(
        got["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container a; cpu, memory limit for container a; cpu request for container \
         b; memory limit for container b; cpu request for init container i; cpu, memory limit for init container i"
    );
}

#[tokio::test]
async fn bounds_are_explained() {
    let limits = |kind: &str, field: &str, bound: &str| json!([{"type": kind, field: {"cpu": bound}}]);
    let of = |requests: &str, limits: &str| {
        let mut resources = json!({});
        for (list, value) in [("requests", requests), ("limits", limits)] {
            if !value.is_empty() {
                resources[list] = json!({"cpu": value});
            }
        }
        json!({"containers": [{"name": "c", "resources": resources}]})
    };
    let two =
        json!({"containers": [{"resources": {"limits": {"cpu": "1"}}}, {"resources": {"limits": {"cpu": "1500m"}}}]});
    for (limits, spec, want) in [
        (limits("Container", "min", "100m"), of("100m", ""), ""),
        (
            limits("Container", "min", "100m"),
            of("", "1"),
            "minimum cpu usage per Container is 100m.  No request is specified",
        ),
        (
            limits("Container", "min", "100m"),
            of("50m", ""),
            "minimum cpu usage per Container is 100m, but request is 50m",
        ),
        (
            limits("Container", "max", "1"),
            of("", ""),
            "maximum cpu usage per Container is 1.  No limit is specified",
        ),
        (
            limits("Container", "max", "1"),
            of("", "1001m"),
            "maximum cpu usage per Container is 1, but limit is 1001m",
        ),
        (
            limits("Container", "maxLimitRequestRatio", "2"),
            of("100m", "250m"),
            "cpu max limit to request ratio per Container is 2, but provided ratio is 2.500000",
        ),
        (
            limits("Container", "maxLimitRequestRatio", "2"),
            of("", "250m"),
            "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0",
        ),
        (
            limits("Pod", "max", "2"),
            two,
            "maximum cpu usage per Pod is 2, but limit is 2500m",
        ),
    ] {
        let got = run(&chain(limits), pod(spec)).await.map(|_| ());
        assert_eq!(got, if want.is_empty() { Ok(()) } else { Err(want.to_owned()) });
    }
}

#[tokio::test]
async fn init_containers_count_as_the_most_that_runs_at_once() {
    let spec = json!({
        "containers": [{"resources": {"limits": {"cpu": "1"}}}],
        "initContainers": [
            {"restartPolicy": "Always", "resources": {"limits": {"cpu": "500m"}}},
            {"resources": {"limits": {"cpu": "2"}}},
        ],
    });
    let limits = |bound: &str| json!([{"type": "Pod", "max": {"cpu": bound}}]);
    assert!(run(&chain(limits("2500m")), pod(spec.clone())).await.is_ok());
    let refused = run(&chain(limits("2")), pod(spec)).await;
    assert_eq!(
        refused,
        Err("maximum cpu usage per Pod is 2, but limit is 2500m".into())
    );
}

#[tokio::test]
async fn claims_are_bounded_by_their_request() {
    let chain = chain(json!([{"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "5Gi"}}]));
    let claim = |size: &str| Request {
        object: Some(json!({"spec": {"resources": {"requests": {"storage": size}}}})),
        ..request(Create, "", "persistentvolumeclaims", "ns", "c")
    };
    assert!(run(&chain, claim("2Gi")).await.is_ok());
    for (size, want) in [
        (
            "512Mi",
            "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 512Mi",
        ),
        (
            "6Gi",
            "maximum storage usage per PersistentVolumeClaim is 5Gi, but request is 6Gi",
        ),
    ] {
        assert_eq!(run(&chain, claim(size)).await, Err(want.into()));
    }
    let update = Request {
        operation: Update,
        ..pod(json!({"containers": [{"name": "c"}]}))
    };
    assert!(run(&chain, update).await.is_ok());
}
