//! A job in a small simulated cluster: whatever its pods do and whenever the controller dies, each pod is counted once.

use super::decide::*;
use super::facts::{Facts, is_finished, is_tracked};
use super::status::{self, Done};
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A cluster of one job.
struct World {
    job: Arc<Job>,
    pods: BTreeMap<String, Pod>,
    failures: Failures,
    made: usize,
    second: i64,
    /// Pods that ended, by how; what the counters must come to.
    ended: BTreeMap<String, bool>,
}

fn job(spec: Value) -> Arc<Job> {
    let mut full = json!({"selector": {"matchLabels": {"job": "j"}}, "backoffLimit": 6, "parallelism": 1,
        "template": {"metadata": {"labels": {"job": "j"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}});
    for (key, value) in spec.as_object().cloned().unwrap_or_default() {
        full[key] = value;
    }
    let value = json!({"metadata": {"name": "j", "namespace": "ns", "uid": "job", "generation": 1}, "spec": full});
    Arc::new(Job::from_value(&value).unwrap())
}

impl World {
    fn new(spec: Value) -> Self {
        Self {
            job: job(spec),
            pods: BTreeMap::new(),
            failures: Failures::default(),
            made: 0,
            second: 1_000_000,
            ended: BTreeMap::new(),
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.second).unwrap()
    }

    fn seen(&self) -> Observed {
        Observed {
            job: self.job.clone(),
            pods: self.pods.values().cloned().map(Arc::new).collect(),
            failures: self.failures,
            now: self.now(),
        }
    }

    /// One run of the controller; it dies after `steps` of its four steps.
    fn run(&mut self, steps: usize) -> Plan {
        let seen = self.seen();
        let job = seen.job.clone();
        let facts = Facts::of(&job).unwrap();
        if is_finished(&job) {
            return Plan::default();
        }
        let plan = decide(&seen, &facts);
        if steps == 0 {
            return plan;
        }
        for doomed in &plan.delete {
            let pod = self.pods.get_mut(doomed.metadata.name.as_ref().unwrap()).unwrap();
            if !plan.delete_counted {
                pod.metadata.finalizers = None;
            }
            pod.metadata.deletion_timestamp = Some(steersman_types::Time(seen.now));
        }
        for new in &plan.create {
            self.made += 1;
            let mut pod = new.clone();
            let name = format!("p{:04}", self.made);
            pod.metadata.uid = Some(name.clone());
            pod.metadata.name = Some(name.clone());
            pod.status.get_or_insert_default().phase = Some("Running".into());
            self.pods.insert(name, pod);
        }
        self.sweep();
        if steps == 1 {
            return plan;
        }
        let done = Done {
            deleted: plan.delete.len(),
            deleted_ready: 0,
            created: plan.create.len(),
        };
        let midway = status::first(&seen, &facts, &plan, done);
        self.job = Arc::new(midway.job.clone());
        self.failures = plan.failures;
        if steps == 2 {
            return plan;
        }
        let mut removed = BTreeSet::new();
        for pod in &midway.counted {
            let name = pod.metadata.name.clone().unwrap();
            if let Some(pod) = self.pods.get_mut(&name) {
                pod.metadata.finalizers = None;
            }
            removed.insert(name);
        }
        self.sweep();
        if steps == 3 {
            return plan;
        }
        if let (Some(job), _) = status::last(&midway, midway.job.clone(), &removed, seen.now) {
            self.job = Arc::new(job);
        }
        plan
    }

    /// Pods that are going and carry no finalizer are gone; those with one have at least stopped.
    fn sweep(&mut self) {
        self.pods.retain(|_, p| !(pods::is_terminating(p) && !is_tracked(p)));
        for pod in self
            .pods
            .values_mut()
            .filter(|p| pods::is_terminating(p) && !pods::is_finished(p))
        {
            pod.status.get_or_insert_default().phase = Some("Failed".into());
        }
    }

    /// The `n`-th running pod ends.
    fn end(&mut self, n: usize, success: bool, code: i32) {
        let running: Vec<String> = self
            .pods
            .iter()
            .filter(|(_, p)| pods::is_active(p))
            .map(|(name, _)| name.clone())
            .collect();
        let Some(name) = running.get(n % running.len().max(1)) else {
            return;
        };
        let at = steersman_types::Time(self.now());
        let pod = self.pods.get_mut(name).unwrap();
        let phase = if success { "Succeeded" } else { "Failed" };
        let state = json!({"phase": phase, "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": if success { 0 } else { code }, "finishedAt": at}}}]});
        pod.status = Some(serde_json::from_value(state).unwrap());
        self.ended.insert(name.clone(), success);
    }

    fn settle(&mut self) {
        for _ in 0..12 {
            self.run(4);
        }
    }

    fn status(&self) -> steersman_types::api::batch::v1::JobStatus {
        self.job.status.clone().unwrap_or_default()
    }

    fn conditions(&self) -> Vec<String> {
        let status = self.status();
        status
            .conditions
            .iter()
            .flatten()
            .map(|c| format!("{}={} {}", c.type_, c.status, c.reason.as_deref().unwrap_or_default()))
            .collect()
    }

    fn active(&self) -> usize {
        self.pods.values().filter(|p| pods::is_active(p)).count()
    }
}

#[test]
fn a_job_completes_when_enough_pods_have_succeeded() {
    let mut world = World::new(json!({"completions": 3, "parallelism": 2}));
    world.settle();
    assert_eq!((world.active(), world.status().active), (2, Some(2)));
    world.end(0, true, 0);
    world.settle();
    assert_eq!((world.active(), world.status().succeeded), (2, Some(1)));
    world.end(0, true, 0);
    world.end(0, true, 0);
    world.settle();
    assert_eq!(
        world.conditions(),
        [
            "SuccessCriteriaMet=True CompletionsReached",
            "Complete=True CompletionsReached"
        ]
    );
    assert_eq!((world.status().succeeded, world.status().active), (Some(3), Some(0)));
    assert!(world.status().completion_time.is_some());
}

#[test]
fn failures_are_retried_after_a_wait_until_the_limit() {
    let mut world = World::new(json!({"completions": 1, "backoffLimit": 1}));
    world.settle();
    world.end(0, false, 1);
    world.settle();
    assert_eq!((world.active(), world.status().failed), (0, Some(1)));
    world.second += 9;
    assert_eq!(world.run(4).again, Some(Duration::from_secs(1)));
    world.second += 1;
    world.settle();
    assert_eq!(world.active(), 1);
    world.end(0, false, 1);
    world.settle();
    assert_eq!(
        world.conditions(),
        [
            "FailureTarget=True BackoffLimitExceeded",
            "Failed=True BackoffLimitExceeded"
        ]
    );
    assert_eq!(world.status().failed, Some(2));
}

#[test]
fn an_indexed_job_has_one_pod_per_index_with_its_name_and_variable() {
    let mut world = World::new(json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed"}));
    let plan = world.run(4);
    let shown: Vec<_> = plan
        .create
        .iter()
        .map(|p| {
            let spec = p.spec.as_ref().unwrap();
            let path = spec.containers[0].env.as_ref().unwrap()[0]
                .value_from
                .clone()
                .unwrap()
                .field_ref
                .unwrap();
            (
                p.metadata.generate_name.clone().unwrap(),
                spec.hostname.clone().unwrap(),
                path.field_path,
            )
        })
        .collect();
    let path = "metadata.labels['batch.kubernetes.io/job-completion-index']".to_owned();
    assert_eq!(shown[2], ("j-2-".to_owned(), "j-2".to_owned(), path));
    world.end(1, true, 0);
    world.settle();
    assert_eq!(world.status().completed_indexes.as_deref(), Some("1"));
}

#[test]
fn with_a_limit_per_index_the_others_go_on() {
    let mut world = World::new(
        json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 1, "backoffLimit": 1000}),
    );
    world.settle();
    world.end(0, false, 1);
    world.settle();
    // The failed pod stays until its replacement can carry its count on.
    assert_eq!(
        (world.active(), world.pods.values().filter(|p| is_tracked(p)).count()),
        (1, 2)
    );
    world.second += 11;
    world.settle();
    assert_eq!(world.active(), 2);
    let last = world.pods.values().last().unwrap();
    assert_eq!(last.metadata.annotations.as_ref().unwrap()[facts::FAILURES], "1");
    // Index 0 fails for good, index 1 succeeds.
    let newest = world.pods.values().filter(|p| pods::is_active(p)).count() - 1;
    world.end(newest, false, 1);
    world.settle();
    assert_eq!(world.status().failed_indexes.as_deref(), Some("0"));
    world.end(0, true, 0);
    world.settle();
    assert_eq!(
        world.conditions(),
        ["FailureTarget=True FailedIndexes", "Failed=True FailedIndexes"]
    );
}

#[test]
fn a_suspended_job_has_no_pods_and_starts_anew() {
    let mut world = World::new(json!({"completions": 2, "parallelism": 2}));
    world.settle();
    let mut suspended = world.job.as_ref().clone();
    suspended.spec.as_mut().unwrap().suspend = Some(true);
    world.job = Arc::new(suspended);
    world.settle();
    assert_eq!(world.conditions(), ["Suspended=True JobSuspended"]);
    assert_eq!((world.active(), world.status().start_time), (0, None));
    // Pods that were taken away are no failures.
    assert_eq!(world.status().failed.unwrap_or(0), 0);
    let mut resumed = world.job.as_ref().clone();
    resumed.spec.as_mut().unwrap().suspend = Some(false);
    world.job = Arc::new(resumed);
    world.settle();
    assert_eq!(world.conditions(), ["Suspended=False JobResumed"]);
    assert!(world.active() == 2 && world.status().start_time.is_some());
}

#[test]
fn a_failure_that_the_policy_ignores_does_not_count() {
    let rules = json!([{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [42]}},
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [3]}}]);
    let spec = json!({"completions": 1, "backoffLimit": 0, "podFailurePolicy": {"rules": rules}});
    let mut world = World::new(spec);
    world.settle();
    world.end(0, false, 42);
    world.second += 700;
    world.settle();
    assert_eq!((world.status().failed.unwrap_or(0), world.active()), (0, 1));
    world.end(0, false, 3);
    world.settle();
    assert_eq!(
        world.conditions(),
        ["FailureTarget=True PodFailurePolicy", "Failed=True PodFailurePolicy"]
    );
    let message = world.status().conditions.unwrap()[1].message.clone().unwrap();
    assert_eq!(
        message,
        "Container c for pod ns/p0002 failed with exit code 3 matching FailJob rule at index 1"
    );
}

#[test]
fn a_success_policy_ends_the_job_and_takes_the_other_pods_away() {
    let policy = json!({"rules": [{"succeededIndexes": "1"}]});
    let mut world =
        World::new(json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed", "successPolicy": policy}));
    world.settle();
    world.end(1, true, 0);
    world.settle();
    assert_eq!(
        world.conditions(),
        ["SuccessCriteriaMet=True SuccessPolicy", "Complete=True SuccessPolicy"]
    );
    assert_eq!((world.active(), world.status().failed.unwrap_or(0)), (0, 0));
}

#[test]
fn a_deadline_counts_from_the_start_and_fails_the_job() {
    let mut world = World::new(json!({"completions": 1, "activeDeadlineSeconds": 5}));
    world.run(4);
    assert_eq!(world.run(4).again, Some(Duration::from_secs(5)));
    world.second += 5;
    world.settle();
    assert_eq!(
        world.conditions(),
        ["FailureTarget=True DeadlineExceeded", "Failed=True DeadlineExceeded"]
    );
}

#[test]
fn an_indexed_job_grows_and_shrinks() {
    let mut world = World::new(json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed"}));
    world.settle();
    let resize = |world: &mut World, n: i32| {
        let mut job = world.job.as_ref().clone();
        let spec = job.spec.as_mut().unwrap();
        (spec.completions, spec.parallelism) = (Some(n), Some(n));
        world.job = Arc::new(job);
        world.settle();
        world.active()
    };
    assert_eq!(resize(&mut world, 4), 4);
    assert_eq!(resize(&mut world, 1), 1);
    let left: Vec<_> = world
        .pods
        .values()
        .filter(|p| pods::is_active(p))
        .map(facts::index)
        .collect();
    assert_eq!(left, [Some(0)]);
}

fn specs() -> impl Strategy<Value = Value> {
    (1u32..5, 1u32..4, 0u32..4, any::<bool>(), prop::option::of(0u32..2)).prop_map(
        |(completions, parallelism, limit, indexed, per_index)| {
            let mut spec = json!({"completions": completions, "parallelism": parallelism, "backoffLimit": limit});
            if indexed {
                spec["completionMode"] = "Indexed".into();
                if let Some(limit) = per_index {
                    spec["backoffLimitPerIndex"] = limit.into();
                    spec["backoffLimit"] = 1000.into();
                }
            }
            spec
        },
    )
}

proptest! {
    #[test]
    fn every_pod_is_counted_once_whenever_the_controller_dies(
        spec in specs(),
        steps in prop::collection::vec((0usize..5, 0u8..3, 0usize..4, any::<bool>()), 0..40),
    ) {
        let mut world = World::new(spec.clone());
        let parallelism = spec["parallelism"].as_u64().unwrap() as usize;
        for (until, what, n, success) in steps {
            match what {
                0 => world.end(n, success, 1),
                1 => world.second += 700,
                _ => { world.run(until); }
            }
            prop_assert!(world.active() <= parallelism);
            let status = world.status();
            let failed_pods = world.ended.values().filter(|s| !**s).count() as i32;
            let deleted = if world.conditions().iter().any(|c| c.starts_with("Fail")) { i32::MAX } else { 0 };
            prop_assert!(status.failed.unwrap_or(0) <= failed_pods.saturating_add(deleted));
            prop_assert!(status.succeeded.unwrap_or(0) <= world.ended.values().filter(|s| **s).count() as i32);
        }
        // Left alone with pods that succeed, it comes to an end.
        for _ in 0..30 {
            world.second += 700;
            world.run(4);
            world.end(0, true, 0);
        }
        world.settle();
        prop_assert!(is_finished(&world.job), "{:?}", world.status());
        let status = world.status();
        let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        prop_assert!(uncounted.failed.is_none() && uncounted.succeeded.is_none());
        prop_assert!(world.pods.values().all(|p| !is_tracked(p)));
        prop_assert_eq!(world.active(), 0);
        if world.conditions().iter().any(|c| c.starts_with("Complete=True")) {
            let wanted = spec["completions"].as_i64().unwrap() as i32;
            prop_assert!(status.succeeded.unwrap_or(0) >= wanted);
            let failed_pods = world.ended.values().filter(|s| !**s).count() as i32;
            prop_assert_eq!(status.failed.unwrap_or(0), failed_pods);
        }
    }

    #[test]
    fn a_plan_that_was_carried_out_is_not_made_again(spec in specs()) {
        let mut world = World::new(spec);
        world.run(4);
        let plan = world.run(4);
        prop_assert!(plan.create.is_empty() && plan.delete.is_empty());
        let seen = world.seen();
        let midway = status::first(&seen, &Facts::of(&seen.job).unwrap(), &plan, Done::default());
        prop_assert!(!midway.write);
    }
}
