//! Counting agrees with charging.

use std::time::{Duration, Instant};

use super::decide::*;
use super::doubt::{Doubts, SETTLED};
use proptest::prelude::*;
use serde_json::{Value, json};
use steersman_quota::amounts;
use steersman_runtime::Key;

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

#[test]
fn a_count_below_what_is_charged_raises_nothing_and_lowers_nothing_yet() {
    let mut quota = quota(json!({"pods": "9", "services": "9"}), json!({}));
    let count = |pods: &str, services: &str| amounts::of(Some(&json!({"pods": pods, "services": services})));
    assert!(!is_below(&quota, &count("0", "0")), "nothing was charged so far");
    quota["status"] = json!({"used": {"pods": "3", "services": "3"}});
    assert!(!is_below(&quota, &count("3", "4")));
    assert!(is_below(&quota, &count("2", "4")));
    assert_eq!(amounts::shown(&not_below(&quota, count("2", "4"))), "pods=3,services=4");
}

#[test]
fn a_lower_count_is_believed_when_nothing_was_charged_for_a_while() {
    let (mut doubts, start) = (Doubts::default(), Instant::now());
    let key = Key::new("n", "q");
    let mut believe = |version: &str, millis: u64| doubts.believe(&key, version, start + Duration::from_millis(millis));
    let settled = u64::try_from(SETTLED.as_millis()).unwrap();
    assert!(!believe("1", 0));
    assert!(!believe("1", settled - 1));
    assert!(!believe("2", settled), "charged meanwhile");
    assert!(!believe("2", 2 * settled - 1));
    assert!(believe("2", 2 * settled));
    assert!(
        !believe("2", 2 * settled),
        "it was written then: this would be another one"
    );
    let charges: Vec<bool> = (0..10_u64)
        .map(|n| believe(&n.to_string(), 2 * settled + 300 * n))
        .collect();
    assert_eq!(
        charges.iter().filter(|b| **b).count(),
        1,
        "not put off for ever: {charges:?}"
    );
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
