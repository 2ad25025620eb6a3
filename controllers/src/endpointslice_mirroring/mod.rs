//! Mirrors Endpoints that people write themselves into EndpointSlices, which is what proxies read.
//!
//! Owns: endpointslices labelled as its own. Watches: endpoints, services, endpointslices. Writes: endpointslices, events.
//! [`decide`] is pure. What stays true: only Endpoints of a Service without selector are mirrored; slices of other
//! managers are never touched.

pub mod decide;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use steersman_runtime::{Informer, Key};
use steersman_types::api::core::v1::{Endpoints, Service};
use steersman_types::api::discovery::v1::EndpointSlice;

use crate::act::Executor;
use crate::context::Context;
use crate::endpointslice::decide::{MANAGED_BY, SERVICE_NAME};
use crate::own::OwnWrites;
use decide::{MANAGER, Observed, decide};

const WORKERS: usize = 5;

struct Mirror {
    endpoints: Informer<Endpoints>,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    executor: Executor,
    own: OwnWrites<Key>,
}

/// See the module.
#[must_use]
pub fn start(context: Context) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let slices = context.informers.of::<EndpointSlice>();
        let this = Arc::new(Mirror {
            endpoints: context.informers.of::<Endpoints>(),
            services: context.informers.of::<Service>(),
            executor: context.executor("endpoint-slice-mirroring-controller"),
            own: OwnWrites::new([("endpointslices", slices.progress())]),
            slices,
        });
        this.endpoints.synced().await;
        this.services.synced().await;
        this.slices.synced().await;
        let queue = context.queue::<Key>();
        let adding = queue.clone();
        this.endpoints
            .on_event(move |event| adding.add(Key::of(event.object().as_ref())));
        let adding = queue.clone();
        this.services
            .on_event(move |event| adding.add(Key::of(event.object().as_ref())));
        let adding = queue.clone();
        this.slices.on_event(move |event| {
            for slice in event.old().into_iter().chain([event.object()]) {
                if let Some(key) = endpoints_of(slice) {
                    adding.add(key);
                }
            }
        });
        queue
            .run("endpoints", WORKERS, move |key| reconcile(this.clone(), key))
            .await;
        Ok(())
    })
}

/// The Endpoints that a slice of ours mirrors.
fn endpoints_of(slice: &EndpointSlice) -> Option<Key> {
    let labels = slice.metadata.labels.as_ref()?;
    let ours = labels.get(MANAGED_BY).is_some_and(|manager| manager == MANAGER);
    let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
    ours.then(|| Some(Key::new(namespace, labels.get(SERVICE_NAME)?)))
        .flatten()
}

async fn reconcile(this: Arc<Mirror>, key: Key) -> Result<Option<Duration>, String> {
    this.own.seen(&key).await?;
    let mut slices = this.slices.list_in(&key.namespace);
    slices.retain(|slice| endpoints_of(slice).as_ref() == Some(&key) && slice.metadata.deletion_timestamp.is_none());
    let seen = Observed {
        endpoints: this.endpoints.get_key(&key),
        service: this.services.get_key(&key),
        slices,
    };
    let (written, outcome) = this.executor.run(decide(&seen)).await;
    this.own.wrote(&key, &written);
    match outcome {
        Err(error) if error.is_namespace_terminating() => Ok(None),
        Err(error) => Err(error.to_string()),
        Ok(()) => Ok(None),
    }
}
