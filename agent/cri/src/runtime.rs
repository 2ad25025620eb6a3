//! The trait between the agent's decisions and whatever runs containers.

use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::v1;

/// A call that the runtime refused, or that did not reach it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("rpc error: code = {code:?} desc = {message}")]
pub struct CriError {
    /// The call, as named by the interface, for instance `RunPodSandbox`.
    pub call: &'static str,
    pub code: tonic::Code,
    /// The runtime's own words, or the transport's.
    pub message: String,
}

impl CriError {
    /// The container, sandbox or image does not exist (any more). For stops and removals this is success.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code == tonic::Code::NotFound
    }

    /// The call took longer than its deadline, at the runtime or on the way.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.code == tonic::Code::DeadlineExceeded
    }

    /// The runtime cannot be reached: restarting, or gone.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        self.code == tonic::Code::Unavailable
    }

    /// The runtime does not know this call.
    #[must_use]
    pub fn is_unimplemented(&self) -> bool {
        self.code == tonic::Code::Unimplemented
    }
}

/// The result of every call.
pub type Result<T> = std::result::Result<T, CriError>;

/// The calls that the agent makes. Stopping and removing what is already gone succeeds.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    async fn version(&self) -> Result<v1::VersionResponse>;
    async fn status(&self) -> Result<v1::StatusResponse>;
    /// The cgroup driver the runtime uses; runtimes older than CRI 1.28 answer "unimplemented".
    async fn runtime_config(&self) -> Result<v1::RuntimeConfigResponse>;

    /// Makes and starts a sandbox, network included; gives its id.
    async fn run_sandbox(&self, config: v1::PodSandboxConfig, handler: &str) -> Result<String>;
    /// Kills whatever still runs in the sandbox and frees its network.
    async fn stop_sandbox(&self, id: &str) -> Result<()>;
    /// Removes a stopped sandbox with the containers left in it.
    async fn remove_sandbox(&self, id: &str) -> Result<()>;
    async fn sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus>;
    async fn list_sandboxes(&self, filter: v1::PodSandboxFilter) -> Result<Vec<v1::PodSandbox>>;

    /// Makes a container without starting it; gives its id.
    async fn create_container(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Result<String>;
    async fn start_container(&self, id: &str) -> Result<()>;
    /// Sends the stop signal, waits up to `grace`, then kills.
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()>;
    /// Changes the limits of a running container; what is zero stays as it is.
    async fn update_container(&self, id: &str, resources: v1::LinuxContainerResources) -> Result<()>;
    async fn remove_container(&self, id: &str) -> Result<()>;
    async fn list_containers(&self, filter: v1::ContainerFilter) -> Result<Vec<v1::Container>>;
    async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus>;
    async fn reopen_log(&self, id: &str) -> Result<()>;

    /// Runs a command to its end and returns its output. `timeout` zero means none.
    async fn exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Result<v1::ExecSyncResponse>;
    /// The URL of the runtime's streaming server on which the command's streams await one upgraded connection.
    async fn exec(&self, request: v1::ExecRequest) -> Result<String>;
    async fn attach(&self, request: v1::AttachRequest) -> Result<String>;
    async fn port_forward(&self, sandbox: &str, ports: Vec<i32>) -> Result<String>;

    async fn list_stats(&self) -> Result<Vec<v1::ContainerStats>>;
    /// What went over each sandbox's network.
    async fn list_sandbox_stats(&self) -> Result<Vec<v1::PodSandboxStats>>;
    /// Where images lie, and how much of that they use.
    async fn image_filesystems(&self) -> Result<Vec<v1::FilesystemUsage>>;
    /// State changes as they happen. A hint: events may be missing, so callers list as well.
    async fn events(&self) -> Result<BoxStream<'static, Result<v1::ContainerEventResponse>>>;

    async fn list_images(&self) -> Result<Vec<v1::Image>>;
    /// `None` when the image is not here.
    async fn image_status(&self, image: &str) -> Result<Option<v1::Image>>;
    /// Gives the reference under which the runtime knows the pulled image.
    async fn pull_image(
        &self,
        image: &str,
        auth: Option<v1::AuthConfig>,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Result<String>;
    async fn remove_image(&self, image: &str) -> Result<()>;
}
