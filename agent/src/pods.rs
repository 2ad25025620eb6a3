//! All pods of this node: one worker each, fed by the API's watch and woken by the runtime's events.
//!
//! Also looks for what nobody watches over: sandboxes, volumes and control groups of pods that the API does not know.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use steersman_cri::v1;
use steersman_runtime::{Event, Informer};
use steersman_types::api::core::v1::Pod;
use tokio::sync::{Notify, watch};

use crate::admit::{Node, is_over, refusal};
use crate::allocations::amounts;
use crate::context::Context;
use crate::pod;
use crate::pod::seen::Trouble;
use crate::pod::worker::{Assigned, Evicted, Worker};
use crate::runtime::labels;
use crate::statics::Mirrors;

/// The runtime is listed this often; its events usually tell earlier.
const RELIST: Duration = Duration::from_secs(5);
/// Without events, as upstream relists.
const RELIST_ALONE: Duration = Duration::from_secs(1);
/// What belongs to no known pod is removed when it was seen to do so twice in a row.
const TIDY: Duration = Duration::from_secs(15);

struct Running {
    assigned: watch::Sender<Assigned>,
    wake: Arc<Notify>,
}

/// The pods by uid.
pub struct Pods {
    context: Arc<Context>,
    running: Mutex<HashMap<String, Running>>,
    /// The last list: container and sandbox states by pod uid, to see who changed.
    listed: Mutex<HashMap<String, BTreeMap<String, i32>>>,
    /// How many pods the node takes (`maxPods`).
    max_pods: usize,
    mirrors: Arc<Mirrors>,
    last_relist: Mutex<Option<std::time::Instant>>,
}

impl Pods {
    #[must_use]
    pub fn new(context: Arc<Context>, max_pods: usize, mirrors: Arc<Mirrors>) -> Arc<Self> {
        Arc::new(Self {
            context,
            running: Mutex::default(),
            listed: Mutex::default(),
            max_pods,
            mirrors,
            last_relist: Mutex::default(),
        })
    }

    /// Runs until the informer ends. `known` is called once the API's pods are known.
    pub async fn run(self: Arc<Self>, informer: Informer<Pod>, known: impl FnOnce()) {
        let mut changes = informer.subscribe();
        informer.synced().await;
        tokio::spawn(self.clone().tidy_forever());
        for mirror in informer.list().iter().filter(|p| pod::is_mirror(p)) {
            self.mirrors.mirror(mirror);
        }
        known();
        while let Some(change) = changes.recv().await {
            match change {
                Event::Added(pod) | Event::Updated { new: pod, .. } if pod::is_mirror(&pod) => {
                    self.mirrors.mirror(&pod)
                }
                Event::Deleted(pod) if pod::is_mirror(&pod) => self.mirrors.mirror_gone(&pod),
                Event::Added(pod) | Event::Updated { new: pod, .. } => self.assign(&pod, false),
                Event::Deleted(pod) => self.assign(&pod, true),
            }
        }
    }

    /// These static pods there are at a source. A new version of one begins when the one before has ended, and so does
    /// one whose name another source's pod has.
    pub fn set_static(self: &Arc<Self>, source: &str, wanted: &[Arc<Pod>]) {
        let running: Vec<Arc<Pod>> = self.list().into_iter().filter(|p| pod::is_static(p)).collect();
        for old in running.iter().filter(|p| pod::source(p) == source) {
            if !wanted.iter().any(|p| pod::uid(p) == pod::uid(old)) {
                self.assign(old, true);
            }
        }
        for new in wanted {
            let same_name = |p: &&Arc<Pod>| pod::name(p) == pod::name(new) && pod::namespace(p) == pod::namespace(new);
            if !running.iter().any(|p| same_name(&p)) {
                self.mirrors.original(new);
                self.assign(new, false);
            }
        }
    }

    fn assign(self: &Arc<Self>, pod: &Arc<Pod>, gone: bool) {
        let uid = pod::uid(pod).to_owned();
        let mut assigned = Assigned {
            pod: pod.clone(),
            gone,
            evicted: None,
        };
        let mut running = self.running.lock();
        if let Some(known) = running.get(&uid) {
            // The echo of the worker's own reports must not wake it: it would try again at once what just failed.
            known.assigned.send_if_modified(|before| {
                let matters = gone || concerns_worker(&before.pod, pod);
                assigned.evicted = before.evicted.take();
                *before = assigned;
                matters
            });
            return;
        }
        if gone {
            return;
        }
        let active: Vec<Arc<Pod>> = running.values().map(|r| r.assigned.borrow().pod.clone()).collect();
        let used = self.context.allocations.of_others(&uid);
        let node = Node {
            active: &active,
            used,
            allocatable: &self.context.allocatable,
            max_pods: self.max_pods,
            short_of: self.context.pressure.now(),
        };
        let refused = refusal(pod, &node);
        if refused.is_none() && !is_over(pod) {
            self.context.allocations.set(&uid, amounts(pod));
        }
        if let Some(why) = &refused {
            crate::events::PodEvents::new(self.context.sink.clone(), pod).warning(None, &why.reason, &why.message);
        }
        let refused = refused.map(|why| Trouble {
            message: format!("Pod was rejected: {}", why.message),
            ..why
        });
        let (sender, receiver) = watch::channel(assigned);
        let wake = Arc::new(Notify::new());
        let worker = Worker::new(self.context.clone(), receiver, wake.clone(), refused);
        running.insert(uid.clone(), Running { assigned: sender, wake });
        drop(running);
        let pods = self.clone();
        tokio::spawn(async move {
            worker.run().await;
            let ended = pods.running.lock().remove(&uid);
            if let Some(pod) = ended
                .map(|r| r.assigned.borrow().pod.clone())
                .filter(|p| pod::is_static(p))
            {
                pods.mirrors.original_gone(&pod);
            }
        });
        self.share_cpu();
    }

    fn share_cpu(&self) {
        let pods = self.list();
        if let Err(e) = self.context.cgroups.set_burstable(pods.iter().map(AsRef::as_ref)) {
            tracing::debug!(error = %e, "Failed to set the shares of burstable pods");
        }
    }

    /// The pods that this node works on.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Pod>> {
        self.running
            .lock()
            .values()
            .map(|r| r.assigned.borrow().pod.clone())
            .collect()
    }

    #[must_use]
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.list()
            .into_iter()
            .find(|p| pod::namespace(p) == namespace && pod::name(p) == name)
    }

    /// The pods of which something may run and that nobody has told to end.
    #[must_use]
    pub fn active(&self) -> Vec<Arc<Pod>> {
        let running = self.running.lock();
        let assigned = running.iter().map(|(uid, r)| (uid, r.assigned.borrow()));
        assigned
            .filter(|(uid, a)| {
                a.evicted.is_none() && !a.gone && !is_over(&a.pod) && self.context.allocations.holds(uid)
            })
            .map(|(_, a)| a.pod.clone())
            .collect()
    }

    /// Ends a pod for good, whatever the API says. Tells whether there was one to end.
    pub fn evict(&self, uid: &str, why: Evicted) -> bool {
        let running = self.running.lock();
        let Some(known) = running.get(uid) else { return false };
        known.assigned.send_if_modified(|assigned| {
            let first = assigned.evicted.is_none();
            assigned.evicted.get_or_insert_with(|| Arc::new(why));
            first
        })
    }

    /// Whether the runtime has been listed lately; the node is not ready otherwise.
    #[must_use]
    pub fn relisted(&self, within: Duration) -> bool {
        self.last_relist.lock().is_none_or(|at| at.elapsed() < within)
    }

    fn wake(&self, uid: &str) {
        if let Some(running) = self.running.lock().get(uid) {
            running.wake.notify_one();
        }
    }

    /// Events as they come, lists every few seconds.
    pub async fn follow_runtime(self: Arc<Self>) {
        let mut events = None;
        loop {
            if events.is_none() {
                events = self.context.runtime.events().await.ok();
                self.relist().await;
            }
            match &mut events {
                Some(stream) => tokio::select! {
                    event = stream.next() => match event {
                        Some(Ok(event)) => self.hint(&event),
                        _ => events = None,
                    },
                    () = tokio::time::sleep(RELIST) => self.relist().await,
                },
                None => tokio::time::sleep(RELIST_ALONE).await,
            }
        }
    }

    fn hint(&self, event: &v1::ContainerEventResponse) {
        let metadata = event.pod_sandbox_status.as_ref().and_then(|s| s.metadata.as_ref());
        match metadata {
            Some(metadata) => self.wake(&metadata.uid),
            // Whose it is will be seen in the next list.
            None => self.listed.lock().clear(),
        }
    }

    async fn relist(&self) {
        let runtime = self.context.runtime.as_ref();
        let sandboxes = runtime.list_sandboxes(v1::PodSandboxFilter::default()).await;
        let containers = runtime.list_containers(v1::ContainerFilter::default()).await;
        let (Ok(sandboxes), Ok(containers)) = (sandboxes, containers) else {
            return;
        };
        let mut now: HashMap<String, BTreeMap<String, i32>> = HashMap::new();
        for s in sandboxes {
            now.entry(uid_of(&s.labels)).or_default().insert(s.id, s.state);
        }
        for c in containers {
            now.entry(uid_of(&c.labels)).or_default().insert(c.id, c.state);
        }
        let before = std::mem::replace(&mut *self.listed.lock(), now.clone());
        let uids: HashSet<&String> = now.keys().chain(before.keys()).collect();
        for uid in uids {
            if now.get(uid) != before.get(uid) {
                self.wake(uid);
            }
        }
        *self.last_relist.lock() = Some(std::time::Instant::now());
    }

    async fn tidy_forever(self: Arc<Self>) {
        let mut suspects = HashSet::new();
        loop {
            tokio::time::sleep(TIDY).await;
            suspects = self.tidy(&suspects).await;
        }
    }

    /// Removes what belonged to no known pod before and still does not; gives those that do not now.
    async fn tidy(&self, before: &HashSet<String>) -> HashSet<String> {
        if self.mirrors.unread() {
            // What nobody seems to know may be described there.
            return HashSet::new();
        }
        let known: HashSet<String> = self.running.lock().keys().cloned().collect();
        let mut orphans: HashSet<String> = self.listed.lock().keys().cloned().collect();
        orphans.extend(self.context.volumes.pods_on_disk());
        orphans.extend(self.context.cgroups.pods());
        orphans.extend(self.pods_with_logs().into_keys());
        orphans.retain(|uid| !known.contains(uid) && !uid.is_empty());
        for uid in orphans.intersection(before) {
            if let Err(e) = self.remove_orphan(uid).await {
                tracing::warn!(uid, error = %e, "Failed to remove what is left of a pod");
            }
        }
        orphans
    }

    /// Log directories by pod uid: their names are `<namespace>_<name>_<uid>`.
    fn pods_with_logs(&self) -> HashMap<String, std::path::PathBuf> {
        let entries = std::fs::read_dir(&self.context.pod_logs)
            .into_iter()
            .flatten()
            .flatten();
        let uid = |e: &std::fs::DirEntry| {
            let name = e.file_name().to_string_lossy().into_owned();
            let mut parts = name.splitn(3, '_').skip(2);
            parts.next().map(str::to_owned)
        };
        entries.filter_map(|e| Some((uid(&e)?, e.path()))).collect()
    }

    async fn remove_orphan(&self, uid: &str) -> Result<(), String> {
        let context = &self.context;
        let label_selector = HashMap::from([(labels::POD_UID.to_owned(), uid.to_owned())]);
        let filter = v1::ContainerFilter {
            label_selector: label_selector.clone(),
            ..Default::default()
        };
        let containers = context
            .runtime
            .list_containers(filter)
            .await
            .map_err(|e| e.to_string())?;
        let grace = |c: &v1::Container| {
            let annotation = c
                .annotations
                .get(labels::TERMINATION_GRACE)
                .and_then(|g| g.parse().ok());
            crate::pod::stop::seconds(annotation.unwrap_or(crate::pod::stop::DEFAULT_GRACE))
        };
        let live = containers
            .iter()
            .filter(|c| c.state == v1::ContainerState::ContainerRunning as i32);
        let stops = live.map(|c| context.runtime.stop_container(&c.id, grace(c)));
        for stopped in futures::future::join_all(stops).await {
            stopped.map_err(|e| e.to_string())?;
        }
        let filter = v1::PodSandboxFilter {
            label_selector,
            ..Default::default()
        };
        for s in context
            .runtime
            .list_sandboxes(filter)
            .await
            .map_err(|e| e.to_string())?
        {
            tracing::info!(uid, sandbox = %s.id, "Removing a sandbox whose pod does not exist");
            context.runtime.stop_sandbox(&s.id).await.map_err(|e| e.to_string())?;
            context.runtime.remove_sandbox(&s.id).await.map_err(|e| e.to_string())?;
        }
        if let Some(logs) = self.pods_with_logs().get(uid) {
            let _ = std::fs::remove_dir_all(logs);
            remove_dangling_links(&context.container_logs);
        }
        context.volumes.teardown(uid).await.map_err(|e| e.to_string())?;
        context.cgroups.remove_pod(uid).map_err(|e| e.to_string())
    }
}

/// Links of container logs whose log is gone.
fn remove_dangling_links(dir: &std::path::Path) {
    let links = std::fs::read_dir(dir).into_iter().flatten().flatten();
    for link in links.filter(|l| l.path().is_symlink() && !l.path().exists()) {
        let _ = std::fs::remove_file(link.path());
    }
}

/// Does the change concern what the worker does? Everything but the status that it writes itself; of that only readiness,
/// which others change when they think the node dead.
fn concerns_worker(old: &Pod, new: &Pod) -> bool {
    let own = [
        "Ready",
        "ContainersReady",
        "Initialized",
        "PodScheduled",
        "PodReadyToStartContainers",
        crate::pod::resize::PENDING,
        crate::pod::resize::IN_PROGRESS,
    ];
    let foreign = |pod: &Pod| {
        let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        conditions
            .filter(|c| !own.contains(&c.type_.as_str()))
            .cloned()
            .collect::<Vec<_>>()
    };
    let meta = |pod: &Pod| {
        let m = &pod.metadata;
        (
            m.deletion_timestamp.clone(),
            m.deletion_grace_period_seconds,
            m.labels.clone(),
            m.annotations.clone(),
            m.generation,
        )
    };
    let ready = |pod: &Pod| {
        let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        conditions
            .filter(|c| c.type_ == "Ready")
            .map(|c| c.status.clone())
            .next()
    };
    old.spec != new.spec || meta(old) != meta(new) || foreign(old) != foreign(new) || ready(old) != ready(new)
}

fn uid_of(labels: &HashMap<String, String>) -> String {
    labels.get(labels::POD_UID).cloned().unwrap_or_default()
}
