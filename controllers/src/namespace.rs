//! Empties a namespace that is being deleted, then lets it go.
//!
//! Watches: namespaces, pods. Writes: everything in them (deletions only), namespaces/status, namespaces/finalize. Pods go
//! first and alone: other objects (Secrets, NetworkPolicies) may matter to pods that still run. What is there comes from discovery at
//! each run, so that new resources are not forgotten. [`conditions`] is the pure part: what the namespace's status says.
//!
//! What stays true: the finalizer `kubernetes` is removed only after a run that found nothing left and had no error.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::BoxFuture;
use http::Method;
use jiff::Timestamp;
use steersman_runtime::client::{ApiError, Client, Resource, query};
use steersman_runtime::informer::{Object, PartialObject};
use steersman_runtime::{Event, Informer};
use steersman_types::Time;
use steersman_types::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus, Pod};

use crate::context::Context;
use crate::discovery::{self, Discovered};
use crate::pods;

const FINALIZER: &str = "kubernetes";
const WORKERS: usize = 10;
/// How long to give whoever owns finalizers.
const FINALIZER_SECONDS: i64 = 15;

/// Not being deleted.
#[must_use]
pub fn is_active(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|s| s.phase.as_deref());
    namespace.metadata.deletion_timestamp.is_none() && phase != Some("Terminating")
}

/// See the module.
#[must_use]
pub fn start(context: Context) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let namespaces = context.informers.of::<Namespace>();
        namespaces.synced().await;
        let queue = context.queue::<String>();
        let adding = queue.clone();
        namespaces.on_event(move |event| {
            let namespace = event.object();
            if !matches!(event, Event::Deleted(_)) && namespace.metadata.deletion_timestamp.is_some() {
                adding.add(namespace.metadata.name.clone().unwrap_or_default());
            }
        });
        // The last pod's end lets the rest go: no need to sit out the estimate.
        let (adding, pods) = (queue.clone(), context.informers.of::<Pod>());
        let (remaining, known) = (pods.clone(), namespaces.clone());
        pods.on_event(move |event| {
            let namespace = event.object().metadata.namespace.as_deref().unwrap_or_default();
            let going = || {
                known
                    .get("", namespace)
                    .is_some_and(|n| n.metadata.deletion_timestamp.is_some())
            };
            if matches!(event, Event::Deleted(_)) && going() && remaining.list_in(namespace).is_empty() {
                adding.add(namespace.to_owned());
            }
        });
        let client = context.client.clone();
        queue
            .run("namespace", WORKERS, move |name| {
                reconcile(client.clone(), namespaces.clone(), name)
            })
            .await;
        Ok(())
    })
}

async fn reconcile(client: Client, namespaces: Informer<Namespace>, name: String) -> Result<Option<Duration>, String> {
    let going = |n: &Namespace| n.metadata.deletion_timestamp.is_some();
    if !namespaces.get("", &name).is_some_and(|n| going(&n)) {
        return Ok(None);
    }
    // The cache may lag behind our own last status.
    let mut namespace: Namespace = match client.get(None, &name).await {
        Err(error) if error.is_not_found() => return Ok(None),
        namespace => namespace.map_err(|e| e.to_string())?,
    };
    let finalizers = namespace
        .spec
        .as_ref()
        .and_then(|s| s.finalizers.clone())
        .unwrap_or_default();
    if !going(&namespace) || !finalizers.iter().any(|f| f == FINALIZER) {
        return Ok(None);
    }
    let outcome = empty(&client, &name).await.map_err(|e| e.to_string())?;
    let status = namespace.status.get_or_insert_default();
    if conditions(status, &outcome, Timestamp::now()) {
        match client.update_status(&namespace).await {
            Err(error) if error.is_not_found() => return Ok(None),
            updated => namespace = updated.map_err(|e| e.to_string())?,
        }
    }
    if let Some(error) = outcome.errors.first().or(outcome.discovery.first()) {
        return Err(error.clone());
    }
    if outcome.remains() {
        // Half the time it may take, as upstream: a finer step near the end.
        let wait = u64::try_from(outcome.estimate).unwrap_or(0) / 2 + 1;
        return Ok(Some(Duration::from_secs(wait)));
    }
    if let Some(spec) = &mut namespace.spec {
        spec.finalizers = Some(finalizers.into_iter().filter(|f| f != FINALIZER).collect());
    }
    match client.update_subresource(&namespace, "finalize").await {
        Err(error) if !error.is_not_found() => Err(error.to_string()),
        _ => Ok(None),
    }
}

/// What one run found and did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Why discovery is incomplete.
    pub discovery: Vec<String>,
    /// Failed deletions.
    pub errors: Vec<String>,
    /// `plural.group` to objects left.
    pub left: BTreeMap<String, usize>,
    /// Finalizer to objects that have it.
    pub finalizers: BTreeMap<String, usize>,
    /// Seconds until more can be expected to be gone.
    pub estimate: i64,
}

impl Outcome {
    #[must_use]
    pub fn remains(&self) -> bool {
        !self.left.is_empty()
    }
}

async fn empty(client: &Client, namespace: &str) -> Result<Outcome, ApiError> {
    let mut outcome = Outcome::default();
    let found = discovery::discover(client).await?;
    outcome.discovery = found.failures;
    let deletable: Vec<Discovered> = found
        .resources
        .into_iter()
        .filter(|r| r.resource.namespaced && r.can("delete"))
        .collect();
    let is_pods = |r: &Discovered| r.resource.group.is_empty() && r.resource.plural == "pods";
    for pods in deletable.iter().filter(|r| is_pods(r)) {
        clear(client, namespace, pods, &mut outcome).await;
    }
    if outcome.remains() || !outcome.errors.is_empty() {
        return Ok(outcome);
    }
    for resource in deletable.iter().filter(|r| !is_pods(r)) {
        clear(client, namespace, resource, &mut outcome).await;
    }
    Ok(outcome)
}

/// Deletes one resource's objects and notes what is left of them.
async fn clear(client: &Client, namespace: &str, what: &Discovered, outcome: &mut Outcome) {
    match try_clear(client, namespace, what).await {
        Ok(cleared) if cleared.left == 0 => {}
        Ok(cleared) => {
            let resource = &what.resource;
            outcome
                .left
                .insert(format!("{}.{}", resource.plural, resource.group), cleared.left);
            if cleared.estimate == 0 && cleared.finalizers.is_empty() {
                // Deleted without an error and yet there: somebody creates them, or the server is behind.
                let gvr = format!("{}/{}, Resource={}", resource.group, resource.version, resource.plural);
                outcome.errors.push(format!(
                    "unexpected items still remain in namespace: {namespace} for gvr: {gvr}"
                ));
            }
            let floor = if cleared.finalizers.is_empty() {
                0
            } else {
                FINALIZER_SECONDS
            };
            let estimate = if cleared.estimate == 0 { floor } else { cleared.estimate };
            outcome.estimate = outcome.estimate.max(estimate);
            for (finalizer, count) in cleared.finalizers {
                *outcome.finalizers.entry(finalizer).or_default() += count;
            }
        }
        Err(error) => outcome.errors.push(error.to_string()),
    }
}

#[derive(Default)]
struct Cleared {
    left: usize,
    finalizers: BTreeMap<String, usize>,
    estimate: i64,
}

async fn try_clear(client: &Client, namespace: &str, what: &Discovered) -> Result<Cleared, ApiError> {
    let resource = &what.resource;
    let mut cleared = Cleared::default();
    if !what.can("list") {
        if what.can("deletecollection") {
            client
                .request(Method::DELETE, &resource.path(Some(namespace), None, None), None)
                .await?;
        }
        return Ok(cleared);
    }
    let mut present = list(client, namespace, resource).await?;
    if present.is_empty() {
        return Ok(cleared);
    }
    if resource.group.is_empty() && resource.plural == "pods" {
        cleared.estimate = grace(client, namespace).await?;
    }
    if what.can("deletecollection") {
        client
            .request(Method::DELETE, &resource.path(Some(namespace), None, None), None)
            .await?;
    } else {
        for object in &present {
            let path = resource.path(Some(namespace), object.metadata.name.as_deref(), None);
            match client.request(Method::DELETE, &path, None).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
    }
    present = list(client, namespace, resource).await?;
    cleared.left = present.len();
    for finalizer in present.iter().flat_map(|o| o.metadata.finalizers.iter().flatten()) {
        *cleared.finalizers.entry(finalizer.clone()).or_default() += 1;
    }
    Ok(cleared)
}

async fn list(client: &Client, namespace: &str, resource: &Resource) -> Result<Vec<PartialObject>, ApiError> {
    let path = query(&resource.path(Some(namespace), None, None), &[]);
    let body = client
        .call(Method::GET, &path, None, PartialObject::accept_list())
        .await;
    match body {
        // The resource went away meanwhile, or cannot be listed after all.
        Err(error) if matches!(error.code(), Some(404 | 405)) => Ok(Vec::new()),
        body => steersman_runtime::client::decode_items(&body?),
    }
}

/// The longest grace period among pods that still run.
async fn grace(client: &Client, namespace: &str) -> Result<i64, ApiError> {
    let pods = client
        .list::<Pod>(&steersman_runtime::ListOptions::in_namespace(namespace))
        .await?;
    let running = pods.items.iter().filter(|pod| !pods::is_finished(pod));
    Ok(running
        .filter_map(|pod| pod.spec.as_ref()?.termination_grace_period_seconds)
        .max()
        .unwrap_or(0))
}

/// Pure: brings the five conditions up to date; whether anything changed. Order and texts are upstream's.
pub fn conditions(status: &mut NamespaceStatus, outcome: &Outcome, now: Timestamp) -> bool {
    let join = |map: &BTreeMap<String, usize>, text: &str| {
        map.iter()
            .map(|(what, count)| format!("{what} {text}").replace("{}", &count.to_string()))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut errors = outcome.errors.clone();
    errors.sort();
    let all = [
        (
            "NamespaceDeletionDiscoveryFailure",
            (!outcome.discovery.is_empty()).then(|| {
                let count = outcome.discovery.len();
                let why = outcome.discovery.join(", ");
                let text = "unable to retrieve the complete list of server APIs";
                (
                    "DiscoveryFailed",
                    format!("Discovery failed for some groups, {count} failing: {text}: {why}"),
                )
            }),
            ("ResourcesDiscovered", "All resources successfully discovered"),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        (
            "NamespaceDeletionContentFailure",
            (!errors.is_empty()).then(|| {
                let text = format!(
                    "Failed to delete all resource types, {} remaining: {}",
                    errors.len(),
                    errors.join(", ")
                );
                ("ContentDeletionFailed", text)
            }),
            (
                "ContentDeleted",
                "All content successfully deleted, may be waiting on finalization",
            ),
        ),
        (
            "NamespaceContentRemaining",
            (!outcome.left.is_empty()).then(|| {
                let text = join(&outcome.left, "has {} resource instances");
                ("SomeResourcesRemain", format!("Some resources are remaining: {text}"))
            }),
            ("ContentRemoved", "All content successfully removed"),
        ),
        (
            "NamespaceFinalizersRemaining",
            (!outcome.finalizers.is_empty()).then(|| {
                let text = join(&outcome.finalizers, "in {} resource instances");
                (
                    "SomeFinalizersRemain",
                    format!("Some content in the namespace has finalizers remaining: {text}"),
                )
            }),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ];
    let mut changed = false;
    let known = status.conditions.get_or_insert_default();
    for (kind, failure, fine) in all {
        let state = if failure.is_some() { "True" } else { "False" };
        let (reason, message) = failure.unwrap_or_else(|| (fine.0, fine.1.to_owned()));
        let mut new = NamespaceCondition {
            type_: kind.to_owned(),
            status: state.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(Time(now)),
        };
        match known.iter_mut().find(|c| c.type_ == kind) {
            None => {
                known.push(new);
                changed = true;
            }
            Some(old) if old.status == new.status && old.reason == new.reason && old.message == new.message => {}
            Some(old) => {
                if old.status == new.status {
                    new.last_transition_time = old.last_transition_time.clone();
                }
                *old = new;
                changed = true;
            }
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_left_nothing_sets_five_false_conditions_once() {
        let mut status = NamespaceStatus::default();
        assert!(conditions(&mut status, &Outcome::default(), Timestamp::UNIX_EPOCH));
        let all = status.conditions.clone().unwrap_or_default();
        assert_eq!(all.len(), 5);
        assert!(all.iter().all(|c| c.status == "False"));
        assert!(!conditions(&mut status, &Outcome::default(), Timestamp::now()));
    }

    #[test]
    fn what_remains_is_counted_in_upstream_s_words() {
        let mut status = NamespaceStatus::default();
        let outcome = Outcome {
            left: BTreeMap::from([("pods.".to_owned(), 2)]),
            finalizers: BTreeMap::from([("example.com/x".to_owned(), 1)]),
            ..Outcome::default()
        };
        conditions(&mut status, &outcome, Timestamp::UNIX_EPOCH);
        let message = |kind: &str| {
            status
                .conditions
                .iter()
                .flatten()
                .find(|c| c.type_ == kind)
                .and_then(|c| c.message.clone())
                .unwrap_or_default()
        };
        assert_eq!(
            message("NamespaceContentRemaining"),
            "Some resources are remaining: pods. has 2 resource instances"
        );
        assert_eq!(
            message("NamespaceFinalizersRemaining"),
            "Some content in the namespace has finalizers remaining: example.com/x in 1 resource instances"
        );
    }
}
