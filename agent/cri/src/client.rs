//! The runtime over gRPC on a Unix socket.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request};

use crate::runtime::{CriError, Result, Runtime};
use crate::v1::{self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient};

/// Answers larger than this are refused; upstream's limit. Listing thousands of containers stays far below.
const MAX_MESSAGE: usize = 16 << 20;
/// A pull has no overall deadline upstream; this one only frees a pull whose runtime forgot it.
const PULL_DEADLINE: Duration = Duration::from_secs(3600);

/// A CRI client. Cheap to clone; connects lazily and again after the runtime has gone away.
#[derive(Clone, Debug)]
pub struct Client {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    deadline: Duration,
}

impl Client {
    /// `endpoint` is a path or a `unix://` URL; `deadline` bounds each call that has no duration of its own.
    ///
    /// # Errors
    /// When the endpoint is not a Unix socket's address.
    pub fn new(endpoint: &str, deadline: Duration) -> std::result::Result<Self, String> {
        let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
        if !path.starts_with('/') {
            return Err(format!(
                "container runtime endpoint {endpoint:?} is not a unix:// address"
            ));
        }
        let path = PathBuf::from(path);
        // The URI is only the HTTP/2 authority; the connector below decides where the bytes go.
        let channel =
            Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
            }));
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
            images: ImageServiceClient::new(channel)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
            deadline,
        })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        within(message, self.deadline)
    }
}

fn within<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

fn failed(call: &'static str) -> impl Fn(tonic::Status) -> CriError {
    move |status| {
        // tonic reports an expired `set_timeout` as Cancelled with this text; upstream's client as DeadlineExceeded.
        let code = match status.code() {
            Code::Cancelled if status.message() == "Timeout expired" => Code::DeadlineExceeded,
            code => code,
        };
        let mut message = status.message().to_owned();
        let mut source = std::error::Error::source(&status);
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        CriError { call, code, message }
    }
}

fn absent(call: &'static str) -> CriError {
    CriError {
        call,
        code: Code::Internal,
        message: "the runtime's answer lacks the status".into(),
    }
}

fn gone_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(e) if e.is_not_found() => Ok(()),
        other => other,
    }
}

macro_rules! call {
    ($client:expr, $method:ident, $name:literal, $request:expr) => {
        $client
            .clone()
            .$method($request)
            .await
            .map(tonic::Response::into_inner)
            .map_err(failed($name))
    };
}

#[async_trait]
impl Runtime for Client {
    async fn version(&self) -> Result<v1::VersionResponse> {
        // The version sent is that of the kubelet's runtime API, fixed for good upstream.
        call!(
            self.runtime,
            version,
            "Version",
            self.request(v1::VersionRequest {
                version: "0.1.0".into()
            })
        )
    }

    async fn status(&self) -> Result<v1::StatusResponse> {
        call!(
            self.runtime,
            status,
            "Status",
            self.request(v1::StatusRequest { verbose: false })
        )
    }

    async fn runtime_config(&self) -> Result<v1::RuntimeConfigResponse> {
        call!(
            self.runtime,
            runtime_config,
            "RuntimeConfig",
            self.request(v1::RuntimeConfigRequest {})
        )
    }

    async fn run_sandbox(&self, config: v1::PodSandboxConfig, handler: &str) -> Result<String> {
        // Network plugins may be slow: upstream gives a sandbox twice the time of other calls.
        let request = within(
            v1::RunPodSandboxRequest {
                config: Some(config),
                runtime_handler: handler.into(),
            },
            self.deadline * 2,
        );
        call!(self.runtime, run_pod_sandbox, "RunPodSandbox", request).map(|r| r.pod_sandbox_id)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let request = self.request(v1::StopPodSandboxRequest {
            pod_sandbox_id: id.into(),
        });
        gone_is_fine(call!(self.runtime, stop_pod_sandbox, "StopPodSandbox", request).map(drop))
    }

    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let request = self.request(v1::RemovePodSandboxRequest {
            pod_sandbox_id: id.into(),
        });
        gone_is_fine(call!(self.runtime, remove_pod_sandbox, "RemovePodSandbox", request).map(drop))
    }

    async fn sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus> {
        let request = self.request(v1::PodSandboxStatusRequest {
            pod_sandbox_id: id.into(),
            verbose: false,
        });
        call!(self.runtime, pod_sandbox_status, "PodSandboxStatus", request)?
            .status
            .ok_or_else(|| absent("PodSandboxStatus"))
    }

    async fn list_sandboxes(&self, filter: v1::PodSandboxFilter) -> Result<Vec<v1::PodSandbox>> {
        let request = self.request(v1::ListPodSandboxRequest { filter: Some(filter) });
        call!(self.runtime, list_pod_sandbox, "ListPodSandbox", request).map(|r| r.items)
    }

    async fn create_container(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Result<String> {
        let request = self.request(v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        });
        call!(self.runtime, create_container, "CreateContainer", request).map(|r| r.container_id)
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let request = self.request(v1::StartContainerRequest {
            container_id: id.into(),
        });
        call!(self.runtime, start_container, "StartContainer", request).map(drop)
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        // The runtime needs its usual time on top of the grace period it is asked to wait.
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = within(
            v1::StopContainerRequest {
                container_id: id.into(),
                timeout,
            },
            self.deadline.saturating_add(grace),
        );
        gone_is_fine(call!(self.runtime, stop_container, "StopContainer", request).map(drop))
    }

    async fn update_container(&self, id: &str, resources: v1::LinuxContainerResources) -> Result<()> {
        let request = self.request(v1::UpdateContainerResourcesRequest {
            container_id: id.into(),
            linux: Some(resources),
            annotations: Default::default(),
        });
        call!(
            self.runtime,
            update_container_resources,
            "UpdateContainerResources",
            request
        )
        .map(drop)
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        let request = self.request(v1::RemoveContainerRequest {
            container_id: id.into(),
        });
        gone_is_fine(call!(self.runtime, remove_container, "RemoveContainer", request).map(drop))
    }

    async fn list_containers(&self, filter: v1::ContainerFilter) -> Result<Vec<v1::Container>> {
        let request = self.request(v1::ListContainersRequest { filter: Some(filter) });
        call!(self.runtime, list_containers, "ListContainers", request).map(|r| r.containers)
    }

    async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus> {
        let request = self.request(v1::ContainerStatusRequest {
            container_id: id.into(),
            verbose: false,
        });
        call!(self.runtime, container_status, "ContainerStatus", request)?
            .status
            .ok_or_else(|| absent("ContainerStatus"))
    }

    async fn reopen_log(&self, id: &str) -> Result<()> {
        let request = self.request(v1::ReopenContainerLogRequest {
            container_id: id.into(),
        });
        call!(self.runtime, reopen_container_log, "ReopenContainerLog", request).map(drop)
    }

    async fn exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Result<v1::ExecSyncResponse> {
        let message = v1::ExecSyncRequest {
            container_id: id.into(),
            cmd: command.to_vec(),
            timeout: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        };
        let request = if timeout.is_zero() {
            Request::new(message)
        } else {
            within(message, self.deadline.saturating_add(timeout))
        };
        call!(self.runtime, exec_sync, "ExecSync", request)
    }

    async fn exec(&self, request: v1::ExecRequest) -> Result<String> {
        call!(self.runtime, exec, "Exec", self.request(request)).map(|r| r.url)
    }

    async fn attach(&self, request: v1::AttachRequest) -> Result<String> {
        call!(self.runtime, attach, "Attach", self.request(request)).map(|r| r.url)
    }

    async fn port_forward(&self, sandbox: &str, ports: Vec<i32>) -> Result<String> {
        let request = self.request(v1::PortForwardRequest {
            pod_sandbox_id: sandbox.into(),
            port: ports,
        });
        call!(self.runtime, port_forward, "PortForward", request).map(|r| r.url)
    }

    async fn list_stats(&self) -> Result<Vec<v1::ContainerStats>> {
        let request = self.request(v1::ListContainerStatsRequest {});
        call!(self.runtime, list_container_stats, "ListContainerStats", request).map(|r| r.stats)
    }

    async fn list_sandbox_stats(&self) -> Result<Vec<v1::PodSandboxStats>> {
        let request = self.request(v1::ListPodSandboxStatsRequest {});
        call!(self.runtime, list_pod_sandbox_stats, "ListPodSandboxStats", request).map(|r| r.stats)
    }

    async fn image_filesystems(&self) -> Result<Vec<v1::FilesystemUsage>> {
        let request = self.request(v1::ImageFsInfoRequest {});
        call!(self.images, image_fs_info, "ImageFsInfo", request).map(|r| r.image_filesystems)
    }

    async fn events(&self) -> Result<BoxStream<'static, Result<v1::ContainerEventResponse>>> {
        let stream = call!(
            self.runtime,
            get_container_events,
            "GetContainerEvents",
            Request::new(v1::GetEventsRequest {})
        )?;
        Ok(stream.map(|item| item.map_err(failed("GetContainerEvents"))).boxed())
    }

    async fn list_images(&self) -> Result<Vec<v1::Image>> {
        call!(
            self.images,
            list_images,
            "ListImages",
            self.request(v1::ListImagesRequest {})
        )
        .map(|r| r.images)
    }

    async fn image_status(&self, image: &str) -> Result<Option<v1::Image>> {
        let image = Some(v1::ImageSpec {
            image: image.into(),
            ..Default::default()
        });
        let request = self.request(v1::ImageStatusRequest { image, verbose: false });
        call!(self.images, image_status, "ImageStatus", request).map(|r| r.image)
    }

    async fn pull_image(
        &self,
        image: &str,
        auth: Option<v1::AuthConfig>,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Result<String> {
        let image = Some(v1::ImageSpec {
            image: image.into(),
            ..Default::default()
        });
        let message = v1::PullImageRequest {
            image,
            auth,
            sandbox_config: Some(sandbox_config),
        };
        call!(self.images, pull_image, "PullImage", within(message, PULL_DEADLINE)).map(|r| r.image_ref)
    }

    async fn remove_image(&self, image: &str) -> Result<()> {
        let image = Some(v1::ImageSpec {
            image: image.into(),
            ..Default::default()
        });
        let request = self.request(v1::RemoveImageRequest { image });
        gone_is_fine(call!(self.images, remove_image, "RemoveImage", request).map(drop))
    }
}
