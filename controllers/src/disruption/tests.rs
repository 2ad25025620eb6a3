//! What a budget allows, case by case and for any cluster.

use super::decide::*;
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use steersman_types::Typed;
use steersman_types::api::core::v1::Pod;
use steersman_types::api::policy::v1::PodDisruptionBudget;

const NOW: &str = "2026-03-01T12:00:00Z";

fn budget(spec: Value, status: Value) -> Arc<PodDisruptionBudget> {
    let mut full = json!({"selector": {"matchLabels": {"app": "a"}}});
    full.as_object_mut().unwrap().extend(spec.as_object().cloned().unwrap());
    let value = json!({"metadata": {"name": "b", "namespace": "ns", "generation": 2}, "spec": full, "status": status});
    Arc::new(PodDisruptionBudget::from_value(&value).unwrap())
}

fn pod(i: usize, ready: bool, going: bool, owned: bool) -> Arc<Pod> {
    let mut value = json!({"metadata": {"name": format!("p{i}"), "namespace": "ns"},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}});
    if going {
        value["metadata"]["deletionTimestamp"] = NOW.into();
    }
    if owned {
        value["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "rs", "controller": true}]);
    }
    Arc::new(Pod::from_value(&value).unwrap())
}

fn seen(budget: Arc<PodDisruptionBudget>, pods: Vec<Arc<Pod>>, replicas: i32) -> Observed {
    let scale = Scale {
        uid: "dep".into(),
        replicas,
    };
    Observed {
        budget,
        pods,
        scales: Ok(BTreeMap::from([("rs".to_owned(), Some(scale))])),
        now: NOW.parse().unwrap(),
    }
}

/// Healthy, desired, expected, allowed.
fn counts(plan: &Plan) -> [i32; 4] {
    let s = plan.status.clone().unwrap_or_default();
    [
        s.current_healthy,
        s.desired_healthy,
        s.expected_pods,
        s.disruptions_allowed,
    ]
    .map(|n| n.unwrap_or(-1))
}

fn ready(n: usize) -> Vec<Arc<Pod>> {
    (0..n).map(|i| pod(i, true, false, true)).collect()
}

#[test]
fn numbers_and_percentages_are_counted_as_upstream_does() {
    for (spec, replicas, expected) in [
        (json!({"minAvailable": 2}), 9, [3, 2, 3, 1]),
        (json!({"minAvailable": "50%"}), 5, [3, 3, 5, 0]),
        (json!({"maxUnavailable": 1}), 3, [3, 2, 3, 1]),
        (json!({"maxUnavailable": "30%"}), 10, [3, 7, 10, 0]),
        (json!({"maxUnavailable": "34%"}), 3, [3, 1, 3, 2]),
        (json!({"maxUnavailable": 9}), 3, [3, 0, 3, 3]),
    ] {
        assert_eq!(
            counts(&decide(&seen(budget(spec.clone(), json!({})), ready(3), replicas))),
            expected,
            "{spec}"
        );
    }
}

#[test]
fn a_pod_that_was_evicted_does_not_count_until_it_is_gone_or_two_minutes_have_passed() {
    let status = json!({"disruptedPods": {"p0": "2026-03-01T11:59:00Z", "p1": "2026-03-01T11:00:00Z", "gone": NOW}});
    let plan = decide(&seen(budget(json!({"minAvailable": 1}), status), ready(3), 3));
    assert_eq!(counts(&plan), [2, 1, 3, 1]);
    let left: Vec<String> = plan.status.unwrap().disrupted_pods.unwrap().into_keys().collect();
    assert_eq!(left, ["p0"]);
    assert_eq!(plan.stayed.len(), 1);
    assert_eq!(plan.again, Some(Duration::from_millis(60_010)));
}

#[test]
fn what_cannot_be_counted_allows_nothing() {
    let mut observed = seen(
        budget(json!({"maxUnavailable": 1}), json!({"disruptionsAllowed": 1})),
        ready(1),
        1,
    );
    observed.scales = Ok(BTreeMap::new());
    let plan = decide(&observed);
    let status = plan.status.unwrap();
    let condition = &status.conditions.unwrap()[0];
    assert_eq!(
        (status.disruptions_allowed, condition.reason.as_str()),
        (Some(0), "SyncFailed")
    );
    assert_eq!(condition.message, "found no controllers for pod \"p0\"");
    assert_eq!(plan.remarks[0].1, "CalculateExpectedPodCountFailed");
}

#[test]
fn pods_without_a_controller_are_told_of() {
    let plan = decide(&seen(
        budget(json!({"maxUnavailable": 1}), json!({})),
        vec![pod(0, true, false, false)],
        1,
    ));
    assert_eq!(plan.remarks[0].1, "UnmanagedPods");
    assert!(plan.remarks[0].2.contains(
        "(selector: &LabelSelector{MatchLabels:map[string]string{app: a,},MatchExpressions:[]LabelSelectorRequirement{},})"
    ));
}

#[test]
fn a_mark_that_came_to_nothing_is_stale_after_two_minutes() {
    let marked = |reason: &str| {
        let value = json!({"metadata": {}, "status": {"phase": "Running", "conditions": [
            {"type": "DisruptionTarget", "status": "True", "reason": reason, "lastTransitionTime": "2026-03-01T11:59:00Z"}]}});
        stale_in(&Pod::from_value(&value).unwrap(), NOW.parse().unwrap())
    };
    assert_eq!(marked("EvictionByEvictionAPI"), Some(Duration::from_secs(60)));
    assert_eq!(marked("TerminationByKubelet"), None);
}

proptest! {
    #[test]
    fn never_are_more_disruptions_allowed_than_healthy_pods_beyond_the_least(
        states in prop::collection::vec((any::<bool>(), any::<bool>()), 0..12), least in 0i32..12, percent in 0i32..=100, replicas in 0i32..12,
    ) {
        let pods: Vec<_> = states.iter().enumerate().map(|(i, (ready, going))| pod(i, *ready, *going, true)).collect();
        let healthy = states.iter().filter(|(ready, going)| *ready && !going).count() as i32;
        for spec in [json!({"minAvailable": least}), json!({"minAvailable": format!("{percent}%")}), json!({"maxUnavailable": least})] {
            let observed = seen(budget(spec, json!({})), pods.clone(), replicas);
            let plan = decide(&observed);
            let [current, desired, _, allowed] = counts(&plan);
            prop_assert_eq!(current, healthy);
            prop_assert!(allowed == 0 || healthy - allowed >= desired);
            // Written once, the same is not written again.
            let mut after = observed.budget.as_ref().clone();
            after.status = plan.status;
            let again = decide(&Observed { budget: Arc::new(after), now: observed.now + jiff::SignedDuration::from_secs(5), ..observed });
            prop_assert!(again.status.is_none());
        }
    }

    #[test]
    fn shares_are_never_negative(percent in 0i32..=100, count in 0usize..50) {
        let pods = ready(count);
        let now: Timestamp = NOW.parse().unwrap();
        let plan = decide(&Observed { now, ..seen(budget(json!({"maxUnavailable": format!("{percent}%")}), json!({})), pods, count as i32) });
        let [_, desired, _, allowed] = counts(&plan);
        prop_assert!(desired >= 0 && allowed >= 0);
    }
}
