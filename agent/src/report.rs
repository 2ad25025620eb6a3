//! Writes a pod's status to the API: the newest one, as often as needed, without holding up the worker.
//!
//! Owner: the pod's worker. A task per pod takes the latest status and writes the difference to what was written last;
//! a failed write is tried again with whatever is newest then.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use steersman_types::api::core::v1::{Pod, PodStatus};
use tokio::sync::watch;

use crate::context::{PodApi, WriteError};

const RETRY: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// The status last reported and its way to the API.
pub struct Reporter {
    latest: PodStatus,
    api: Arc<dyn PodApi>,
    to_write: watch::Sender<(Arc<Pod>, PodStatus)>,
    /// What the API turned out to hold instead of what was written; taken by the task as its new base.
    found: Arc<Mutex<Option<PodStatus>>>,
    /// What the API holds, as far as this process wrote it; `None` once the pod is gone there.
    written: watch::Receiver<Option<PodStatus>>,
    task: tokio::task::AbortHandle,
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Reporter {
    /// Starts from what the API holds.
    #[must_use]
    pub fn start(api: Arc<dyn PodApi>, pod: Arc<Pod>) -> Self {
        let held = pod.status.clone().unwrap_or_default();
        let (to_write, inbox) = watch::channel((pod, held.clone()));
        let found: Arc<Mutex<Option<PodStatus>>> = Arc::default();
        let (done, written) = watch::channel(Some(held.clone()));
        let task = tokio::spawn(write_all(api.clone(), inbox, found.clone(), done)).abort_handle();
        Self {
            latest: held,
            api,
            to_write,
            found,
            written,
            task,
        }
    }

    /// The status reported last.
    #[must_use]
    pub fn latest(&self) -> PodStatus {
        self.latest.clone()
    }

    /// Has it written, soon.
    pub fn report(&mut self, pod: &Pod, status: PodStatus) {
        if status != self.latest {
            self.latest = status.clone();
            self.to_write.send_replace((Arc::new(pod.clone()), status));
        }
    }

    /// Somebody else changed readiness in the API (the node was thought dead, for instance): writes ours again.
    pub fn reconcile(&mut self, pod: &Pod) {
        let ready = |s: &PodStatus| {
            let conditions = s.conditions.iter().flatten();
            conditions
                .filter(|c| c.type_ == "Ready")
                .map(|c| c.status.clone())
                .next()
        };
        let Some(held) = pod.status.as_ref() else { return };
        let settled = self.written.borrow().as_ref() == Some(&self.latest);
        if settled && ready(held).is_some() && ready(held) != ready(&self.latest) {
            *self.found.lock() = Some(held.clone());
            self.to_write.send_replace((Arc::new(pod.clone()), self.latest.clone()));
        }
    }

    /// Waits until the last status is written, then deletes the object. `false`: to be tried again.
    pub async fn delete(&mut self, pod: &Pod) -> bool {
        let last = self.latest.clone();
        let flushed = self.written.wait_for(|w| w.as_ref().is_none_or(|w| *w == last));
        if tokio::time::timeout(Duration::from_secs(10), flushed).await.is_err() {
            return false;
        }
        match self.api.delete(pod).await {
            Ok(()) | Err(WriteError::Gone) => true,
            Err(WriteError::Failed(e)) => {
                tracing::warn!(pod = %crate::pod::full_name(pod), error = %e, "Failed to delete the pod");
                false
            }
        }
    }
}

async fn write_all(
    api: Arc<dyn PodApi>,
    mut inbox: watch::Receiver<(Arc<Pod>, PodStatus)>,
    found: Arc<Mutex<Option<PodStatus>>>,
    done: watch::Sender<Option<PodStatus>>,
) {
    let mut held = done.borrow().clone().unwrap_or_default();
    let mut pause = RETRY;
    while inbox.changed().await.is_ok() {
        loop {
            let (pod, status) = inbox.borrow_and_update().clone();
            if let Some(found) = found.lock().take() {
                held = found;
            }
            match api.write_status(&pod, &held, &status).await {
                Ok(()) => {
                    held = status;
                    pause = RETRY;
                    done.send_replace(Some(held.clone()));
                    break;
                }
                Err(WriteError::Gone) => {
                    done.send_replace(None);
                    return;
                }
                Err(WriteError::Failed(e)) => {
                    tracing::warn!(pod = %crate::pod::full_name(&pod), error = %e, "Failed to update status for pod");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
    }
}
