//! The loop that keeps the kernel's tables as the cluster's Services are.
//!
//! Informers mark Services as dirty; the loop turns the dirty ones into fragments, asks the tables what to do, and runs
//! one small transaction per family; then it forgets stale UDP connections and settles the health check ports. A changed
//! Node or service range, a failed transaction, a table that somebody else took away, and the start make everything anew.
//! Called by [`crate::run`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use parking_lot::Mutex;
use steersman_runtime::informer::{IndexId, Informer};
use steersman_types::api::core::v1::{Node, Service};
use steersman_types::api::discovery::v1::EndpointSlice;
use steersman_types::api::networking::v1::ServiceCIDR;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{Configuration, NodeView, Settings};
use crate::family::Family;
use crate::health::Health;
use crate::health_ports::HealthPorts;
use crate::metrics::ProxyMetrics;
use crate::rules::{self, Fragment};
use crate::stale::{self, Fronts};
use crate::table::{Command, Owner, Table};
use crate::{base, conntrack, kernel, nft, now};

/// Whose slices these are.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Slices of headless Services concern nobody here.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// How often the kernel is asked whether it still has the tables.
const LOOK_PERIOD: Duration = Duration::from_secs(30);

/// What the informers leave for the loop.
#[derive(Default)]
struct Dirty {
    services: Mutex<BTreeSet<Owner>>,
    /// The Node or the ranges of cluster IPs.
    surroundings: Mutex<bool>,
    wake: Notify,
}

impl Dirty {
    fn service(&self, owner: Owner) {
        self.services.lock().insert(owner);
        self.wake.notify_one();
    }

    fn surroundings(&self) {
        *self.surroundings.lock() = true;
        self.wake.notify_one();
    }
}

/// The informers that the loop reads.
pub struct Sources {
    pub services: Informer<Service>,
    pub slices: Informer<EndpointSlice>,
    /// The ranges of cluster IPs.
    pub cidrs: Informer<ServiceCIDR>,
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
    /// Sorted.
    service_ranges: Vec<IpNet>,
    tables: [Table; 2],
    /// The kernel's numbers of the tables.
    handles: [Option<u64>; 2],
    health: Arc<Health>,
    ports: HealthPorts,
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
        ports: HealthPorts,
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
        sources.node.on_event(move |_| marks.surroundings());
        let marks = dirty.clone();
        sources.cidrs.on_event(move |_| marks.surroundings());
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
            service_ranges: Vec::new(),
            tables: [Table::new(Family::V4), Table::new(Family::V6)],
            handles: [None; 2],
            health,
            ports,
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
                self.sources.cidrs.synced(),
                self.sources.node.synced()
            );
        };
        tokio::select! { () = synced => {}, () = stop.cancelled() => return }
        let mut everything = true;
        let mut look = Instant::now() + LOOK_PERIOD;
        loop {
            let started = Instant::now();
            everything |= std::mem::take(&mut *self.dirty.surroundings.lock()) && self.look_around();
            if started >= look {
                everything |= self.is_gone();
                look = started + LOOK_PERIOD;
            }
            let dirty = std::mem::take(&mut *self.dirty.services.lock());
            let outcome = if everything {
                self.rebuild().await
            } else {
                self.update(dirty).await
            };
            let pause = match outcome {
                Ok(()) => {
                    self.ports.settle(&self.node, &self.settings).await;
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
            tokio::select! {
                () = wake => {}
                () = tokio::time::sleep_until(look) => {}
                () = stop.cancelled() => return,
            }
            self.health.pending(now());
        }
    }

    /// Whether the kernel no longer has what was written.
    fn is_gone(&self) -> bool {
        let mut gone = false;
        for (table, handle) in self
            .tables
            .iter()
            .zip(self.handles)
            .filter(|(_, handle)| handle.is_some())
        {
            match kernel::table_handle(table.family()) {
                Ok(found) if found == handle => {}
                Ok(_) => {
                    warn!(family = %table.family(), "somebody else has removed the rules; making them anew");
                    gone = true;
                }
                Err(error) => info!(%error, "the kernel does not say which tables it has"),
            }
        }
        gone
    }

    /// Reads the Node and the service ranges again; whether anything that the rules depend on has changed.
    fn look_around(&mut self) -> bool {
        let cidrs = self.sources.cidrs.list();
        let specs = cidrs.iter().filter_map(|c| c.spec.as_ref());
        let texts = specs.flat_map(|s| s.cidrs.iter().flatten());
        let mut ranges: Vec<IpNet> = texts.filter_map(|text| text.parse().ok()).collect();
        ranges.sort_unstable();
        ranges.dedup();
        let moved = ranges != self.service_ranges;
        self.service_ranges = ranges;
        self.look_at_node() || moved
    }

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
            let mut fronts = Fronts::default();
            for (owner, new) in &changes {
                if let Some(new) = new
                    .as_ref()
                    .filter(|new| stale::may_be(table.fragment(owner), Some(new)))
                {
                    fronts.add(new);
                }
                let check = new.as_ref().and_then(|new| new.health_check.as_ref());
                self.ports.want(owner, family, check);
            }
            let transaction = table.replace(changes);
            nft::run(family, &transaction.apply).await?;
            match nft::run(family, &transaction.cleanup).await {
                Ok(()) => table.cleaned(),
                Err(error) => info!(%error, "unused chains stay a little longer"),
            }
            self.forget(family, fronts).await;
        }
        Ok(())
    }

    async fn rebuild(&mut self) -> Result<(), nft::NftError> {
        self.ports.want_nothing();
        for i in 0..self.tables.len() {
            let Some(family) = self.tables.get(i).map(Table::family) else {
                continue;
            };
            let mut table = Table::new(family);
            let services = self.sources.services.list();
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
            let _ = table.replace(fragments);
            let mut fronts = Fronts::default();
            for (owner, fragment) in table.fragments() {
                fronts.add(fragment);
                self.ports.want(owner, family, fragment.health_check.as_ref());
            }
            let base = base::commands(family, &self.node, &self.settings, &self.service_ranges);
            let mut commands = table.rebuild(base);
            commands.extend(clients(family, table.client_sets()).await);
            nft::run(family, &commands).await?;
            let handle = kernel::table_handle(family).unwrap_or_else(|error| {
                info!(%error, "the kernel does not say which tables it has");
                None
            });
            if let (Some(slot), Some(known)) = (self.tables.get_mut(i), self.handles.get_mut(i)) {
                *slot = table;
                *known = handle;
            }
            self.forget(family, fronts).await;
        }
        Ok(())
    }

    /// Forgets the stale UDP connections among those to `fronts`. Best effort: what stays ends by itself once it is silent.
    async fn forget(&self, family: Family, fronts: Fronts) {
        if fronts.is_empty() {
            return;
        }
        let (node, settings) = (self.node.clone(), self.settings.clone());
        let work = move || {
            let is_node = |address| settings.serves_node_ports(address, &node);
            conntrack::forget(family, |flow| fronts.is_stale(flow, is_node))
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(0)) => {}
            Ok(Ok(forgotten)) => info!(%family, forgotten, "forgot stale UDP connections"),
            Ok(Err(error)) => warn!(%family, %error, "stale UDP connections will have to time out"),
            Err(error) => warn!(%error, "looking for stale UDP connections"),
        }
    }
}

/// What makes clients stick to their endpoints although the sets that say so are made anew. Best effort.
async fn clients(family: Family, sets: Vec<String>) -> Vec<Command> {
    if sets.is_empty() {
        return Vec::new();
    }
    let kept = tokio::task::spawn_blocking(move || kernel::keep_clients(family, &sets)).await;
    kept.map_err(std::io::Error::other).flatten().unwrap_or_else(|error| {
        warn!(%family, %error, "clients may be sent to other endpoints");
        Vec::new()
    })
}
