//! Keeps the API's pictures of static pods.
//!
//! Told by [`crate::pods`] which static pods there are and which pictures the API shows, and by the pods' workers what
//! state they are in. One task for all; what fails is tried again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use steersman_runtime::Client;
use steersman_runtime::client::{ApiError, DeleteOptions, Patch};
use steersman_types::api::core::v1::{Node, Pod, PodStatus};
use tokio::sync::Notify;

use super::mirror::{Step, decide, picture};
use crate::api::status_patch;
use crate::pod;

/// Without a reason, all pictures are looked at so often: something may have been missed.
const LOOK: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(1);

/// Namespace and name, which original and picture have in common.
type Name = (String, String);

#[derive(Default)]
struct State {
    originals: BTreeMap<Name, Arc<Pod>>,
    /// By uid of the original.
    statuses: BTreeMap<String, PodStatus>,
    mirrors: BTreeMap<Name, Arc<Pod>>,
    /// By uid of the picture.
    written: BTreeMap<String, PodStatus>,
}

/// See the module.
#[derive(Default)]
pub struct Mirrors {
    state: Mutex<State>,
    changed: Notify,
    /// A source of static pods has not been read yet.
    unread: AtomicBool,
}

fn name(pod: &Pod) -> Name {
    (pod::namespace(pod).to_owned(), pod::name(pod).to_owned())
}

impl Mirrors {
    /// There is a source of static pods that may take a while to be read. Until then nothing is taken away because
    /// nobody knows it.
    pub fn expect(&self) {
        self.unread.store(true, Ordering::Relaxed);
    }

    /// It has been read once.
    pub fn read(&self) {
        self.unread.store(false, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Whether there may be static pods that nobody knows yet.
    #[must_use]
    pub fn unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed)
    }

    /// There is such a static pod.
    pub fn original(&self, pod: &Arc<Pod>) {
        self.state.lock().originals.insert(name(pod), pod.clone());
        self.changed.notify_one();
    }

    /// It is no more.
    pub fn original_gone(&self, pod: &Pod) {
        let mut state = self.state.lock();
        state.statuses.remove(pod::uid(pod));
        let key = name(pod);
        if state.originals.get(&key).is_some_and(|o| pod::uid(o) == pod::uid(pod)) {
            state.originals.remove(&key);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// What the API shows.
    pub fn mirror(&self, pod: &Arc<Pod>) {
        self.state.lock().mirrors.insert(name(pod), pod.clone());
        self.changed.notify_one();
    }

    /// The API does not show it any more.
    pub fn mirror_gone(&self, pod: &Pod) {
        self.state.lock().forget(&name(pod), pod::uid(pod));
        self.changed.notify_one();
    }

    /// The state of a static pod.
    pub fn report(&self, pod: &Pod, status: &PodStatus) {
        self.state
            .lock()
            .statuses
            .insert(pod::uid(pod).to_owned(), status.clone());
        self.changed.notify_one();
    }

    /// Keeps the pictures, forever. Begin once the API's pods are known.
    pub async fn run(self: Arc<Self>, client: Client, node: String) {
        loop {
            let failed = self.round(&client, &node).await;
            let pause = if failed { RETRY } else { LOOK };
            if failed {
                tokio::time::sleep(pause).await;
            } else {
                let _ = tokio::time::timeout(pause, self.changed.notified()).await;
            }
        }
    }

    /// One step for every pod; tells whether one failed.
    async fn round(&self, client: &Client, node: &str) -> bool {
        let names: Vec<Name> = {
            let state = self.state.lock();
            let all = state.originals.keys().chain(state.mirrors.keys());
            all.cloned()
                .collect::<std::collections::BTreeSet<_>>()
                .into_iter()
                .collect()
        };
        let mut failed = false;
        for key in names {
            // A picture that is deleted is made again at once.
            for _ in 0..3 {
                match self.step(client, node, &key).await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(e) => {
                        tracing::warn!(pod = key.1, error = %e, "Failed to keep the mirror pod");
                        failed = true;
                        break;
                    }
                }
            }
        }
        failed
    }

    /// Tells whether there was something to do.
    async fn step(&self, client: &Client, node: &str, key: &Name) -> Result<bool, ApiError> {
        let (original, mirror, status, step) = {
            let state = self.state.lock();
            let original = state.originals.get(key).cloned();
            let mirror = state.mirrors.get(key).cloned();
            let status = original.as_ref().and_then(|o| state.statuses.get(pod::uid(o)).cloned());
            let written = mirror.as_ref().and_then(|m| state.written.get(pod::uid(m)));
            let step = decide(original.as_deref(), mirror.as_deref(), status.as_ref(), written);
            (original, mirror, status, step)
        };
        match step {
            Step::None => return Ok(false),
            Step::Delete { .. } if original.is_none() && self.unread() => return Ok(false),
            Step::Delete { uid } => {
                tracing::info!(pod = key.1, "Deleting a mirror pod");
                let options = DeleteOptions {
                    grace_period_seconds: Some(0),
                    ..DeleteOptions::uid(&uid)
                };
                match client.delete::<Pod>(Some(&key.0), &key.1, &options).await {
                    // Another one has the name: the next event tells.
                    Err(e) if e.is_not_found() || e.is_conflict() => {}
                    other => other?,
                }
                self.state.lock().forget(key, &uid);
            }
            Step::Create => {
                let Some(original) = original else { return Ok(false) };
                let owner = client.get::<Node>(None, node).await?.metadata;
                if owner.deletion_timestamp.is_some() {
                    return Ok(false);
                }
                let new = picture(&original, node, owner.uid.as_deref().unwrap_or_default());
                let made = client.create(&new).await?;
                self.state.lock().mirrors.insert(key.clone(), Arc::new(made));
            }
            Step::Write => {
                let (Some(mirror), Some(status)) = (mirror, status) else {
                    return Ok(false);
                };
                let uid = pod::uid(&mirror).to_owned();
                let shown = mirror.status.clone().unwrap_or_default();
                if let Some(change) = status_patch(&shown, &status) {
                    let patch = Patch::Strategic(json!({"metadata": {"uid": uid}, "status": change}));
                    match client.patch::<Pod>(&patch, Some(&key.0), &key.1, Some("status")).await {
                        Ok(_) => {}
                        // It is gone, or another one: the next event tells.
                        Err(e) if e.is_not_found() || e.is_conflict() => return Ok(false),
                        Err(e) => return Err(e),
                    }
                }
                self.state.lock().written.insert(uid, status);
            }
        }
        Ok(true)
    }
}

impl State {
    fn forget(&mut self, key: &Name, uid: &str) {
        self.written.remove(uid);
        if self.mirrors.get(key).is_some_and(|m| pod::uid(m) == uid) {
            self.mirrors.remove(key);
        }
    }
}
