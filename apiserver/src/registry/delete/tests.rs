use super::*;
use serde_json::json;

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().expect("time")
}

fn pod() -> &'static Kind {
    steersman_kinds::find("", "v1", "pods").expect("pods")
}

fn config_map() -> &'static Kind {
    steersman_kinds::find("", "v1", "configmaps").expect("configmaps")
}

fn options(query: &str) -> DeleteOptions {
    DeleteOptions::read(None, &crate::query::Query::parse(query)).expect("options")
}

#[test]
fn an_object_that_nothing_holds_goes_at_once() {
    let object = json!({"metadata": {"name": "a"}});
    assert_eq!(decide(config_map(), &object, &options(""), now()), Verdict::Remove);
}

#[test]
fn finalizers_hold_an_object() {
    let object = json!({"metadata": {"name": "a", "finalizers": ["x/y"], "generation": 1}});
    let Verdict::Mark(marked) = decide(config_map(), &object, &options(""), now()) else {
        panic!("held")
    };
    assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-01T00:00:00Z");
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(marked["metadata"]["generation"], 2);
    // And a second delete changes nothing.
    assert_eq!(
        decide(config_map(), &marked, &options(""), now()),
        Verdict::AlreadyUnderWay
    );
}

#[test]
fn propagation_is_written_as_a_finalizer() {
    let object = json!({"metadata": {"name": "a"}});
    for (policy, finalizer) in [("Foreground", FOREGROUND), ("Orphan", ORPHAN)] {
        let Verdict::Mark(marked) = decide(
            config_map(),
            &object,
            &options(&format!("propagationPolicy={policy}")),
            now(),
        ) else {
            panic!("{policy}")
        };
        assert_eq!(marked["metadata"]["finalizers"], json!([finalizer]));
    }
    let orphaned = json!({"metadata": {"name": "a", "finalizers": [ORPHAN]}});
    assert_eq!(
        decide(config_map(), &orphaned, &options("propagationPolicy=Background"), now()),
        Verdict::Remove
    );
}

#[test]
fn a_running_pod_gets_its_grace_and_may_only_lose_some() {
    let object = json!({"metadata": {"name": "a", "generation": 1}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30},
        "status": {"phase": "Running"}});
    let Verdict::Mark(marked) = decide(pod(), &object, &options(""), now()) else {
        panic!("graceful")
    };
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-01T00:00:30Z");
    assert_eq!(
        decide(pod(), &marked, &options("gracePeriodSeconds=40"), now()),
        Verdict::AlreadyUnderWay
    );
    let Verdict::Mark(shorter) = decide(pod(), &marked, &options("gracePeriodSeconds=5"), now()) else {
        panic!("shorter")
    };
    assert_eq!(shorter["metadata"]["deletionTimestamp"], "2026-01-01T00:00:05Z");
    assert!(matches!(
        decide(pod(), &marked, &options("gracePeriodSeconds=0"), now()),
        Verdict::MarkAndRemove(_)
    ));
}

#[test]
fn a_pod_that_no_node_has_goes_at_once() {
    let object = json!({"metadata": {"name": "a"}, "spec": {"terminationGracePeriodSeconds": 30}, "status": {"phase": "Pending"}});
    assert!(matches!(
        decide(pod(), &object, &options(""), now()),
        Verdict::MarkAndRemove(_)
    ));
}

#[test]
fn the_last_finalizer_takes_the_object_along() {
    let old = json!({"metadata": {"finalizers": ["x/y"], "deletionTimestamp": "t", "deletionGracePeriodSeconds": 0}});
    let new = json!({"metadata": {"deletionTimestamp": "t", "deletionGracePeriodSeconds": 0}});
    assert!(emptied_finalizers(&new, &old));
    let alive = json!({"metadata": {}});
    assert!(!emptied_finalizers(
        &alive,
        &json!({"metadata": {"finalizers": ["x/y"]}})
    ));
    let graceful = json!({"metadata": {"deletionTimestamp": "t", "deletionGracePeriodSeconds": 30}});
    assert!(!emptied_finalizers(&new, &graceful));
}
