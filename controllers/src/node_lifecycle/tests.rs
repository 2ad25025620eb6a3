//! Nodes that speak, fall silent and come back; taints under arbitrary conditions.

use super::decide::*;
use super::*;
use proptest::prelude::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn node(ready: Option<&str>, heartbeat: i64) -> Node {
    let mut value =
        json!({"metadata": {"name": "n", "creationTimestamp": at(0).to_string()}, "spec": {}, "status": {}});
    if let Some(ready) = ready {
        value["status"]["conditions"] =
            json!([{"type": "Ready", "status": ready, "lastHeartbeatTime": at(heartbeat).to_string()}]);
    }
    Node::from_value(&value).unwrap()
}

fn pace(may: bool) -> Pace {
    if may { Pace::Go } else { Pace::Wait }
}

fn lease(renewed: i64) -> Lease {
    let time = format!("{}", at(renewed).strftime("%Y-%m-%dT%H:%M:%S.000000Z"));
    Lease::from_value(&json!({"metadata": {"name": "n"}, "spec": {"renewTime": time}})).unwrap()
}

#[test]
fn a_node_is_silent_fifty_seconds_after_we_last_saw_it_renew() {
    let settings = Settings::default();
    let node = node(Some("True"), 0);
    let mut health = None;
    // The node's own clock is an hour behind: that must not matter.
    for second in (0..100).step_by(5) {
        let verdict = judge(
            &node,
            Some(&lease(second - 3600)),
            None,
            health.as_ref(),
            at(second),
            &settings,
        );
        assert!(verdict.silent.is_none());
        health = Some(verdict.health);
    }
    let stuck = lease(95 - 3600);
    assert!(
        judge(&node, Some(&stuck), None, health.as_ref(), at(145), &settings)
            .silent
            .is_none()
    );
    let verdict = judge(&node, Some(&stuck), None, health.as_ref(), at(146), &settings);
    let status = verdict.silent.unwrap();
    let ready = status
        .conditions
        .as_ref()
        .unwrap()
        .iter()
        .find(|c| c.type_ == "Ready")
        .unwrap();
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_deref()),
        ("Unknown", Some("NodeStatusUnknown"))
    );
    assert_eq!(status.conditions.unwrap().len(), 4);
}

#[test]
fn a_node_that_never_spoke_has_a_minute_from_its_creation() {
    let settings = Settings::default();
    assert!(
        judge(&node(None, 0), None, None, None, at(60), &settings)
            .silent
            .is_none()
    );
    let status = judge(&node(None, 0), None, None, None, at(61), &settings)
        .silent
        .unwrap();
    assert_eq!(
        status.conditions.unwrap()[0].reason.as_deref(),
        Some("NodeStatusNeverUpdated")
    );
}

#[test]
fn silence_counts_from_the_moment_in_which_a_renewal_was_heard_not_from_the_look_after_it() {
    let settings = Settings::default();
    let node = node(Some("True"), 0);
    let first = judge(&node, Some(&lease(0)), None, None, at(0), &settings);
    assert_eq!(first.due, Some(at(50)));
    let heard = Renewal {
        renewed: at(10),
        seen: at(11),
    };
    let second = judge(
        &node,
        Some(&lease(10)),
        Some(heard),
        Some(&first.health),
        at(15),
        &settings,
    );
    assert_eq!(second.due, Some(at(61)));
    // The cache is ahead of what the watch has told: the older renewal says nothing about this one.
    let ahead = judge(
        &node,
        Some(&lease(20)),
        Some(heard),
        Some(&second.health),
        at(22),
        &settings,
    );
    assert_eq!(ahead.due, Some(at(72)));
    let silent = judge(
        &node,
        Some(&lease(20)),
        Some(heard),
        Some(&ahead.health),
        at(73),
        &settings,
    );
    assert!(silent.silent.is_some() && silent.due.is_none());
}

#[test]
fn the_older_labels_say_what_the_present_ones_say() {
    let mut node = node(Some("True"), 0);
    assert!(decide::labels(&node).is_empty());
    let labels = node.metadata.labels.get_or_insert_default();
    labels.insert("kubernetes.io/os".into(), "linux".into());
    labels.insert("beta.kubernetes.io/os".into(), "plan9".into());
    labels.insert("kubernetes.io/arch".into(), "arm64".into());
    let wanted = decide::labels(&node);
    let expected = [("beta.kubernetes.io/arch", "arm64"), ("beta.kubernetes.io/os", "linux")];
    assert!(wanted.iter().map(|(k, v)| (k.as_str(), v.as_str())).eq(expected));
    node.metadata.labels.as_mut().unwrap().extend(wanted);
    assert!(decide::labels(&node).is_empty());
}

#[test]
fn a_silent_node_is_tainted_unreachable_and_a_ready_one_not_at_all() {
    let keys = |node: &Node, may: bool| -> Vec<(String, String)> {
        decide::taints(node, pace(may), at(0))
            .unwrap_or_default()
            .into_iter()
            .map(|t| (t.key, t.effect))
            .collect()
    };
    let unreachable = "node.kubernetes.io/unreachable".to_owned();
    let unknown = node(Some("Unknown"), 0);
    assert_eq!(
        keys(&unknown, true),
        [
            (unreachable.clone(), "NoSchedule".to_owned()),
            (unreachable.clone(), "NoExecute".to_owned())
        ]
    );
    assert_eq!(keys(&unknown, false), [(unreachable, "NoSchedule".to_owned())]);
    let mut back = node(Some("True"), 0);
    let mut tainted = unknown.clone();
    tainted.spec.as_mut().unwrap().taints = decide::taints(&unknown, Pace::Go, at(0));
    let left = decide::taints(&tainted, Pace::Stop, at(1)).unwrap();
    assert!(left.iter().all(|taint| taint.effect == "NoSchedule"));
    back.spec.as_mut().unwrap().taints = decide::taints(&unknown, Pace::Go, at(0));
    assert_eq!(decide::taints(&back, Pace::Go, at(1)), Some(Vec::new()));
}

proptest! {
    #[test]
    fn foreign_taints_stay_and_a_second_run_changes_nothing(
        ready in prop_oneof![Just(None), Just(Some("True")), Just(Some("False")), Just(Some("Unknown"))],
        pressure in proptest::collection::vec(any::<bool>(), 4), unschedulable: bool, may: bool, tainted: bool,
    ) {
        let mut node = node(ready, 0);
        let conditions = node.status.as_mut().unwrap().conditions.get_or_insert_default();
        for (kind, on) in ["MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable"].iter().zip(&pressure) {
            conditions.push(steersman_types::api::core::v1::NodeCondition {
                type_: (*kind).to_owned(),
                status: if *on { "True" } else { "False" }.to_owned(),
                ..Default::default()
            });
        }
        let spec = node.spec.as_mut().unwrap();
        spec.unschedulable = Some(unschedulable);
        let foreign = Taint { key: "example.com/gpu".into(), effect: "NoExecute".into(), ..Default::default() };
        if tainted {
            spec.taints = Some(vec![foreign.clone()]);
        }
        if let Some(taints) = decide::taints(&node, pace(may), at(0)) {
            node.spec.as_mut().unwrap().taints = Some(taints);
        }
        let now = node.spec.as_ref().unwrap().taints.clone().unwrap_or_default();
        prop_assert_eq!(now.contains(&foreign), tainted);
        prop_assert_eq!(evicts(&now), may && matches!(ready, Some("False" | "Unknown")));
        prop_assert_eq!(decide::taints(&node, pace(may), at(9)), None);
    }
}
