//! Asks the runtime about one pod and turns the answers into [`PodSeen`].
//!
//! One list of sandboxes and one of containers per round; details only of those whose state changed since.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use steersman_cri::{CriError, Runtime, v1};
use steersman_types::api::core::v1::Pod;
use steersman_types::jiff::{SignedDuration, Timestamp};

use super::backoff::{Backoff, INITIAL};
use super::seen::{ContainerSeen, Exit, PodSeen, SandboxSeen, State, UserSeen};
use crate::logs::last_words;
use crate::runtime::labels;
use crate::runtime::sandbox::log_directory;

/// What is remembered between rounds.
#[derive(Default)]
pub struct Observer {
    sandboxes: HashMap<String, SandboxSeen>,
    /// With the state from the list that it was made for.
    containers: HashMap<String, (i32, ContainerSeen)>,
}

impl Observer {
    /// Sandboxes and containers of the pod, newest first. Everything else of the result is left empty.
    ///
    /// # Errors
    /// When a call fails; nothing is known then, and nothing may be decided.
    pub async fn observe(&mut self, runtime: &dyn Runtime, pod: &Pod, pod_logs: &Path) -> Result<PodSeen, CriError> {
        let selector = HashMap::from([(labels::POD_UID.to_owned(), super::uid(pod).to_owned())]);
        let filter = v1::PodSandboxFilter {
            label_selector: selector.clone(),
            ..Default::default()
        };
        let listed = runtime.list_sandboxes(filter).await?;
        let filter = v1::ContainerFilter {
            label_selector: selector,
            ..Default::default()
        };
        let containers = runtime.list_containers(filter).await?;
        self.sandboxes.retain(|id, _| listed.iter().any(|s| s.id == *id));
        self.containers.retain(|id, _| containers.iter().any(|c| c.id == *id));
        let mut seen = PodSeen::default();
        for sandbox in &listed {
            seen.sandboxes.push(self.sandbox(runtime, sandbox).await?);
        }
        let logs = log_directory(pod_logs, pod);
        for container in &containers {
            if let Some(found) = self.container(runtime, container, &logs).await? {
                seen.containers.push(found);
            }
        }
        seen.sandboxes.sort_by_key(|s| Reverse((s.created, s.attempt)));
        seen.containers.sort_by_key(|c| Reverse((c.created, c.restart_count)));
        Ok(seen)
    }

    async fn sandbox(&mut self, runtime: &dyn Runtime, listed: &v1::PodSandbox) -> Result<SandboxSeen, CriError> {
        let ready = listed.state == v1::PodSandboxState::SandboxReady as i32;
        if let Some(known) = self.sandboxes.get(&listed.id)
            && known.ready == ready
            && (!known.ips.is_empty() || !ready)
        {
            return Ok(known.clone());
        }
        let mut seen = SandboxSeen {
            id: listed.id.clone(),
            attempt: listed.metadata.as_ref().map_or(0, |m| m.attempt),
            ready,
            created: nanos(listed.created_at),
            // An address stays known after the sandbox has stopped.
            ips: self
                .sandboxes
                .get(&listed.id)
                .map(|s| s.ips.clone())
                .unwrap_or_default(),
        };
        match runtime.sandbox_status(&listed.id).await {
            Ok(status) => {
                let network = status.network.unwrap_or_default();
                let all = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|ip| ip.ip));
                let ips: Vec<_> = all.filter(|ip| ip.parse::<std::net::IpAddr>().is_ok()).collect();
                if !ips.is_empty() {
                    seen.ips = ips;
                }
            }
            // Removed since it was listed.
            Err(e) if e.is_not_found() => seen.ready = false,
            Err(e) => return Err(e),
        }
        self.sandboxes.insert(listed.id.clone(), seen.clone());
        Ok(seen)
    }

    async fn container(
        &mut self,
        runtime: &dyn Runtime,
        listed: &v1::Container,
        logs: &Path,
    ) -> Result<Option<ContainerSeen>, CriError> {
        if let Some((state, known)) = self.containers.get(&listed.id)
            && *state == listed.state
            && *state != v1::ContainerState::ContainerUnknown as i32
        {
            return Ok(Some(known.clone()));
        }
        let status = match runtime.container_status(&listed.id).await {
            Ok(status) => status,
            Err(e) if e.is_not_found() => return Ok(None),
            Err(e) => return Err(e),
        };
        let seen = container(&status, &listed.pod_sandbox_id, logs);
        self.containers.insert(listed.id.clone(), (status.state, seen.clone()));
        Ok(Some(seen))
    }
}

/// CRI's nanoseconds since the epoch.
#[must_use]
pub fn nanos(n: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(n)).unwrap_or_default()
}

fn container(status: &v1::ContainerStatus, sandbox: &str, logs: &Path) -> ContainerSeen {
    let annotation = |key: &str| status.annotations.get(key).cloned().unwrap_or_default();
    let state = match v1::ContainerState::try_from(status.state) {
        Ok(v1::ContainerState::ContainerCreated) => State::Created,
        Ok(v1::ContainerState::ContainerRunning) => State::Running,
        Ok(v1::ContainerState::ContainerExited) => State::Exited(Exit {
            code: status.exit_code,
            reason: reason(status),
            message: message(status, logs),
            finished: nanos(status.finished_at),
        }),
        _ => State::Unknown,
    };
    ContainerSeen {
        id: status.id.clone(),
        name: status.labels.get(labels::CONTAINER_NAME).cloned().unwrap_or_default(),
        sandbox: sandbox.to_owned(),
        state,
        created: nanos(status.created_at),
        started: (status.started_at > 0).then(|| nanos(status.started_at)),
        restart_count: annotation(labels::RESTART_COUNT).parse().unwrap_or(0),
        hash: annotation(labels::HASH),
        image: status.image.as_ref().map(|i| i.image.clone()).unwrap_or_default(),
        image_ref: status.image_ref.clone(),
        user: status.user.as_ref().and_then(|u| u.linux.as_ref()).map(|u| UserSeen {
            uid: u.uid,
            gid: u.gid,
            groups: u.supplemental_groups.clone(),
        }),
    }
}

/// Why it ended; runtimes leave this empty sometimes.
fn reason(status: &v1::ContainerStatus) -> String {
    match (status.reason.as_str(), status.exit_code) {
        ("", 0) => "Completed".into(),
        ("", _) => "Error".into(),
        (reason, _) => reason.into(),
    }
}

fn message(status: &v1::ContainerStatus, logs: &Path) -> String {
    let path = status.annotations.get(labels::MESSAGE_PATH).filter(|p| !p.is_empty());
    let file = path
        .and_then(|p| status.mounts.iter().find(|m| m.container_path == *p))
        .map(|m| PathBuf::from(&m.host_path));
    let fallback = status
        .annotations
        .get(labels::MESSAGE_POLICY)
        .is_some_and(|p| p == "FallbackToLogsOnError");
    let log = if status.log_path.starts_with('/') {
        PathBuf::from(&status.log_path)
    } else {
        logs.join(&status.log_path)
    };
    let own = last_words::read(file.as_deref(), &log, fallback && status.exit_code != 0);
    // What the runtime says about a failed start comes first, as upstream has it.
    if status.message.is_empty() {
        own
    } else {
        format!("{}: {own}", status.message).trim_end_matches(": ").to_owned()
    }
}

/// One more than the highest attempt whose log is on disk, per container directory.
#[must_use]
pub fn logged_attempts(pod: &Pod, pod_logs: &Path) -> BTreeMap<String, i32> {
    let mut attempts = BTreeMap::new();
    for (_, container) in super::all_containers(pod) {
        let dir = log_directory(pod_logs, pod).join(&container.name);
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let number = |name: &str| name.split('.').next().and_then(|n| n.parse::<i32>().ok());
        if let Some(highest) = entries.filter_map(|e| number(&e.file_name().to_string_lossy())).max() {
            attempts.insert(container.name, highest.saturating_add(1));
        }
    }
    attempts
}

/// The back-off of containers that ended before this process began: as if it had counted all along.
#[must_use]
pub fn restored_backoff(seen: &PodSeen) -> BTreeMap<String, Backoff> {
    let max = SignedDuration::from_secs(seen.max_backoff_seconds);
    let mut all = BTreeMap::new();
    for c in &seen.containers {
        if all.contains_key(&c.name) || c.restart_count == 0 {
            continue;
        }
        let doublings = u32::try_from(c.restart_count - 1).unwrap_or(0).min(10);
        let delay = (INITIAL * 2_i32.pow(doublings)).min(max);
        all.insert(
            c.name.clone(),
            Backoff {
                delay,
                raised: c.created,
            },
        );
    }
    all
}
