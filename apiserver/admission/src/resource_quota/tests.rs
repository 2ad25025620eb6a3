//! Room is given away once, and refusals say so in upstream's words.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::charge::charge;
use crate::Operation::{Create, Update};
use crate::Request;
use crate::tests::{World, request};

fn quota(hard: Value, used: Value) -> Value {
    json!({"metadata": {"namespace": "ns", "name": "q", "resourceVersion": "1"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}})
}

fn pod(cpu: &str) -> Request {
    let container = json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
    Request {
        object: Some(json!({"metadata": {"namespace": "ns", "name": "p"}, "spec": {"containers": [container]}})),
        ..request(Create, "", "pods", "ns", "p")
    }
}

#[test]
fn what_does_not_fit_is_refused_in_upstreams_words() {
    let hard = json!({"cpu": "1", "pods": "2"});
    for (quota, expected) in [
        (
            quota(hard.clone(), json!({"cpu": "600m", "pods": "1"})),
            "exceeded quota: q, requested: cpu=500m, used: cpu=600m, limited: cpu=1",
        ),
        (
            quota(hard.clone(), json!({"pods": "1"})),
            "status unknown for quota: q, resources: cpu,pods",
        ),
        (
            quota(json!({"memory": "1"}), json!({"memory": "0"})),
            "failed quota: q: must specify memory for: c",
        ),
    ] {
        assert_eq!(charge(&[quota], &pod("500m")), Err(expected.to_owned()));
    }
    let fits = charge(&[quota(hard, json!({"cpu": "500m", "pods": "1"}))], &pod("500m")).unwrap();
    assert_eq!(fits[0]["status"]["used"], json!({"cpu": "1", "pods": "2"}));
}

#[test]
fn an_update_pays_the_difference() {
    let service = |kind: &str| json!({"spec": {"type": kind, "ports": [{"port": 1}]}});
    let change = Request {
        object: Some(service("NodePort")),
        old: Some(Arc::new(service("ClusterIP"))),
        ..request(Update, "", "services", "ns", "s")
    };
    let hard = json!({"services": "1", "services.nodeports": "1"});
    let changed = charge(
        &[quota(hard, json!({"services": "1", "services.nodeports": "0"}))],
        &change,
    )
    .unwrap();
    assert_eq!(
        changed[0]["status"]["used"],
        json!({"services": "1", "services.nodeports": "1"})
    );
}

#[tokio::test]
async fn the_chain_charges_each_write_once_and_dry_runs_never() {
    let mut world = World::default();
    world.put(
        "",
        "resourcequotas",
        quota(json!({"count/configmaps": "2"}), json!({"count/configmaps": "0"})),
    );
    let chain = world.chain(&["ResourceQuota"]);
    let map = |dry_run: bool| Request {
        object: Some(json!({"metadata": {"namespace": "ns", "name": "m"}})),
        dry_run,
        ..request(Create, "", "configmaps", "ns", "m")
    };
    for dry_run in [false, true, true, false] {
        assert!(chain.validate(&map(dry_run)).await.is_ok());
    }
    let refused = chain.validate(&map(false)).await.expect_err("full");
    assert_eq!(
        refused.to_string(),
        "configmaps \"m\" is forbidden: exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=2, limited: count/configmaps=2"
    );
}

proptest! {
    #[test]
    fn never_is_more_used_than_the_limit(limit in 0i64..3000, requests in prop::collection::vec(1i64..900, 0..12)) {
        let mut quota = quota(json!({"requests.cpu": format!("{limit}m")}), json!({"requests.cpu": "0"}));
        let mut sum = 0;
        for milli in requests {
            match charge(std::slice::from_ref(&quota), &pod(&format!("{milli}m"))) {
                Ok(changed) => {
                    sum += milli;
                    quota = changed[0].clone();
                }
                Err(_) => prop_assert!(sum + milli > limit),
            }
        }
        prop_assert!(sum <= limit);
    }
}
