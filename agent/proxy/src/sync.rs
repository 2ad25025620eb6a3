//! The loop that keeps the kernel's tables as the cluster's Services are.
//!
//! Informers mark Services as dirty; the loop turns the dirty ones into fragments, asks the tables what to do, and runs
//! one small transaction per family. A changed Node, a failed transaction and the start make everything anew. Called by
//! [`crate::run`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use steersman_runtime::informer::{IndexId, Informer};
use steersman_types::api::core::v1::{Node, Service};
use steersman_types::api::discovery::v1::EndpointSlice;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{Configuration, NodeView, Settings};
use crate::family::Family;
use crate::health::Health;
use crate::metrics::ProxyMetrics;
use crate::rules::{self, Fragment};
use crate::stale::{self, Stale};
use crate::table::{Owner, Table};
use crate::{base, nft};

/// Whose slices these are.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Slices of headless Services concern nobody here.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// What the informers leave for the loop.
#[derive(Default)]
struct Dirty {
    services: Mutex<BTreeSet<Owner>>,
    node: Mutex<bool>,
    wake: Notify,
}

impl Dirty {
    fn service(&self, owner: Owner) {
        self.services.lock().insert(owner);
        self.wake.notify_one();
    }
}

/// The informers that the loop reads.
pub struct Sources {
    pub services: Informer<Service>,
    pub slices: Informer<EndpointSlice>,
    /// Only this node.
    pub node: Informer<Node>,
}

/// The loop and what it owns.
pub struct Sync {
    sources: Sources,
    by_service: IndexId,
    dirty: Arc<Dirty>,
    configuration: Configuration,
    node: NodeView,
    settings: Settings,
    tables: [Table; 2],
    health: Arc<Health>,
    metrics: ProxyMetrics,
    min_period: Duration,
    retry_period: Duration,
}

fn owner_of_slice(slice: &EndpointSlice) -> Option<Owner> {
    let labels = slice.metadata.labels.as_ref()?;
    if labels.contains_key(HEADLESS) {
        return None;
    }
    Some((
        slice.metadata.namespace.clone().unwrap_or_default(),
        labels.get(SERVICE_NAME)?.clone(),
    ))
}

fn index_key(owner: &Owner) -> String {
    format!("{}/{}", owner.0, owner.1)
}

impl Sync {
    /// Hooks into the informers.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn new(
        sources: Sources,
        configuration: Configuration,
        node_name: &str,
        health: Arc<Health>,
        metrics: ProxyMetrics,
    ) -> Result<Self, String> {
        let dirty = Arc::new(Dirty::default());
        let by_service = sources
            .slices
            .add_index(|slice| owner_of_slice(slice).iter().map(index_key).collect());
        let marks = dirty.clone();
        sources.services.on_event(move |event| {
            let meta = &event.object().metadata;
            marks.service((
                meta.namespace.clone().unwrap_or_default(),
                meta.name.clone().unwrap_or_default(),
            ));
        });
        let marks = dirty.clone();
        sources.slices.on_event(move |event| {
            let both = [event.old(), Some(event.object())];
            both.into_iter()
                .flatten()
                .filter_map(|s| owner_of_slice(s))
                .for_each(|owner| marks.service(owner));
        });
        let marks = dirty.clone();
        sources.node.on_event(move |_| {
            *marks.node.lock() = true;
            marks.wake.notify_one();
        });
        let node = NodeView::new(node_name, None);
        let settings = configuration.settings(&node)?;
        let min_period = configuration
            .nftables
            .min_sync_period
            .unwrap_or(Duration::from_millis(10));
        let retry_period = configuration.nftables.sync_period.unwrap_or(Duration::from_secs(30));
        Ok(Self {
            sources,
            by_service,
            dirty,
            configuration,
            node,
            settings,
            tables: [Table::new(Family::V4), Table::new(Family::V6)],
            health,
            metrics,
            min_period,
            // Upstream's 30 s would leave a node without services for that long.
            retry_period: retry_period.min(Duration::from_secs(1)),
        })
    }

    /// Runs until `stop`; the rules stay in the kernel afterwards.
    pub async fn run(mut self, stop: CancellationToken) {
        // Rules made from half of the objects would refuse what the other half allows.
        let synced = async {
            tokio::join!(
                self.sources.services.synced(),
                self.sources.slices.synced(),
                self.sources.node.synced()
            );
        };
        tokio::select! { () = synced => {}, () = stop.cancelled() => return }
        let mut everything = true;
        loop {
            let started = Instant::now();
            everything |= std::mem::take(&mut *self.dirty.node.lock()) && self.look_at_node();
            let dirty = std::mem::take(&mut *self.dirty.services.lock());
            let outcome = if everything {
                self.rebuild().await
            } else {
                self.update(dirty).await
            };
            let pause = match outcome {
                Ok(()) => {
                    self.metrics.synced(everything, started.elapsed(), now());
                    self.health.synced(now());
                    if std::mem::take(&mut everything) {
                        let took = started.elapsed().as_secs_f64();
                        info!(services = self.sources.services.len(), node = ?self.node.addresses, seconds = took, "All rules written");
                    }
                    self.min_period.saturating_sub(started.elapsed())
                }
                Err(error) => {
                    warn!(%error, "could not write the rules; making all of them anew soon");
                    self.metrics.failures.inc();
                    everything = true;
                    self.retry_period
                }
            };
            let wake = async {
                tokio::time::sleep(pause).await;
                if !everything {
                    self.dirty.wake.notified().await;
                }
            };
            tokio::select! { () = wake => {}, () = stop.cancelled() => return }
            self.health.pending(now());
        }
    }

    /// Reads the Node again; whether anything that the rules depend on has changed.
    fn look_at_node(&mut self) -> bool {
        let name = self.node.name.clone();
        let node = NodeView::new(&name, self.sources.node.get("", &name).as_deref());
        self.health.eligible(!node.leaving);
        if node == self.node {
            return false;
        }
        match self.configuration.settings(&node) {
            Ok(settings) => self.settings = settings,
            Err(error) => warn!(error, "keeping the old settings"),
        }
        self.node = node;
        true
    }

    fn fragment(&self, owner: &Owner, family: Family) -> Option<Fragment> {
        let service = self.sources.services.get(&owner.0, &owner.1)?;
        let slices = self.sources.slices.by_index(self.by_service, &index_key(owner));
        let fragment = rules::fragment(&service, &slices, family, &self.node, &self.settings);
        (fragment != Fragment::default()).then_some(fragment)
    }

    async fn update(&mut self, dirty: BTreeSet<Owner>) -> Result<(), nft::NftError> {
        for i in 0..self.tables.len() {
            let Some(family) = self.tables.get(i).map(Table::family) else {
                continue;
            };
            let changes: Vec<_> = dirty
                .iter()
                .map(|owner| (owner.clone(), self.fragment(owner, family)))
                .collect();
            let Some(table) = self.tables.get_mut(i) else { continue };
            let stale: Vec<Stale> = changes
                .iter()
                .flat_map(|(owner, new)| stale::connections(table.fragment(owner), new.as_ref()))
                .collect();
            let transaction = table.replace(changes);
            nft::run(family, &transaction.apply).await?;
            match nft::run(family, &transaction.cleanup).await {
                Ok(()) => table.cleaned(),
                Err(error) => info!(%error, "unused chains stay a little longer"),
            }
            forget(stale).await;
        }
        Ok(())
    }

    async fn rebuild(&mut self) -> Result<(), nft::NftError> {
        for i in 0..self.tables.len() {
            let Some(family) = self.tables.get(i).map(Table::family) else {
                continue;
            };
            let services = self.sources.services.list();
            let mut table = Table::new(family);
            let owners = services.iter().map(|s| {
                (
                    s.metadata.namespace.clone().unwrap_or_default(),
                    s.metadata.name.clone().unwrap_or_default(),
                )
            });
            let fragments = owners.map(|owner| {
                let fragment = self.fragment(&owner, family);
                (owner, fragment)
            });
            let fragments: Vec<_> = fragments.collect();
            let stale: Vec<Stale> = self.tables.get(i).map_or_else(Vec::new, |old| {
                let known = old.owners();
                let gone = known
                    .iter()
                    .filter(|o| !fragments.iter().any(|(owner, _)| owner == *o))
                    .map(|o| (o, None));
                let both = fragments.iter().map(|(owner, new)| (owner, new.as_ref())).chain(gone);
                // After a start nothing is known of what was before, so nothing can be called stale.
                both.filter(|_| !known.is_empty())
                    .flat_map(|(o, new)| stale::connections(old.fragment(o), new))
                    .collect()
            });
            let _ = table.replace(fragments);
            let commands = table.rebuild(base::commands(family, &self.node, &self.settings));
            nft::run(family, &commands).await?;
            if let Some(slot) = self.tables.get_mut(i) {
                *slot = table;
            }
            forget(stale).await;
        }
        Ok(())
    }
}

async fn forget(stale: Vec<Stale>) {
    for (address, port, endpoint) in stale {
        nft::forget_udp(address, port, endpoint).await;
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |d| d.as_secs_f64())
}
