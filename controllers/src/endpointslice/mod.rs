//! Keeps the EndpointSlices of Services with a selector.
//!
//! Owns: slices labelled as managed by it. Watches: services, pods, nodes, endpointslices. Writes: endpointslices,
//! events. [`decide`] is pure. Services without a selector and of type ExternalName are left alone.
//!
//! [`hints`] says which zones and nodes an endpoint is meant for.
//!
//! What stays true: at most 100 endpoints per slice; an endpoint stays in the slice where it is; no more slices are
//! written than have to change; a Service with a selector always has at least one slice per address family.

pub mod decide;
pub mod hints;
pub mod port;
#[cfg(test)]
mod tests;
pub mod trigger;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use steersman_runtime::events::{EventType, reference};
use steersman_runtime::{Event, Informer, Key, WorkQueue};
use steersman_types::api::core::v1::{Node, Pod, Service};
use steersman_types::api::discovery::v1::EndpointSlice;

use crate::act::{Action, Executor};
use crate::context::Context;
use crate::own::OwnWrites;
use crate::{labels, pods};
use decide::{MANAGER, Observed, SERVICE_NAME, Told, decide};
use hints::Mode;
use trigger::Triggers;

const WORKERS: usize = 5;

struct Slices {
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
    executor: Executor,
    own: OwnWrites<Key>,
    triggers: Triggers,
    /// What was last said about hints; only of Services that want them by the size of zones.
    told: Mutex<HashMap<Key, Told>>,
}

/// Queues the Services that a pod's change may concern. Shared with the endpoints controller.
pub(crate) fn on_pods(pods: &Informer<Pod>, services: &Informer<Service>, queue: WorkQueue<Key>) {
    let services = services.clone();
    pods.on_event(move |event| {
        if let Event::Updated { old, new } = event
            && !matters(old, new)
        {
            return;
        }
        for pod in event.old().into_iter().chain([event.object()]) {
            for service in services.list_in(pod.metadata.namespace.as_deref().unwrap_or_default()) {
                if selector(&service).is_some_and(|s| labels::all_of(s, pod.metadata.labels.as_ref())) {
                    queue.add(Key::of(service.as_ref()));
                }
            }
        }
    });
}

/// Whether a pod's change can change an endpoint.
fn matters(old: &Pod, new: &Pod) -> bool {
    let facts = |pod: &Pod| {
        let status = pod.status.as_ref();
        let spec = pod.spec.as_ref();
        (
            pod.metadata.labels.clone(),
            pod.metadata.deletion_timestamp.clone(),
            pods::is_ready(pod),
            pods::is_finished(pod),
            pods::node(pod).to_owned(),
            status.and_then(|s| s.pod_ips.clone()),
            status.and_then(|s| s.pod_ip.clone()),
            spec.and_then(|s| s.hostname.clone()),
            spec.and_then(|s| s.subdomain.clone()),
        )
    };
    facts(old) != facts(new)
}

/// The selector of a Service that gets endpoints from us.
pub(crate) fn selector(service: &Service) -> Option<&std::collections::BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    // An absent selector and an empty one look the same on the wire: neither selects.
    spec.selector
        .as_ref()
        .filter(|s| !s.is_empty() && spec.type_.as_deref() != Some("ExternalName"))
}

/// See the module.
#[must_use]
pub fn start(context: Context) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let services = context.informers.of::<Service>();
        let pods = context.informers.of::<Pod>();
        let nodes = context.informers.of::<Node>();
        let slices = context.informers.of::<EndpointSlice>();
        let own = OwnWrites::new([("endpointslices", slices.progress())]);
        let executor = context.executor("endpoint-slice-controller");
        let this = Arc::new(Slices {
            services,
            pods,
            nodes,
            slices,
            executor,
            own,
            triggers: Triggers::default(),
            told: Mutex::default(),
        });
        this.services.synced().await;
        this.pods.synced().await;
        this.nodes.synced().await;
        this.slices.synced().await;
        let queue = context.queue::<Key>();
        this.watch(&queue);
        queue
            .run("service", WORKERS, move |key| reconcile(this.clone(), key))
            .await;
        Ok(())
    })
}

impl Slices {
    fn watch(&self, queue: &WorkQueue<Key>) {
        let adding = queue.clone();
        self.services
            .on_event(move |event| adding.add(Key::of(event.object().as_ref())));
        on_pods(&self.pods, &self.services, queue.clone());
        let adding = queue.clone();
        self.slices.on_event(move |event| {
            if let Some(key) = service_of(event.object()) {
                adding.add(key);
            }
        });
        // A node that appears or moves to another zone changes the endpoints of its pods.
        let (adding, pods, services) = (queue.clone(), self.pods.clone(), self.services.clone());
        let on_node = pods.add_index(|pod: &Pod| vec![pods::node(pod).to_owned()]);
        self.nodes.on_event(move |event| {
            let resized = match event {
                Event::Updated { old, new } => hints::matters(old, new),
                _ => true,
            };
            if resized {
                let spread = services.list().into_iter();
                let spread = spread.filter(|s| hints::mode(s) == Mode::Proportional && selector(s).is_some());
                spread.for_each(|service| adding.add(Key::of(service.as_ref())));
            }
            if event.old().map(|old| decide::zone(old)) == Some(decide::zone(event.object()))
                && matches!(event, Event::Updated { .. })
            {
                return;
            }
            let name = event.object().metadata.name.clone().unwrap_or_default();
            for pod in pods.by_index(on_node, &name) {
                for service in services.list_in(pod.metadata.namespace.as_deref().unwrap_or_default()) {
                    if selector(&service).is_some_and(|s| labels::all_of(s, pod.metadata.labels.as_ref())) {
                        adding.add(Key::of(service.as_ref()));
                    }
                }
            }
        });
    }

    fn observe(&self, key: &Key) -> Option<Observed> {
        let service = self.services.get_key(key)?;
        let selector = selector(&service)?.clone();
        let mut pods = self.pods.list_in(&key.namespace);
        pods.retain(|pod| labels::all_of(&selector, pod.metadata.labels.as_ref()));
        let nodes = pods
            .iter()
            .filter_map(|pod| self.nodes.get("", pods::node(pod)))
            .map(|node| (node.metadata.name.clone().unwrap_or_default(), decide::zone(&node)))
            .collect();
        let mut slices = self.slices.list_in(&key.namespace);
        slices.retain(|slice| service_of(slice).as_ref() == Some(key) && slice.metadata.deletion_timestamp.is_none());
        let trigger = self.triggers.changed(key, &service, &pods);
        let shares = (hints::mode(&service) == Mode::Proportional)
            .then(|| hints::shares(&self.nodes.list()).map(Arc::new))
            .flatten();
        let told = self.told.lock().get(key).cloned().unwrap_or_default();
        Some(Observed {
            service,
            pods,
            nodes,
            slices,
            trigger,
            shares,
            told,
        })
    }
}

/// The Service whose slice this is, if it is one of ours.
fn service_of(slice: &Arc<EndpointSlice>) -> Option<Key> {
    let labels = slice.metadata.labels.as_ref()?;
    if labels.get(decide::MANAGED_BY).map(String::as_str) != Some(MANAGER) {
        return None;
    }
    Some(Key::new(
        slice.metadata.namespace.as_deref().unwrap_or_default(),
        labels.get(SERVICE_NAME)?,
    ))
}

async fn reconcile(this: Arc<Slices>, key: Key) -> Result<Option<Duration>, String> {
    this.own.seen(&key).await?;
    let Some(seen) = this.observe(&key) else {
        this.triggers.forget(&key);
        this.told.lock().remove(&key);
        return Ok(None);
    };
    let plan = decide(&seen);
    let (written, outcome) = this.executor.run(plan.actions).await;
    this.own.wrote(&key, &written);
    match outcome {
        Err(error) if error.is_namespace_terminating() => return Ok(None),
        Err(error) => {
            let message = format!("Error updating Endpoint Slices for Service {key}: {error}");
            let about = reference(seen.service.as_ref());
            let note = Action::event(
                about,
                EventType::Warning,
                "FailedToUpdateEndpointSlices",
                message.clone(),
            );
            let _ = this.executor.one(note).await;
            return Err(message);
        }
        Ok(()) => {}
    }
    if plan.told.is_empty() {
        this.told.lock().remove(&key);
    } else {
        this.told.lock().insert(key.clone(), plan.told);
    }
    match plan.skipped.first() {
        // The node may be known in a moment.
        Some(pod) => Err(format!("skipping Pod {pod} for Service {key}: its Node was not found")),
        None => Ok(None),
    }
}
