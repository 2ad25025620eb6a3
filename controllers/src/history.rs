//! What a template used to be: ControllerRevisions, as StatefulSets and DaemonSets keep them.
//!
//! A revision holds a strategic merge patch that puts a template back (`kubectl rollout undo` sends it as it is). The
//! functions here are pure except [`create`]. What stays true: the patch has the bytes that upstream's controllers write
//! (sorted keys, Go's escapes), so that either may take over the other's history; revisions are compared by meaning, so
//! that a default that one server adds and another does not is no new revision.

use std::sync::Arc;

use serde_json::{Value, json};
use steersman_runtime::client::ApiError;
use steersman_types::api::apps::v1::ControllerRevision;
use steersman_types::api::core::v1::PodTemplateSpec;
use steersman_types::apimachinery::pkg::runtime::RawExtension;
use steersman_types::{ObjectMeta, Typed};

use crate::act::{Action, Executor, Written};
use crate::{owners, templates};

/// Label with the hash of a revision's data.
pub const HASH: &str = "controller.kubernetes.io/hash";
/// The part of a parent's name that fits into a revision's.
const PREFIX: usize = 223;

/// The patch that brings `template` back.
#[must_use]
pub fn patch(template: &PodTemplateSpec) -> Value {
    let mut template = templates::to_value(template);
    if let Some(fields) = template.as_object_mut() {
        fields.insert("$patch".to_owned(), "replace".into());
    }
    json!({"spec": {"template": template}})
}

/// The template that a revision brings back; `None` when it holds something else.
#[must_use]
pub fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.get("spec")?.get("template")?.clone();
    template.as_object_mut()?.remove("$patch");
    templates::from_value(&template)
}

/// Whether the revision holds this template.
#[must_use]
pub fn holds(revision: &ControllerRevision, wanted: &PodTemplateSpec) -> bool {
    let canonical = |template: &PodTemplateSpec| {
        let mut value = templates::to_value(template);
        templates::strip(&mut value);
        value
    };
    template(revision).is_some_and(|held| canonical(&held) == canonical(wanted))
}

/// JSON as Go's encoder writes it.
fn go_json(value: &Value) -> String {
    // These characters occur only inside of strings.
    let mut text = String::new();
    for c in value.to_string().chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text
}

/// Upstream's hash of a revision's data: FNV-1 of its JSON and the decimal digits of the collision count.
#[must_use]
pub fn hash(data: &Value, collisions: Option<i32>) -> String {
    let digits = collisions.map(|c| c.to_string()).unwrap_or_default();
    let mut hash: u32 = 2_166_136_261;
    for byte in go_json(data).bytes().chain(digits.bytes()) {
        hash = hash.wrapping_mul(16_777_619) ^ u32::from(byte);
    }
    templates::safe(&hash.to_string())
}

/// `parent-hash`, at most as long as a name may be.
#[must_use]
pub fn name(parent: &str, hash: &str) -> String {
    let mut prefix = parent.to_owned();
    prefix.truncate(PREFIX);
    format!("{prefix}-{hash}")
}

/// A revision of `parent` with this template; `hash` names and labels it under `label`.
#[must_use]
pub fn new<T: Typed>(
    parent: &T,
    template: &PodTemplateSpec,
    number: i64,
    label: &str,
    hash: &str,
) -> ControllerRevision {
    let meta = parent.metadata();
    let mut labels = template
        .metadata
        .as_ref()
        .and_then(|m| m.labels.clone())
        .unwrap_or_default();
    labels.insert(label.to_owned(), hash.to_owned());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(name(meta.name.as_deref().unwrap_or_default(), hash)),
            namespace: meta.namespace.clone(),
            labels: Some(labels),
            annotations: meta.annotations.clone(),
            owner_references: Some(vec![owners::reference_to(parent)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(patch(template))),
        revision: number,
    }
}

/// Oldest first.
pub fn sort(revisions: &mut [Arc<ControllerRevision>]) {
    revisions.sort_by(|a, b| {
        let key = |r: &ControllerRevision| {
            (
                r.revision,
                r.metadata.creation_timestamp.as_ref().map(|t| t.0),
                r.metadata.name.clone(),
            )
        };
        key(a).cmp(&key(b))
    });
}

/// The highest number, 0 without any.
pub fn newest<'a>(revisions: impl IntoIterator<Item = &'a Arc<ControllerRevision>>) -> i64 {
    revisions.into_iter().map(|r| r.revision).max().unwrap_or(0)
}

/// The same revision under another number.
#[must_use]
pub fn renumbered(revision: &ControllerRevision, number: i64) -> ControllerRevision {
    ControllerRevision {
        revision: number,
        ..revision.clone()
    }
}

/// Those to delete so that at most `limit` (sorted, oldest first) of `revisions` are left that nobody uses.
pub fn surplus(
    revisions: &[Arc<ControllerRevision>],
    limit: usize,
    live: impl Fn(&ControllerRevision) -> bool,
) -> Vec<Arc<ControllerRevision>> {
    let unused: Vec<_> = revisions.iter().filter(|r| !live(r)).collect();
    let count = unused.len().saturating_sub(limit);
    unused.into_iter().take(count).cloned().collect()
}

/// Creates a revision. When its name is taken by one that holds the same template, that one is returned; otherwise
/// `None`: a collision, to be counted by the caller.
///
/// # Errors
/// The server's refusal.
pub async fn create(
    executor: &Executor,
    revision: &ControllerRevision,
    wanted: &PodTemplateSpec,
) -> Result<Option<(ControllerRevision, Vec<Written>)>, ApiError> {
    match executor.one(Action::create(revision)).await {
        Ok(written) => {
            let created = ControllerRevision::from_value(&written.object).unwrap_or_else(|_| revision.clone());
            Ok(Some((created, vec![written])))
        }
        Err(error) if error.is_already_exists() => {
            let meta = &revision.metadata;
            let name = meta.name.as_deref().unwrap_or_default();
            let there: ControllerRevision = executor.client().get(meta.namespace.as_deref(), name).await?;
            Ok(holds(&there, wanted).then(|| (there, Vec::new())))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use steersman_types::api::apps::v1::StatefulSet;

    fn pod_template(image: &str) -> PodTemplateSpec {
        let json =
            json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}});
        templates::from_value(&json).unwrap()
    }

    fn parent() -> StatefulSet {
        StatefulSet {
            metadata: ObjectMeta {
                name: Some("web".into()),
                namespace: Some("ns".into()),
                uid: Some("u".into()),
                ..ObjectMeta::default()
            },
            ..StatefulSet::default()
        }
    }

    #[test]
    fn a_revision_gives_back_the_template_it_was_made_of() {
        let template = pod_template("a:1");
        let revision = new(&parent(), &template, 3, HASH, "abc");
        assert_eq!(super::template(&revision).unwrap(), template);
        assert!(holds(&revision, &template) && !holds(&revision, &pod_template("a:2")));
        assert_eq!(revision.metadata.name.as_deref(), Some("web-abc"));
        assert_eq!(revision.data.unwrap().0["spec"]["template"]["$patch"], "replace");
    }

    #[test]
    fn a_hash_is_upstream_s() {
        // FNV-1 of nothing is its offset basis, 2166136261.
        let empty = json!({});
        let mut fnv: u32 = 2_166_136_261;
        for byte in b"{}0" {
            fnv = fnv.wrapping_mul(16_777_619) ^ u32::from(*byte);
        }
        assert_eq!(hash(&empty, Some(0)), templates::safe(&fnv.to_string()));
        assert_eq!(go_json(&json!("a<b>&\"")), "\"a\\u003cb\\u003e\\u0026\\\"\"");
    }

    proptest! {
        #[test]
        fn history_is_cut_from_its_old_end_and_never_where_it_is_in_use(
            numbers in proptest::collection::btree_set(1i64..100, 0..12), limit in 0usize..8, used in proptest::collection::btree_set(1i64..100, 0..40),
        ) {
            let make = |n: &i64| Arc::new(new(&parent(), &pod_template("a"), *n, HASH, &n.to_string()));
            let mut revisions: Vec<_> = numbers.iter().rev().map(make).collect();
            sort(&mut revisions);
            let gone = surplus(&revisions, limit, |r| used.contains(&r.revision));
            let unused = numbers.iter().filter(|n| !used.contains(n)).count();
            prop_assert_eq!(unused - gone.len(), unused.min(limit));
            let last = gone.last().map_or(0, |r| r.revision);
            prop_assert!(gone.iter().all(|r| !used.contains(&r.revision)));
            let kept_below = numbers.iter().filter(|n| **n < last && !used.contains(n)).count();
            prop_assert_eq!(kept_below, gone.len().saturating_sub(1));
        }
    }
}
