//! What a write of a Job's status may say. Since a Job can be managed by somebody else's controller, the changes that its
//! readers rely on are held: what has ended stays ended, counts do not sink, a finished job runs nothing.
//!
//! Most faults count only where one of the fields they speak of changes: a job that broke a rule before may still be
//! written for other reasons, and a list of indexes may stay ahead of completions that somebody has just lowered.

use super::{condition, indexes};
use crate::view::View;
use crate::workload::non_negatives;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path};

/// The conditions of both states that decide which rules count.
struct Ends {
    complete: bool,
    failed: bool,
    /// Will fail: its pods are being stopped.
    target: bool,
    /// Will succeed: its pods are being stopped.
    met: bool,
}

impl Ends {
    fn of(job: &Value) -> Self {
        Self {
            complete: condition(job, "Complete"),
            failed: condition(job, "Failed"),
            target: condition(job, "FailureTarget"),
            met: condition(job, "SuccessCriteriaMet"),
        }
    }
    fn finished(&self) -> bool {
        self.complete || self.failed
    }
}

pub fn validate(new: &Value, old: &Value) -> FieldErrors {
    let path = Path::new("status");
    let status = new.at("/status");
    let keys = ["active", "succeeded", "failed", "ready", "terminating"];
    let mut errors = non_negatives(status, &keys, &path);
    errors.extend(uncounted(status, &path));
    let (now, was) = (Ends::of(new), Ends::of(old));
    errors.extend(ends(new, old, &now, &was));
    errors.extend(finished_jobs_rest(new, old, &now, &was));
    errors.extend(lists(new, old));
    let changed = |key: &str| status.at(key) != old.at("/status").at(key);
    let finished = now.finished() != was.finished();
    let (active, terminating) = (status.int("/active"), status.int("/terminating"));
    if (finished || changed("/terminating")) && now.finished() && terminating > 0 {
        let why = "terminating>0 is invalid for finished job";
        errors.push(FieldError::invalid(&path.child("terminating"), terminating, why));
    }
    let ready = status.at("/ready").as_i64();
    let moved = changed("/ready") || active != old.int("/status/active");
    if let Some(ready) = ready.filter(|r| moved && *r > active) {
        let why = "cannot set more ready pods than active";
        errors.push(FieldError::invalid(&path.child("ready"), ready, why));
    }
    let mut say = |broken: bool, why: &str| {
        errors.extend(broken.then(|| FieldError::invalid(&path.child("conditions"), BadValue::Omitted, why)));
    };
    say(
        now.met && now.failed,
        "cannot set SuccessCriteriaMet=True and Failed=true conditions",
    );
    say(
        now.met && now.target,
        "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
    );
    say(
        new.has("/spec/successPolicy") && now.complete && !now.met,
        "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
    );
    errors.extend(steps(new, old, &now, &was));
    errors
}

/// Pods that have ended and are not counted yet: each named once.
fn uncounted(status: &Value, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    let path = path.child("uncountedTerminatedPods");
    for key in ["succeeded", "failed"] {
        let list = status.items(&format!("/uncountedTerminatedPods/{key}"));
        for (i, uid) in list.iter().enumerate() {
            let uid = uid.as_str().unwrap_or_default();
            let place = path.child(key).index(i);
            if uid.is_empty() {
                errors.push(FieldError::invalid(&place, uid, "must not be empty"));
            } else if !seen.insert(uid) {
                errors.push(FieldError::duplicate(&place, uid));
            }
        }
    }
    errors
}

/// Conditions that exclude or presume each other, and the time of completion.
fn ends(new: &Value, old: &Value, now: &Ends, was: &Ends) -> FieldErrors {
    let mut errors = Vec::new();
    let path = Path::new("status");
    let complete = now.complete != was.complete;
    let conditions = |why: &str| FieldError::invalid(&path.child("conditions"), BadValue::Omitted, why);
    if now.complete && now.failed && (complete || now.failed != was.failed) {
        errors.push(conditions("cannot set Complete=True and Failed=true conditions"));
    }
    if now.complete && now.target && (complete || now.target != was.target) {
        errors.push(conditions("cannot set Complete=True and FailureTarget=true conditions"));
    }
    let place = path.child("completionTime");
    let (done, started) = (new.at("/status/completionTime"), new.at("/status/startTime"));
    let done_moved = done != old.at("/status/completionTime");
    if complete || done_moved {
        if !done.is_null() && !now.complete {
            let why = "cannot set completionTime when there is no Complete=True condition";
            errors.push(FieldError::invalid(&place, done, why));
        }
        if done.is_null() && now.complete {
            errors.push(FieldError::required(
                &place,
                "completionTime is required for Complete jobs",
            ));
        }
    }
    let time = |value: &Value| value.as_str().and_then(|t| t.parse::<Timestamp>().ok());
    if (done_moved || started != old.at("/status/startTime"))
        && let (Some(start), Some(end)) = (time(started), time(done))
        && end < start
    {
        errors.push(FieldError::invalid(
            &place,
            done,
            "must be equal to or after `startTime`",
        ));
    }
    let failed_list = new.at("/status/failedIndexes") != old.at("/status/failedIndexes");
    if now.failed && !now.target && (now.failed != was.failed || failed_list) {
        errors.push(conditions(
            "cannot set Failed=True condition without the FailureTarget=true condition",
        ));
    }
    if now.complete && !now.met && (complete || now.met != was.met) {
        errors.push(conditions(
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
        ));
    }
    errors
}

/// A finished job has begun, runs nothing, and has counted all its pods.
fn finished_jobs_rest(new: &Value, old: &Value, now: &Ends, was: &Ends) -> FieldErrors {
    let mut errors = Vec::new();
    if !now.finished() {
        return errors;
    }
    let path = Path::new("status");
    let (status, before) = (new.at("/status"), old.at("/status"));
    let changed = |key: &str| !was.finished() || status.at(key) != before.at(key);
    let active = status.int("/active");
    if active > 0 && changed("/active") {
        let why = "active>0 is invalid for finished job";
        errors.push(FieldError::invalid(&path.child("active"), active, why));
    }
    let never = new.flag("/spec/suspend") && new.at("/spec/completions") == 0;
    if !status.has("/startTime") && changed("/startTime") && !never {
        let why = "startTime is required for finished job";
        errors.push(FieldError::required(&path.child("startTime"), why));
    }
    let left = |key: &str| status.items(&format!("/uncountedTerminatedPods/{key}"));
    let (succeeded, failed) = (left("succeeded"), left("failed"));
    if succeeded.len() + failed.len() > 0 && changed("/uncountedTerminatedPods") {
        // Shown as upstream's internal struct, whose empty lists are null.
        let list = |items: &[Value]| if items.is_empty() { Value::Null } else { json!(items) };
        let shown = format!("{{\"Succeeded\":{},\"Failed\":{}}}", list(succeeded), list(failed));
        let place = path.child("uncountedTerminatedPods");
        errors.push(FieldError::invalid(
            &place,
            BadValue::Raw(shown),
            "must be empty for finished job",
        ));
    }
    errors
}

/// The lists of completed and failed indexes, where they change.
fn lists(new: &Value, old: &Value) -> FieldErrors {
    let mut errors = Vec::new();
    let path = Path::new("status");
    let (done_at, failed_at) = (path.child("completedIndexes"), path.child("failedIndexes"));
    let completions = new.at("/spec/completions").as_i64();
    let done = new.text("/status/completedIndexes");
    let failed = new.at("/status/failedIndexes").as_str();
    let done_moved = done != old.text("/status/completedIndexes");
    let failed_moved = failed != old.at("/status/failedIndexes").as_str();
    let per_index = new.has("/spec/backoffLimitPerIndex");
    let unreadable = |list: &str| completions.and_then(|c| indexes::count(list, c).err());
    if done_moved && let Some(why) = unreadable(done) {
        let why = format!("error parsing completedIndexes: {why}");
        errors.push(FieldError::invalid(&done_at, done, why));
    }
    let failed_new = failed.filter(|_| failed_moved);
    if per_index
        && let Some(failed) = failed_new
        && let Some(why) = unreadable(failed)
    {
        let why = format!("error parsing failedIndexes: {why}");
        errors.push(FieldError::invalid(&failed_at, failed, why));
    }
    if done_moved && !done.is_empty() && new.text("/spec/completionMode") != "Indexed" {
        let why = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.push(FieldError::invalid(&done_at, done, why));
    }
    if !per_index && let Some(failed) = failed_new {
        let why = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.push(FieldError::invalid(&failed_at, failed, why));
    }
    if (done_moved || failed_moved)
        && let (Some(failed), Some(completions)) = (failed, completions)
        && let Some(index) = indexes::overlap(done, failed, completions)
    {
        let why = format!("failedIndexes and completedIndexes overlap at index: {index}");
        errors.push(FieldError::invalid(&failed_at, failed, why));
    }
    errors
}

/// Steps back that no status takes.
fn steps(new: &Value, old: &Value, now: &Ends, was: &Ends) -> FieldErrors {
    let mut errors = Vec::new();
    let path = Path::new("status");
    let conditions = |why: String| FieldError::invalid(&path.child("conditions"), BadValue::Omitted, why);
    for (kind, before, after) in [
        ("Failed", was.failed, now.failed),
        ("Complete", was.complete, now.complete),
        ("FailureTarget", was.target, now.target),
    ] {
        if before && !after {
            errors.push(conditions(format!("cannot disable the terminal {kind}=True condition")));
        }
    }
    // An indexed job with as many pods as completions can be made smaller.
    let indexed = new.text("/spec/completionMode") == "Indexed";
    let elastic = indexed && new.at("/spec/completions") == new.at("/spec/parallelism");
    for (key, counted) in [("failed", true), ("succeeded", !elastic)] {
        let at = format!("/status/{key}");
        let (after, before) = (new.int(&at), old.int(&at));
        if counted && after < before {
            let why = format!("cannot decrease the {key} counter");
            errors.push(FieldError::invalid(&path.child(key), after, why));
        }
    }
    let (done, was_done) = (new.at("/status/completionTime"), old.at("/status/completionTime"));
    if !done.is_null() && !was_done.is_null() && done != was_done {
        errors.push(FieldError::invalid(
            &path.child("completionTime"),
            done,
            "field is immutable",
        ));
    }
    let (start, was_start) = (new.at("/status/startTime"), old.at("/status/startTime"));
    let awake = new
        .items("/status/conditions")
        .iter()
        .any(|c| c.text("/type") == "Suspended" && c.text("/status") == "False");
    let resuming = condition(old, "Suspended") && awake;
    if !was_start.is_null() && start != was_start && !resuming && !new.flag("/spec/suspend") {
        let why = "field is immutable for unsuspended job once set";
        errors.push(FieldError::invalid(&path.child("startTime"), start, why));
    }
    if was.met && !now.met {
        errors.push(conditions(
            "cannot disable the SuccessCriteriaMet=True condition".to_owned(),
        ));
    }
    if was.complete && !was.met && now.met {
        let why = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        errors.push(conditions(why.to_owned()));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(spec: Value, status: Value) -> Value {
        json!({"metadata": {"name": "j"}, "spec": spec, "status": status})
    }
    fn on(kinds: &[&str]) -> Value {
        kinds.iter().map(|k| json!({"type": k, "status": "True"})).collect()
    }
    #[track_caller]
    fn check(new: &Value, old: &Value, expected: &[&str]) {
        let got: Vec<String> = validate(new, old).iter().map(ToString::to_string).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn a_job_cannot_end_both_ways_and_its_faults_stand_in_upstreams_order() {
        let old = job(json!({}), json!({}));
        let status =
            json!({"active": -1, "ready": 0, "completedIndexes": "x", "conditions": on(&["Complete", "Failed"])});
        check(
            &job(json!({"completionMode": "NonIndexed"}), status),
            &old,
            &[
                "status.active: Invalid value: -1: must be greater than or equal to 0",
                "status.conditions: Invalid value: cannot set Complete=True and Failed=true conditions",
                "status.completionTime: Required value: completionTime is required for Complete jobs",
                "status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition",
                "status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
                "status.startTime: Required value: startTime is required for finished job",
                "status.completedIndexes: Invalid value: \"x\": cannot set non-empty completedIndexes when non-indexed completion mode",
                "status.ready: Invalid value: 0: cannot set more ready pods than active",
            ],
        );
    }

    #[test]
    fn a_finished_job_has_counted_its_pods_and_ended_after_it_began() {
        let (start, end) = ("2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z");
        let old = job(json!({}), json!({"startTime": start}));
        let conditions = on(&["SuccessCriteriaMet", "Complete"]);
        let status = json!({"startTime": start, "completionTime": end, "conditions": conditions,
            "uncountedTerminatedPods": {"succeeded": ["a", "a"], "failed": [""]}});
        check(
            &job(json!({}), status),
            &old,
            &[
                "status.uncountedTerminatedPods.succeeded[1]: Duplicate value: \"a\"",
                "status.uncountedTerminatedPods.failed[0]: Invalid value: \"\": must not be empty",
                "status.completionTime: Invalid value: \"2026-01-01T00:00:00Z\": must be equal to or after `startTime`",
                "status.uncountedTerminatedPods: Invalid value: {\"Succeeded\":[\"a\",\"a\"],\"Failed\":[\"\"]}: must be empty for finished job",
            ],
        );
    }

    #[test]
    fn the_start_of_a_job_moves_only_while_it_is_suspended_or_wakes() {
        let (was, is) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let old = job(json!({}), json!({"startTime": was}));
        check(
            &job(json!({}), json!({"startTime": is})),
            &old,
            &[
                "status.startTime: Invalid value: \"2026-01-02T00:00:00Z\": field is immutable for unsuspended job once set",
            ],
        );
        check(
            &job(json!({}), json!({})),
            &old,
            &["status.startTime: Invalid value: null: field is immutable for unsuspended job once set"],
        );
        check(&job(json!({"suspend": true}), json!({"startTime": is})), &old, &[]);
        let asleep = job(json!({}), json!({"startTime": was, "conditions": on(&["Suspended"])}));
        let awake = json!({"startTime": is, "conditions": [{"type": "Suspended", "status": "False"}]});
        check(&job(json!({}), awake), &asleep, &[]);
    }

    #[test]
    fn an_index_does_not_both_fail_and_complete() {
        let spec = json!({"completionMode": "Indexed", "completions": 5, "backoffLimitPerIndex": 1});
        let status = json!({"completedIndexes": "0-2", "failedIndexes": "2,4"});
        let wrong =
            "status.failedIndexes: Invalid value: \"2,4\": failedIndexes and completedIndexes overlap at index: 2";
        check(
            &job(spec.clone(), status.clone()),
            &job(spec.clone(), json!({})),
            &[wrong],
        );
        check(&job(spec.clone(), status.clone()), &job(spec, status), &[]);
    }

    #[test]
    fn a_policy_of_success_is_met_before_a_job_is_complete() {
        let spec = json!({"successPolicy": {"rules": []}});
        let (start, end) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z");
        let status = json!({"startTime": start, "completionTime": end, "conditions": on(&["Complete"])});
        let without = "cannot set Complete=True condition without the SuccessCriteriaMet=true condition";
        let policy = "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True";
        let old = job(spec.clone(), json!({"startTime": start}));
        let said = |why: &str| format!("status.conditions: Invalid value: {why}");
        check(
            &job(spec.clone(), status.clone()),
            &old,
            &[&said(without), &said(policy)],
        );
        // What broke the rule before may be written on, but for the rule that looks at no change.
        check(&job(spec.clone(), status.clone()), &job(spec, status), &[&said(policy)]);
    }
}
