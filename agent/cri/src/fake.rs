//! A container runtime in memory, for tests of the code above CRI.
//!
//! It keeps sandboxes, containers and images, hands out predictable ids, records every call by name and can refuse the
//! n-th one. It enforces the interface's rules that matter to callers: a container needs a ready sandbox, no two
//! containers of one sandbox share name and attempt, only a created container starts. Its clock is a number the test sets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tonic::Code;

use crate::runtime::{CriError, Result, Runtime};
use crate::v1;

#[derive(Default)]
struct State {
    calls: Vec<&'static str>,
    fail: BTreeMap<usize, CriError>,
    next: u64,
    /// Nanoseconds since the epoch, as CRI counts.
    now: i64,
    sandboxes: BTreeMap<String, (v1::PodSandboxStatus, v1::PodSandboxConfig)>,
    containers: BTreeMap<String, FakeContainer>,
    images: BTreeMap<String, v1::Image>,
    exec: BTreeMap<String, (i32, String)>,
}

#[derive(Clone)]
struct FakeContainer {
    sandbox: String,
    status: v1::ContainerStatus,
    config: v1::ContainerConfig,
}

/// The runtime; clones share one state.
#[derive(Clone)]
pub struct Fake {
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<v1::ContainerEventResponse>,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            state: Arc::default(),
            events: broadcast::channel(1024).0,
        }
    }
}

impl Fake {
    /// The names of all calls so far, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<&'static str> {
        self.state.lock().calls.clone()
    }

    /// The `n`-th call from now (0 is the next) fails with `code`, once, before doing anything.
    pub fn fail_at(&self, n: usize, code: Code, message: &str) {
        let mut state = self.state.lock();
        let at = state.calls.len() + n;
        state.fail.insert(
            at,
            CriError {
                call: "",
                code,
                message: message.into(),
            },
        );
    }

    /// Sets the clock, in seconds since the epoch.
    pub fn set_now(&self, seconds: i64) {
        self.state.lock().now = seconds.saturating_mul(1_000_000_000);
    }

    /// Makes an image present.
    pub fn add_image(&self, name: &str) {
        let id = format!("sha256:{name}");
        let image = v1::Image {
            id,
            repo_tags: vec![name.into()],
            size: 1000,
            ..Default::default()
        };
        self.state.lock().images.insert(name.into(), image);
    }

    /// What `exec_sync` answers for a command whose first word is `command`.
    pub fn on_exec(&self, command: &str, exit_code: i32, output: &str) {
        self.state
            .lock()
            .exec
            .insert(command.into(), (exit_code, output.into()));
    }

    /// Ends the running container called `name`, as if its process had exited. Tells whether there was one.
    pub fn exit(&self, name: &str, code: i32, reason: &str) -> bool {
        let mut state = self.state.lock();
        let now = state.now;
        let running = v1::ContainerState::ContainerRunning as i32;
        let mut found = None;
        for (id, c) in &mut state.containers {
            if c.status.metadata.as_ref().is_some_and(|m| m.name == name) && c.status.state == running {
                c.status.state = v1::ContainerState::ContainerExited as i32;
                c.status.exit_code = code;
                c.status.reason = reason.into();
                c.status.finished_at = now;
                found = Some(id.clone());
            }
        }
        drop(state);
        if let Some(id) = &found {
            self.tell(id, v1::ContainerEventType::ContainerStoppedEvent);
        }
        found.is_some()
    }

    /// Loses a sandbox's network and process, as after a crash of its first process.
    pub fn break_sandbox(&self, id: &str) {
        if let Some((status, _)) = self.state.lock().sandboxes.get_mut(id) {
            status.state = v1::PodSandboxState::SandboxNotready as i32;
        }
    }

    /// The configurations of all containers that exist, in order of creation.
    #[must_use]
    pub fn configs(&self) -> Vec<v1::ContainerConfig> {
        self.state
            .lock()
            .containers
            .values()
            .map(|c| c.config.clone())
            .collect()
    }

    /// Names of containers that run now.
    #[must_use]
    pub fn running(&self) -> Vec<String> {
        let running = v1::ContainerState::ContainerRunning as i32;
        let state = self.state.lock();
        let live = state.containers.values().filter(|c| c.status.state == running);
        live.filter_map(|c| c.status.metadata.as_ref().map(|m| m.name.clone()))
            .collect()
    }

    fn tell(&self, id: &str, kind: v1::ContainerEventType) {
        let state = self.state.lock();
        let sandbox = state
            .containers
            .get(id)
            .and_then(|c| state.sandboxes.get(&c.sandbox))
            .map(|s| s.0.clone());
        // Nobody listening is fine.
        let _ = self.events.send(v1::ContainerEventResponse {
            container_id: id.into(),
            container_event_type: kind as i32,
            created_at: state.now,
            pod_sandbox_status: sandbox,
        });
    }

    fn call<T>(&self, name: &'static str, act: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let mut state = self.state.lock();
        let n = state.calls.len();
        state.calls.push(name);
        match state.fail.remove(&n) {
            Some(error) => Err(CriError { call: name, ..error }),
            None => act(&mut state),
        }
    }
}

fn not_found(call: &'static str, what: &str) -> CriError {
    CriError {
        call,
        code: Code::NotFound,
        message: format!("{what} not found"),
    }
}

fn refused(call: &'static str, message: String) -> CriError {
    CriError {
        call,
        code: Code::FailedPrecondition,
        message,
    }
}

fn selected(
    wanted: &std::collections::HashMap<String, String>,
    labels: &std::collections::HashMap<String, String>,
) -> bool {
    wanted.iter().all(|(k, v)| labels.get(k) == Some(v))
}

#[async_trait]
impl Runtime for Fake {
    async fn version(&self) -> Result<v1::VersionResponse> {
        self.call("Version", |_| {
            Ok(v1::VersionResponse {
                version: "0.1.0".into(),
                runtime_name: "fake".into(),
                runtime_version: "1".into(),
                runtime_api_version: "v1".into(),
            })
        })
    }

    async fn status(&self) -> Result<v1::StatusResponse> {
        self.call("Status", |_| {
            let ready = |r#type: &str| v1::RuntimeCondition {
                r#type: r#type.into(),
                status: true,
                ..Default::default()
            };
            let conditions = vec![ready("RuntimeReady"), ready("NetworkReady")];
            Ok(v1::StatusResponse {
                status: Some(v1::RuntimeStatus { conditions }),
                ..Default::default()
            })
        })
    }

    async fn runtime_config(&self) -> Result<v1::RuntimeConfigResponse> {
        self.call("RuntimeConfig", |_| {
            let cgroup_driver = v1::CgroupDriver::Cgroupfs as i32;
            Ok(v1::RuntimeConfigResponse {
                linux: Some(v1::LinuxRuntimeConfiguration { cgroup_driver }),
            })
        })
    }

    async fn run_sandbox(&self, config: v1::PodSandboxConfig, handler: &str) -> Result<String> {
        self.call("RunPodSandbox", |state| {
            state.next += 1;
            let id = format!("s{:04}", state.next);
            let status = v1::PodSandboxStatus {
                id: id.clone(),
                metadata: config.metadata.clone(),
                state: v1::PodSandboxState::SandboxReady as i32,
                created_at: state.now,
                network: Some(v1::PodSandboxNetworkStatus {
                    ip: "10.0.0.7".into(),
                    additional_ips: Vec::new(),
                }),
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
                runtime_handler: handler.into(),
            };
            state.sandboxes.insert(id.clone(), (status, config));
            Ok(id)
        })
    }

    async fn stop_sandbox(&self, id: &str) -> Result<()> {
        self.call("StopPodSandbox", |state| {
            let now = state.now;
            if let Some((status, _)) = state.sandboxes.get_mut(id) {
                status.state = v1::PodSandboxState::SandboxNotready as i32;
            }
            let live = v1::ContainerState::ContainerRunning as i32;
            for c in state
                .containers
                .values_mut()
                .filter(|c| c.sandbox == id && c.status.state == live)
            {
                c.status.state = v1::ContainerState::ContainerExited as i32;
                c.status.exit_code = 137;
                c.status.reason = "Error".into();
                c.status.finished_at = now;
            }
            Ok(())
        })
    }

    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        self.call("RemovePodSandbox", |state| {
            state.sandboxes.remove(id);
            state.containers.retain(|_, c| c.sandbox != id);
            Ok(())
        })
    }

    async fn sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus> {
        self.call("PodSandboxStatus", |state| {
            state
                .sandboxes
                .get(id)
                .map(|s| s.0.clone())
                .ok_or_else(|| not_found("PodSandboxStatus", id))
        })
    }

    async fn list_sandboxes(&self, filter: v1::PodSandboxFilter) -> Result<Vec<v1::PodSandbox>> {
        self.call("ListPodSandbox", |state| {
            let all = state.sandboxes.values().map(|s| s.0.clone());
            let chosen = all
                .filter(|s| selected(&filter.label_selector, &s.labels))
                .map(|s| v1::PodSandbox {
                    id: s.id,
                    metadata: s.metadata,
                    state: s.state,
                    created_at: s.created_at,
                    labels: s.labels,
                    annotations: s.annotations,
                    runtime_handler: s.runtime_handler,
                });
            Ok(chosen.collect())
        })
    }

    async fn create_container(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        _: v1::PodSandboxConfig,
    ) -> Result<String> {
        let id = self.call("CreateContainer", |state| {
            let ready = v1::PodSandboxState::SandboxReady as i32;
            if state.sandboxes.get(sandbox).is_none_or(|s| s.0.state != ready) {
                return Err(refused("CreateContainer", format!("sandbox {sandbox} is not ready")));
            }
            if state
                .containers
                .values()
                .any(|c| c.sandbox == sandbox && c.status.metadata == config.metadata)
            {
                let name = format!("{:?} is reserved", config.metadata);
                return Err(refused("CreateContainer", name));
            }
            state.next += 1;
            let id = format!("c{:04}", state.next);
            let status = v1::ContainerStatus {
                id: id.clone(),
                metadata: config.metadata.clone(),
                state: v1::ContainerState::ContainerCreated as i32,
                created_at: state.now,
                image: config.image.clone(),
                image_ref: config.image.as_ref().map(|i| i.image.clone()).unwrap_or_default(),
                labels: config.labels.clone(),
                annotations: config.annotations.clone(),
                log_path: config.log_path.clone(),
                ..Default::default()
            };
            state.containers.insert(
                id.clone(),
                FakeContainer {
                    sandbox: sandbox.into(),
                    status,
                    config,
                },
            );
            Ok(id)
        })?;
        self.tell(&id, v1::ContainerEventType::ContainerCreatedEvent);
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        self.call("StartContainer", |state| {
            let now = state.now;
            let c = state
                .containers
                .get_mut(id)
                .ok_or_else(|| not_found("StartContainer", id))?;
            if c.status.state != v1::ContainerState::ContainerCreated as i32 {
                return Err(refused(
                    "StartContainer",
                    format!("container {id} is not in created state"),
                ));
            }
            c.status.state = v1::ContainerState::ContainerRunning as i32;
            c.status.started_at = now;
            Ok(())
        })?;
        self.tell(id, v1::ContainerEventType::ContainerStartedEvent);
        Ok(())
    }

    async fn stop_container(&self, id: &str, _: Duration) -> Result<()> {
        self.call("StopContainer", |state| {
            let now = state.now;
            if let Some(c) = state.containers.get_mut(id)
                && c.status.state == v1::ContainerState::ContainerRunning as i32
            {
                c.status.state = v1::ContainerState::ContainerExited as i32;
                c.status.exit_code = 143;
                c.status.reason = "Error".into();
                c.status.finished_at = now;
            }
            Ok(())
        })?;
        self.tell(id, v1::ContainerEventType::ContainerStoppedEvent);
        Ok(())
    }

    async fn update_container(&self, id: &str, resources: v1::LinuxContainerResources) -> Result<()> {
        self.call("UpdateContainerResources", |state| {
            let Some(container) = state.containers.get_mut(id) else {
                return Err(not_found("UpdateContainerResources", id));
            };
            container.config.linux.get_or_insert_default().resources = Some(resources);
            Ok(())
        })
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        self.call("RemoveContainer", |state| {
            state.containers.remove(id);
            Ok(())
        })
    }

    async fn list_containers(&self, filter: v1::ContainerFilter) -> Result<Vec<v1::Container>> {
        self.call("ListContainers", |state| {
            let chosen = state.containers.values().filter(|c| {
                selected(&filter.label_selector, &c.status.labels)
                    && (filter.pod_sandbox_id.is_empty() || filter.pod_sandbox_id == c.sandbox)
            });
            let listed = chosen.map(|c| v1::Container {
                id: c.status.id.clone(),
                pod_sandbox_id: c.sandbox.clone(),
                metadata: c.status.metadata.clone(),
                image: c.status.image.clone(),
                image_ref: c.status.image_ref.clone(),
                state: c.status.state,
                created_at: c.status.created_at,
                labels: c.status.labels.clone(),
                annotations: c.status.annotations.clone(),
                image_id: c.status.image_id.clone(),
            });
            Ok(listed.collect())
        })
    }

    async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus> {
        self.call("ContainerStatus", |state| {
            state
                .containers
                .get(id)
                .map(|c| c.status.clone())
                .ok_or_else(|| not_found("ContainerStatus", id))
        })
    }

    async fn reopen_log(&self, _: &str) -> Result<()> {
        self.call("ReopenContainerLog", |_| Ok(()))
    }

    async fn exec_sync(&self, _: &str, command: &[String], _: Duration) -> Result<v1::ExecSyncResponse> {
        self.call("ExecSync", |state| {
            let answer = command.first().and_then(|c| state.exec.get(c)).cloned();
            let (exit_code, output) = answer.unwrap_or((127, "not found".into()));
            Ok(v1::ExecSyncResponse {
                stdout: output.into_bytes(),
                stderr: Vec::new(),
                exit_code,
            })
        })
    }

    async fn exec(&self, _: v1::ExecRequest) -> Result<String> {
        self.call("Exec", |_| Ok("http://127.0.0.1:1/exec/token".into()))
    }

    async fn attach(&self, _: v1::AttachRequest) -> Result<String> {
        self.call("Attach", |_| Ok("http://127.0.0.1:1/attach/token".into()))
    }

    async fn port_forward(&self, _: &str, _: Vec<i32>) -> Result<String> {
        self.call("PortForward", |_| Ok("http://127.0.0.1:1/portforward/token".into()))
    }

    async fn list_stats(&self) -> Result<Vec<v1::ContainerStats>> {
        self.call("ListContainerStats", |_| Ok(Vec::new()))
    }

    async fn list_sandbox_stats(&self) -> Result<Vec<v1::PodSandboxStats>> {
        self.call("ListPodSandboxStats", |_| Ok(Vec::new()))
    }

    async fn image_filesystems(&self) -> Result<Vec<v1::FilesystemUsage>> {
        self.call("ImageFsInfo", |_| Ok(Vec::new()))
    }

    async fn events(&self) -> Result<BoxStream<'static, Result<v1::ContainerEventResponse>>> {
        let receiver = self.call("GetContainerEvents", |_| Ok(self.events.subscribe()))?;
        let events = futures::stream::unfold(receiver, |mut r| async move { r.recv().await.ok().map(|e| (Ok(e), r)) });
        Ok(events.boxed())
    }

    async fn list_images(&self) -> Result<Vec<v1::Image>> {
        self.call("ListImages", |state| Ok(state.images.values().cloned().collect()))
    }

    async fn image_status(&self, image: &str) -> Result<Option<v1::Image>> {
        self.call("ImageStatus", |state| Ok(state.images.get(image).cloned()))
    }

    async fn pull_image(&self, image: &str, _: Option<v1::AuthConfig>, _: v1::PodSandboxConfig) -> Result<String> {
        self.call("PullImage", |state| match state.images.get(image) {
            Some(image) => Ok(image.id.clone()),
            None => Err(not_found("PullImage", image)),
        })
    }

    async fn remove_image(&self, image: &str) -> Result<()> {
        self.call("RemoveImage", |state| {
            state.images.retain(|name, i| name != image && i.id != image);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_named_call_fails_once_and_does_nothing() -> Result<()> {
        let fake = Fake::default();
        fake.fail_at(0, Code::Unavailable, "restarting");
        let first = fake.run_sandbox(v1::PodSandboxConfig::default(), "").await;
        assert!(first.is_err_and(|e| e.is_unavailable() && e.call == "RunPodSandbox"));
        assert!(fake.list_sandboxes(v1::PodSandboxFilter::default()).await?.is_empty());
        fake.run_sandbox(v1::PodSandboxConfig::default(), "").await?;
        assert_eq!(fake.list_sandboxes(v1::PodSandboxFilter::default()).await?.len(), 1);
        Ok(())
    }

    #[tokio::test]
    async fn a_container_lives_from_created_over_running_to_exited() -> Result<()> {
        let fake = Fake::default();
        let sandbox = fake.run_sandbox(v1::PodSandboxConfig::default(), "").await?;
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: "main".into(),
                attempt: 0,
            }),
            ..Default::default()
        };
        let id = fake
            .create_container(&sandbox, config, v1::PodSandboxConfig::default())
            .await?;
        fake.start_container(&id).await?;
        assert_eq!(fake.running(), ["main"]);
        assert!(fake.exit("main", 3, "Error"));
        assert_eq!(fake.container_status(&id).await?.exit_code, 3);
        assert!(fake.start_container(&id).await.is_err());
        Ok(())
    }
}
