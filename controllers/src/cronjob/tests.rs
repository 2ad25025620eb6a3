//! When a job starts, and what becomes of the others.

use super::decide::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use steersman_types::Typed;
use steersman_types::api::batch::v1::{CronJob, Job};

const NOON: &str = "2026-03-01T12:00:00Z";

fn cron(spec: Value, status: Value) -> Arc<CronJob> {
    let mut full = json!({"schedule": "*/10 * * * *", "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"template": {"spec": {"containers": []}}}}});
    for (key, value) in spec.as_object().cloned().unwrap_or_default() {
        full[key] = value;
    }
    let value = json!({"metadata": {"name": "c", "namespace": "ns", "uid": "cron", "creationTimestamp": "2026-03-01T11:55:00Z"},
        "spec": full, "status": status});
    Arc::new(CronJob::from_value(&value).unwrap())
}

fn job(name: &str, ended: Option<&str>) -> Arc<Job> {
    let conditions: Vec<Value> = ended.iter().map(|c| json!({"type": c, "status": "True"})).collect();
    let value = json!({"metadata": {"name": name, "namespace": "ns", "uid": name},
        "status": {"startTime": "2026-03-01T11:00:00Z", "completionTime": "2026-03-01T11:30:00Z", "conditions": conditions}});
    Arc::new(Job::from_value(&value).unwrap())
}

fn active(names: &[&str]) -> Value {
    let list: Vec<Value> = names
        .iter()
        .map(|n| json!({"name": n, "namespace": "ns", "uid": n}))
        .collect();
    json!({"active": list})
}

fn seen(cron: Arc<CronJob>, jobs: Vec<Arc<Job>>, now: &str) -> Observed {
    Observed {
        cron,
        jobs,
        gone: BTreeSet::new(),
        now: now.parse().unwrap(),
    }
}

fn reasons(plan: &Plan) -> Vec<&'static str> {
    plan.remarks.iter().map(|(_, reason, _)| *reason).collect()
}

#[test]
fn a_job_starts_when_it_is_due_and_is_named_after_its_minute() {
    let early = decide(&seen(cron(json!({}), json!({})), vec![], "2026-03-01T11:59:00Z"));
    assert!(early.start.is_none());
    assert_eq!(early.again, Some(Duration::from_millis(60_100)));
    let plan = decide(&seen(
        cron(json!({"timeZone": "Europe/Berlin"}), json!({})),
        vec![],
        NOON,
    ));
    let (job, _) = plan.start.unwrap();
    assert_eq!(job.metadata.name.as_deref(), Some("c-29539440"));
    assert_eq!(
        job.metadata.annotations.unwrap()["batch.kubernetes.io/cronjob-scheduled-timestamp"],
        "2026-03-01T13:00:00+01:00"
    );
    assert_eq!(plan.again, Some(Duration::from_millis(600_100)));
}

#[test]
fn a_time_that_was_used_is_not_used_again() {
    let used = cron(json!({}), json!({"lastScheduleTime": NOON}));
    assert!(decide(&seen(used, vec![], "2026-03-01T12:00:05Z")).start.is_none());
}

#[test]
fn a_fixed_distance_is_counted_from_the_creation_however_much_was_missed() {
    let every = cron(json!({"schedule": "@every 90m"}), json!({}));
    let plan = decide(&seen(every, vec![], "2026-03-01T17:00:00Z"));
    assert_eq!(plan.start.unwrap().1.to_string(), "2026-03-01T16:25:00Z");
}

#[test]
fn a_zone_inside_the_schedule_is_remarked_unless_the_job_is_suspended() {
    let remarks = |suspend: bool| {
        let cron = cron(json!({"schedule": "TZ=UTC 0 0 * * *", "suspend": suspend}), json!({}));
        reasons(&decide(&seen(cron, vec![], NOON)))
    };
    assert_eq!(remarks(false), ["UnsupportedSchedule"]);
    assert!(remarks(true).is_empty());
}

#[test]
fn the_policy_says_what_happens_beside_a_running_job() {
    let plan = |policy: &str| {
        let cron = cron(json!({"concurrencyPolicy": policy}), active(&["old"]));
        decide(&seen(cron, vec![job("old", None)], NOON))
    };
    assert!(plan("Allow").start.is_some() && plan("Allow").replace.is_empty());
    assert_eq!(
        (plan("Forbid").start.is_some(), reasons(&plan("Forbid"))),
        (false, vec!["JobAlreadyActive"])
    );
    assert_eq!(
        (plan("Replace").start.is_some(), plan("Replace").replace.len()),
        (true, 1)
    );
}

#[test]
fn a_suspended_or_late_job_does_not_start() {
    assert!(
        decide(&seen(cron(json!({"suspend": true}), json!({})), vec![], NOON))
            .start
            .is_none()
    );
    let strict = cron(
        json!({"schedule": "0 12 * * *", "startingDeadlineSeconds": 30}),
        json!({}),
    );
    assert!(
        decide(&seen(strict.clone(), vec![], "2026-03-01T12:00:20Z"))
            .start
            .is_some()
    );
    assert!(decide(&seen(strict, vec![], "2026-03-01T12:00:40Z")).start.is_none());
}

#[test]
fn ended_jobs_leave_the_list_and_the_oldest_are_forgotten() {
    let cron = cron(
        json!({"successfulJobsHistoryLimit": 1, "suspend": true}),
        active(&["b", "lost"]),
    );
    let mut observed = seen(cron, vec![job("a", Some("Complete")), job("b", Some("Complete"))], NOON);
    observed.gone.insert("lost".into());
    let plan = decide(&observed);
    assert_eq!(reasons(&plan), ["SawCompletedJob", "MissingJob"]);
    assert_eq!(plan.remarks[0].2, "Saw completed job: b, condition: Complete");
    assert_eq!(plan.forget.len(), 1);
    assert_eq!(plan.forget[0].metadata.name.as_deref(), Some("a"));
    assert!(plan.status.active.unwrap().is_empty() && plan.status.last_successful_time.is_some());
}

#[test]
fn what_cannot_be_understood_is_said() {
    for (spec, reason) in [
        (json!({"timeZone": "Nowhere/Land"}), "UnknownTimeZone"),
        (json!({"schedule": "x"}), "UnparseableSchedule"),
        (json!({"schedule": "59 23 31 2 *"}), "InvalidSchedule"),
        (json!({"schedule": "TZ=UTC 0 0 1 1 *"}), "UnsupportedSchedule"),
    ] {
        assert_eq!(reasons(&decide(&seen(cron(spec, json!({})), vec![], NOON))), [reason]);
    }
}

proptest! {
    #[test]
    fn only_the_latest_missed_time_is_made_up_for(minutes in 1i64..5000, step in 1u32..30) {
        let spec = json!({"schedule": format!("*/{step} * * * *")});
        let now = NOON.parse::<jiff::Timestamp>().unwrap() + jiff::SignedDuration::from_mins(minutes);
        let mut observed = seen(cron(spec, json!({"lastScheduleTime": NOON})), vec![], NOON);
        observed.now = now;
        let plan = decide(&observed);
        if let Some((_, due)) = plan.start {
            prop_assert!(due <= now && now.duration_since(due).as_mins() < 60);
            // The next time comes after this one.
            prop_assert!(plan.again.unwrap() > Duration::ZERO);
        } else {
            prop_assert!(minutes < i64::from(step));
        }
    }
}
