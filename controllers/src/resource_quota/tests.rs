//! Counting agrees with charging.

use super::decide::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use steersman_quota::amounts;

fn quota(hard: Value, spec: Value) -> Value {
    let mut quota = json!({"metadata": {"name": "q"}, "spec": {"hard": hard}});
    for (key, value) in spec.as_object().cloned().unwrap_or_default() {
        quota["spec"][key] = value;
    }
    quota
}

fn pod(cpu: &str, phase: &str) -> Value {
    json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}, "status": {"phase": phase}})
}

#[test]
fn limits_name_the_resources_that_must_be_counted() {
    let hard =
        json!({"pods": "1", "secrets": "1", "count/deployments.apps": "1", "count/widgets.example.com": "1", "x": "1"});
    let names: Vec<String> = counted(&amounts::of(Some(&hard)))
        .into_iter()
        .map(|c| format!("{}/{}", c.group, c.plural))
        .collect();
    assert_eq!(names, ["/pods", "/secrets", "apps/deployments", "example.com/widgets"]);
}

#[test]
fn only_what_the_scopes_cover_is_counted() {
    let hard = json!({"pods": "5", "cpu": "5"});
    let quota = quota(hard.clone(), json!({"scopes": ["NotBestEffort"]}));
    let pods = [pod("1", "Running"), pod("0", "Running"), pod("2", "Succeeded")];
    let used = usage(
        &quota,
        &amounts::of(Some(&hard)),
        &Counted::new("", "pods"),
        pods.iter(),
        jiff::Timestamp::UNIX_EPOCH,
    );
    assert_eq!(amounts::shown(&used), "cpu=1,pods=1");
}

#[test]
fn a_status_is_written_once_and_keeps_what_could_not_be_counted() {
    let mut quota = quota(json!({"pods": "5", "odd": "1"}), json!({}));
    quota["status"] = json!({"hard": {"pods": "4"}, "used": {"odd": "1", "gone": "2"}});
    let new = status(&quota, &amounts::of(Some(&json!({"pods": "3"})))).unwrap();
    assert_eq!(
        new,
        json!({"hard": {"pods": "5", "odd": "1"}, "used": {"pods": "3", "odd": "1"}})
    );
    quota["status"] = new;
    assert_eq!(status(&quota, &amounts::of(Some(&json!({"pods": "3"})))), None);
}

#[test]
fn objects_known_by_metadata_are_counted_under_both_names() {
    let hard = json!({"configmaps": "5", "count/configmaps": "5"});
    let used = number(
        &quota(hard.clone(), json!({})),
        &amounts::of(Some(&hard)),
        &Counted::new("", "configmaps"),
        3,
    );
    assert_eq!(amounts::shown(&used), "configmaps=3,count/configmaps=3");
}

proptest! {
    #[test]
    fn usage_is_the_sum_of_what_runs(pods in prop::collection::vec((1u32..1000, any::<bool>()), 0..20)) {
        let hard = json!({"requests.cpu": "1", "pods": "1", "count/pods": "1"});
        let objects: Vec<Value> = pods.iter().map(|(milli, runs)| pod(&format!("{milli}m"), if *runs { "Running" } else { "Failed" })).collect();
        let used = usage(&quota(hard.clone(), json!({})), &amounts::of(Some(&hard)), &Counted::new("", "pods"), objects.iter(), jiff::Timestamp::UNIX_EPOCH);
        let running: Vec<u32> = pods.iter().filter(|p| p.1).map(|p| p.0).collect();
        prop_assert_eq!(used["requests.cpu"].milli_value(), i64::from(running.iter().sum::<u32>()));
        prop_assert_eq!(used["pods"].value() as usize, running.len());
        prop_assert_eq!(used["count/pods"].value() as usize, pods.len());
    }
}
