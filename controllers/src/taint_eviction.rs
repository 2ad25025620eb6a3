//! Deletes pods that do not tolerate their node's NoExecute taints, when their time is up.
//!
//! Watches: pods, nodes. Writes: pods/status (the DisruptionTarget condition), deletions, events. [`decide`] is pure. The
//! time of toleration counts from when this program first saw pod and taint together, as upstream's does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use steersman_runtime::client::{ApiError, Patch};
use steersman_runtime::events::EventType;
use steersman_runtime::informer::IndexId;
use steersman_runtime::{Informer, Key};
use steersman_types::Time;
use steersman_types::api::core::v1::{Node, ObjectReference, Pod, Taint, Toleration};
use tokio::time::Instant;
use tracing::info;

use crate::act::{Action, Executor};
use crate::context::Context;
use crate::pods;

const WORKERS: usize = 8;

struct Eviction {
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    executor: Executor,
    /// Pods whose toleration is running, by UID, and since when.
    running: Mutex<HashMap<Key, (String, Instant)>>,
    /// Upstream's `taint_eviction_controller_pod_deletions_total`, and how late each was.
    deletions: Counter,
    delay: Histogram,
}

/// Upper bounds in seconds, as upstream has them.
const DELAYS: [f64; 12] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0, 120.0, 180.0, 240.0];

/// See the module.
#[must_use]
pub fn start(context: Context) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let pods = context.informers.of::<Pod>();
        let nodes = context.informers.of::<Node>();
        let on_node: IndexId = pods.add_index(|pod: &Pod| vec![pods::node(pod).to_owned()]);
        let executor = context.executor("taint-eviction-controller");
        pods.synced().await;
        nodes.synced().await;
        let this = Arc::new(Eviction {
            pods,
            nodes,
            executor,
            running: Mutex::default(),
            deletions: Counter::default(),
            delay: Histogram::new(DELAYS),
        });
        context.metrics.register(|registry| {
            let deletions = "Total number of Pods deleted by TaintEvictionController since its start";
            let delay = "Latency, in seconds, between the time when a taint effect has been activated for the Pod and its deletion via TaintEvictionController";
            let name = "taint_eviction_controller_pod_deletion";
            registry.register(format!("{name}s"), deletions, this.deletions.clone());
            registry.register(format!("{name}_duration_seconds"), delay, this.delay.clone());
        });
        let queue = context.queue::<Key>();
        let adding = queue.clone();
        this.pods.on_event(move |event| {
            let relevant = |pod: &Pod| (pods::node(pod).to_owned(), tolerations(pod).to_vec());
            if event.old().is_none_or(|old| relevant(old) != relevant(event.object()))
                || pods::is_terminating(event.object())
            {
                adding.add(Key::of(event.object().as_ref()));
            }
        });
        let (adding, pods) = (queue.clone(), this.pods.clone());
        this.nodes.on_event(move |event| {
            if event
                .old()
                .is_none_or(|old| no_execute(old) != no_execute(event.object()))
            {
                let name = event.object().metadata.name.clone().unwrap_or_default();
                for pod in pods.by_index(on_node, &name) {
                    adding.add(Key::of(pod.as_ref()));
                }
            }
        });
        queue.run("pod", WORKERS, move |key| reconcile(this.clone(), key)).await;
        Ok(())
    })
}

fn tolerations(pod: &Pod) -> &[Toleration] {
    pod.spec
        .as_ref()
        .and_then(|s| s.tolerations.as_deref())
        .unwrap_or_default()
}

fn no_execute(node: &Node) -> Vec<Taint> {
    let taints = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    taints.into_iter().filter(|t| t.effect == "NoExecute").collect()
}

/// How long a pod may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    /// As long as it likes.
    Forever,
    /// So long after the taint was seen.
    For(Duration),
    NotAtAll,
}

/// Whether a toleration covers a taint.
#[must_use]
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let set = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    let effect = set(&toleration.effect).is_none_or(|effect| effect == taint.effect);
    let key = set(&toleration.key);
    match toleration.operator.as_deref() {
        Some("Exists") => effect && key.is_none_or(|key| key == taint.key),
        None | Some("" | "Equal") => {
            effect && key.as_deref() == Some(taint.key.as_str()) && set(&toleration.value) == set(&taint.value)
        }
        _ => false,
    }
}

/// Pure: the shortest time among the tolerations in use. Each taint needs one; of several the first counts.
#[must_use]
pub fn decide(tolerations: &[Toleration], taints: &[Taint]) -> Stay {
    let mut shortest: Option<i64> = None;
    for taint in taints {
        let Some(covering) = tolerations.iter().find(|t| tolerates(t, taint)) else {
            return Stay::NotAtAll;
        };
        if let Some(seconds) = covering.toleration_seconds {
            shortest = Some(shortest.map_or(seconds, |s| s.min(seconds)));
        }
    }
    match shortest {
        None => Stay::Forever,
        Some(seconds) if seconds <= 0 => Stay::NotAtAll,
        Some(seconds) => Stay::For(Duration::from_secs(seconds.unsigned_abs())),
    }
}

async fn reconcile(this: Arc<Eviction>, key: Key) -> Result<Option<Duration>, String> {
    let pod = this
        .pods
        .get_key(&key)
        .filter(|pod| !pods::is_terminating(pod) && !pods::node(pod).is_empty());
    let Some(pod) = pod else {
        this.running.lock().remove(&key);
        return Ok(None);
    };
    let taints = this
        .nodes
        .get("", pods::node(&pod))
        .map(|n| no_execute(&n))
        .unwrap_or_default();
    let stay = if taints.is_empty() {
        Stay::Forever
    } else {
        decide(tolerations(&pod), &taints)
    };
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let mut late = Duration::ZERO;
    let left = match stay {
        Stay::Forever => {
            let cancelled = this.running.lock().remove(&key).is_some();
            if cancelled {
                this.note(&key, format!("Cancelling deletion of Pod {key}")).await;
            }
            return Ok(None);
        }
        Stay::NotAtAll => Duration::ZERO,
        Stay::For(time) => {
            let mut running = this.running.lock();
            let entry = running
                .entry(key.clone())
                .or_insert_with(|| (uid.clone(), Instant::now()));
            if entry.0 != uid {
                *entry = (uid, Instant::now());
            }
            late = entry.1.elapsed().saturating_sub(time);
            time.saturating_sub(entry.1.elapsed())
        }
    };
    if !left.is_zero() {
        return Ok(Some(left));
    }
    this.running.lock().remove(&key);
    let begun = Instant::now();
    match this.evict(&key, &pod).await {
        Ok(()) => {
            this.deletions.inc();
            this.delay.observe((late + begun.elapsed()).as_secs_f64());
            Ok(None)
        }
        Err(error) if !error.is_not_found() => Err(error.to_string()),
        _ => Ok(None),
    }
}

impl Eviction {
    async fn note(&self, key: &Key, message: String) {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(key.name.clone()),
            namespace: Some(key.namespace.clone()),
            ..ObjectReference::default()
        };
        let _ = self
            .executor
            .one(Action::event(about, EventType::Normal, "TaintManagerEviction", message))
            .await;
    }

    async fn evict(&self, key: &Key, pod: &Pod) -> Result<(), ApiError> {
        info!(pod = %key, "Deleting pod: it does not tolerate its node's taints");
        self.note(key, format!("Marking for deletion Pod {key}")).await;
        let condition = serde_json::json!({
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint", "lastTransitionTime": Time(Timestamp::now()),
            "observedGeneration": pod.metadata.generation,
        });
        let patch = serde_json::json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
        self.executor
            .one(Action::patch(pod, Some("status"), Patch::Strategic(patch)))
            .await?;
        self.executor.one(Action::delete(pod)).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str) -> Taint {
        Taint {
            key: key.into(),
            effect: "NoExecute".into(),
            ..Taint::default()
        }
    }

    fn toleration(key: &str, seconds: Option<i64>) -> Toleration {
        Toleration {
            key: Some(key.into()).filter(|k: &String| !k.is_empty()),
            operator: Some("Exists".into()),
            toleration_seconds: seconds,
            ..Toleration::default()
        }
    }

    #[test]
    fn every_taint_needs_a_toleration_and_the_shortest_counts() {
        let taints = [taint("a"), taint("b")];
        assert_eq!(decide(&[toleration("a", None)], &taints), Stay::NotAtAll);
        let both = [toleration("a", Some(300)), toleration("b", Some(30))];
        assert_eq!(decide(&both, &taints), Stay::For(Duration::from_secs(30)));
        assert_eq!(decide(&[toleration("", None)], &taints), Stay::Forever);
        assert_eq!(decide(&[toleration("", Some(0))], &taints), Stay::NotAtAll);
        let first = [toleration("", None), toleration("a", Some(1))];
        assert_eq!(decide(&first, &taints), Stay::Forever);
    }

    #[test]
    fn equal_compares_values_and_exists_does_not() {
        let tainted = Taint {
            value: Some("x".into()),
            ..taint("a")
        };
        let equal = |value: &str| Toleration {
            key: Some("a".into()),
            value: Some(value.into()),
            ..Toleration::default()
        };
        assert!(tolerates(&equal("x"), &tainted));
        assert!(!tolerates(&equal("y"), &tainted));
        assert!(tolerates(&toleration("a", None), &tainted));
        assert!(!tolerates(
            &Toleration {
                effect: Some("NoSchedule".into()),
                ..toleration("a", None)
            },
            &tainted
        ));
    }
}
