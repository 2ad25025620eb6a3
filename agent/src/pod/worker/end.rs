//! The last part of a pod's life: stop it, report its last state, give back what it used, let it go; and, while it
//! lives, the removal of instances that nobody needs any more.

use std::collections::BTreeMap;
use steersman_types::api::core::v1::Pod;

use super::super::decide::decide;
use super::super::seen::{ContainerSeen, PodSeen};
use super::super::{full_name, name, namespace, stop, uid};
use super::{Assigned, Next, RETRY, Worker};
use crate::events::PodEvents;
use crate::runtime::sandbox::log_directory;

impl Worker {
    /// Removes instances that nobody needs any more: upstream keeps the newest dead one per container.
    pub(super) async fn tidy(&self, pod: &Pod, seen: &PodSeen) {
        let mut dead = BTreeMap::<&str, usize>::new();
        for c in seen.containers.iter().filter(|c| !c.is_running()) {
            let count = dead.entry(&c.name).or_default();
            *count += 1;
            if *count > 1 {
                self.remove_instance(pod, c).await;
            }
        }
        for old in seen.sandboxes.iter().skip(1).filter(|s| !s.ready) {
            if !seen.containers.iter().any(|c| c.sandbox == old.id) {
                let remove = self.context.runtime.remove_sandbox(&old.id);
                let _ = self.context.turns.remove(remove).await;
            }
        }
    }

    async fn remove_instance(&self, pod: &Pod, c: &ContainerSeen) {
        if self.context.runtime.remove_container(&c.id).await.is_err() {
            return;
        }
        let log = log_directory(&self.context.pod_logs, pod)
            .join(&c.name)
            .join(format!("{}.log", c.restart_count));
        for old in crate::logs::rotate::put_aside(&log) {
            let _ = std::fs::remove_file(old);
        }
        let _ = std::fs::remove_file(log);
        self.remove_link(pod, c);
    }

    fn remove_link(&self, pod: &Pod, c: &ContainerSeen) {
        let name = format!("{}_{}_{}-{}.log", name(pod), namespace(pod), c.name, c.id);
        let _ = std::fs::remove_file(self.context.container_logs.join(name));
    }

    /// The pod is ending: stop it, report its last state, give back what it used, and let it go.
    pub(super) async fn end(&mut self, now: &Assigned, seen: PodSeen, events: &PodEvents) -> Next {
        let pod = &now.pod;
        if !self.stopped {
            if !decide(pod, &seen).kill_pod {
                self.stopped = true;
                return Next::Again;
            }
            return self.stop(now, &seen, events).await;
        }
        if !self.released {
            let uid = uid(pod);
            let released = match self.context.volumes.teardown(uid).await {
                Ok(()) => self.context.cgroups.remove_pod(uid),
                Err(e) => Err(e),
            };
            if let Err(e) = released {
                tracing::warn!(pod = %full_name(pod), error = %e, "Pod's volumes or cgroup are still busy");
                return Next::After(RETRY);
            }
            self.context.images.forget(uid);
            self.context.allocations.release(uid);
            self.released = true;
        }
        if !now.gone {
            if pod.metadata.deletion_timestamp.is_none() {
                // Ended by itself: containers and logs stay until somebody deletes the object.
                return Next::Idle;
            }
            if !self.reporter.delete(pod).await {
                return Next::After(RETRY);
            }
        }
        self.remove_all(pod, &seen).await
    }

    /// Stops everything; a new, shorter grace period begins again with that one.
    async fn stop(&mut self, now: &Assigned, seen: &PodSeen, events: &PodEvents) -> Next {
        let (context, pod) = (self.context.clone(), &now.pod);
        let grace = now.grace();
        let stopping = stop::pod(&context, pod, seen, grace, events);
        tokio::pin!(stopping);
        loop {
            tokio::select! {
                result = &mut stopping => {
                    if let Err(e) = result {
                        events.warning(None, "FailedKillPod", &format!("error killing pod: {e}"));
                        return Next::After(RETRY);
                    }
                    return Next::Again;
                }
                changed = self.assigned.changed() => {
                    if changed.is_err() {
                        return Next::Idle;
                    }
                    let shorter = self.assigned.borrow_and_update().grace() < grace;
                    if shorter {
                        return Next::Again;
                    }
                }
                () = self.wake.notified() => {
                    // A container has ended meanwhile: say so.
                    let mut now = self.assigned.borrow().clone();
                    now.pod = self.allocated(&now.pod);
                    if let Ok(seen) = self.look(&now, events).await {
                        self.report(&now.pod, &seen);
                    }
                }
            }
        }
    }

    async fn remove_all(&mut self, pod: &Pod, seen: &PodSeen) -> Next {
        for sandbox in &seen.sandboxes {
            let remove = self.context.runtime.remove_sandbox(&sandbox.id);
            if let Err(e) = self.context.turns.remove(remove).await {
                tracing::warn!(pod = %full_name(pod), error = %e, "Failed to remove the pod's sandbox");
                return Next::After(RETRY);
            }
        }
        for c in &seen.containers {
            self.remove_link(pod, c);
        }
        let _ = std::fs::remove_dir_all(log_directory(&self.context.pod_logs, pod));
        Next::Finished
    }
}
