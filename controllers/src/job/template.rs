//! A new pod of a job. Pure.

use std::collections::BTreeMap;

use steersman_types::ObjectMeta;
use steersman_types::api::batch::v1::Job;
use steersman_types::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use super::facts::{self, FAILURES, FINALIZER, Facts, IGNORED_FAILURES, INDEX};
use super::policy::Failure;
use crate::owners;

const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// The server adds five characters to a generated name of at most this length.
const LONGEST_PREFIX: usize = 58;

/// With `index` in an indexed job; `replaced` is the pod of that index that failed, with back-off per index.
#[must_use]
pub fn pod(job: &Job, facts: &Facts<'_>, index: Option<u32>, replaced: Option<&Pod>) -> Pod {
    let template = job.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    let mut finalizers = meta.finalizers.unwrap_or_default();
    if !finalizers.iter().any(|f| f == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    let (mut labels, mut annotations) = (meta.labels, meta.annotations);
    let mut spec = template.spec;
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let mut prefix = format!("{name}-");
    if let Some(index) = index {
        let number = index.to_string();
        for map in [&mut labels, &mut annotations] {
            map.get_or_insert_default().insert(INDEX.into(), number.clone());
        }
        prefix = prefix_with_index(name, index);
        if let Some(spec) = &mut spec {
            spec.hostname = Some(format!("{name}-{index}"));
            let init = spec.init_containers.iter_mut().flatten();
            init.chain(&mut spec.containers).for_each(add_variable);
        }
        if facts.backoff_limit_per_index.is_some() {
            count_failures(facts, replaced, annotations.get_or_insert_default());
        }
    }
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(prefix),
            namespace: job.metadata.namespace.clone(),
            labels,
            annotations,
            finalizers: Some(finalizers),
            owner_references: Some(vec![owners::reference_to(job)]),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    }
}

fn prefix_with_index(name: &str, index: u32) -> String {
    let suffix = format!("-{index}-");
    let room = LONGEST_PREFIX - suffix.len();
    // Names of jobs are ASCII.
    format!("{}{suffix}", name.get(..room).unwrap_or(name))
}

fn add_variable(container: &mut Container) {
    let env = container.env.get_or_insert_default();
    if env.iter().any(|v| v.name == INDEX_VARIABLE) {
        return;
    }
    env.push(EnvVar {
        name: INDEX_VARIABLE.into(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: format!("metadata.labels['{INDEX}']"),
                ..ObjectFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    });
}

fn count_failures(facts: &Facts<'_>, replaced: Option<&Pod>, annotations: &mut BTreeMap<String, String>) {
    let (mut counted, mut ignored) = (0, 0);
    if let Some(pod) = replaced {
        (counted, ignored) = facts::earlier_failures(pod);
        if facts.failure(pod) == Failure::Ignored {
            ignored += 1;
        } else {
            counted += 1;
        }
    }
    annotations.insert(FAILURES.into(), counted.to_string());
    if ignored > 0 {
        annotations.insert(IGNORED_FAILURES.into(), ignored.to_string());
    }
}
