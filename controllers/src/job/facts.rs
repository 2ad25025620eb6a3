//! A job's specification with defaults filled in, and what its pods' annotations say. Pure.

use steersman_types::api::batch::v1::{Job, PodFailurePolicy, SuccessPolicy};
use steersman_types::api::core::v1::Pod;

use super::policy::{self, Failure};
use crate::pods;

/// Keeps a pod until its job has counted it.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Annotation and label of a pod with a completion index.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How often the pod's index failed before.
pub const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// How many of its failures did not count.
pub const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// See the module. Numbers are never negative.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    pub completions: Option<u32>,
    pub parallelism: u32,
    pub indexed: bool,
    pub backoff_limit: u32,
    pub backoff_limit_per_index: Option<u32>,
    pub max_failed_indexes: Option<u32>,
    pub suspended: bool,
    /// Pods that are going are not failed yet, and not replaced before they are.
    pub only_failed: bool,
    pub failure_policy: Option<&'a PodFailurePolicy>,
    pub success_policy: Option<&'a SuccessPolicy>,
    pub deadline_seconds: Option<i64>,
    pub restarts_in_place: bool,
}

impl<'a> Facts<'a> {
    /// `None` without a specification, or with a completion mode nobody knows.
    #[must_use]
    pub fn of(job: &'a Job) -> Option<Self> {
        let spec = job.spec.as_ref()?;
        let indexed = match spec.completion_mode.as_deref() {
            None | Some("NonIndexed") => false,
            Some("Indexed") => true,
            Some(_) => return None,
        };
        let number = |n: Option<i32>| n.map(|n| u32::try_from(n).unwrap_or(0));
        let template = spec.template.spec.as_ref();
        Some(Self {
            completions: number(spec.completions),
            parallelism: number(spec.parallelism).unwrap_or(1),
            indexed,
            backoff_limit: number(spec.backoff_limit).unwrap_or(6),
            backoff_limit_per_index: number(spec.backoff_limit_per_index),
            max_failed_indexes: number(spec.max_failed_indexes),
            suspended: spec.suspend == Some(true),
            only_failed: spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some(),
            failure_policy: spec.pod_failure_policy.as_ref(),
            success_policy: spec.success_policy.as_ref(),
            deadline_seconds: spec.active_deadline_seconds,
            restarts_in_place: template.and_then(|t| t.restart_policy.as_deref()) == Some("OnFailure"),
        })
    }

    /// Where indexes end; everything is above it for a job without indexes.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.completions.unwrap_or(0)
    }

    /// The index that a pod stands for, if it is one of the job's.
    #[must_use]
    pub fn index(&self, pod: &Pod) -> Option<u32> {
        index(pod).filter(|i| *i < self.end())
    }

    /// Whether the pod can count: in an indexed job only with an index.
    #[must_use]
    pub fn is_valid(&self, pod: &Pod) -> bool {
        !self.indexed || self.index(pod).is_some()
    }

    /// Failed, or as good as: going without having succeeded (unless the job waits for the end of such pods).
    #[must_use]
    pub fn has_failed(&self, pod: &Pod) -> bool {
        match pods::phase(pod) {
            "Failed" => true,
            "Succeeded" => false,
            _ => !self.only_failed && pods::is_terminating(pod),
        }
    }

    #[must_use]
    pub fn failure(&self, pod: &Pod) -> Failure {
        policy::of_failure(self.failure_policy, pod)
    }
}

/// Whether the job has not counted the pod yet.
#[must_use]
pub fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

/// The completion index in the pod's annotations.
#[must_use]
pub fn index(pod: &Pod) -> Option<u32> {
    number(pod, INDEX)
}

/// How often the pod's index failed before it, and how often that did not count.
#[must_use]
pub fn earlier_failures(pod: &Pod) -> (u32, u32) {
    let of = |key| number(pod, key).unwrap_or(0);
    (of(FAILURES), of(IGNORED_FAILURES))
}

fn number(pod: &Pod, annotation: &str) -> Option<u32> {
    pod.metadata.annotations.as_ref()?.get(annotation)?.parse().ok()
}

/// Complete or Failed.
#[must_use]
pub fn is_finished(job: &Job) -> bool {
    has_condition(job, "Complete") || has_condition(job, "Failed")
}

/// Whether the condition is True.
#[must_use]
pub fn has_condition(job: &Job, kind: &str) -> bool {
    let conditions = job.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == kind && c.status == "True")
}

/// The controller that the job belongs to, when it is not this one.
#[must_use]
pub fn is_managed_elsewhere(job: &Job) -> bool {
    let manager = job.spec.as_ref().and_then(|s| s.managed_by.as_deref());
    manager.is_some_and(|m| m != "kubernetes.io/job-controller")
}
