//! A container in CRI's terms.

use std::path::{Path, PathBuf};

use steersman_cri::v1;
use steersman_types::api::core::v1::{Container, Pod};

use super::labels;
use super::resources::{NodeLimits, container_resources};
use super::sandbox::log_directory;
use super::security::{ImageUser, container_context};
use crate::env::expand;

/// What a container needs besides its spec; gathered by the worker.
#[derive(Debug, Clone)]
pub struct ContainerInputs {
    pub restart_count: i32,
    /// The runtime's reference to the image.
    pub image_ref: String,
    pub image_user: ImageUser,
    /// Complete environment, in order.
    pub env: Vec<(String, String)>,
    pub mounts: Vec<v1::Mount>,
    pub node: NodeLimits,
    pub seccomp_root: PathBuf,
    pub seccomp_default: bool,
    /// An ephemeral container's target: the container whose processes it sees.
    pub target: Option<String>,
}

/// `<container>/<attempt>.log`, below the pod's log directory.
#[must_use]
pub fn log_path(container: &str, attempt: i32) -> String {
    format!("{container}/{attempt}.log")
}

/// The directory of one container's logs.
#[must_use]
pub fn log_dir(root: &Path, pod: &Pod, container: &str) -> PathBuf {
    log_directory(root, pod).join(container)
}

/// # Errors
/// When the security context forbids to run this container.
pub fn container_config(
    pod: &Pod,
    container: &Container,
    inputs: ContainerInputs,
) -> Result<v1::ContainerConfig, String> {
    let mut security = container_context(
        pod,
        container,
        &inputs.image_user,
        &inputs.seccomp_root,
        inputs.seccomp_default,
    )?;
    if let (Some(target), Some(namespaces)) = (&inputs.target, security.namespace_options.as_mut())
        && namespaces.pid == v1::NamespaceMode::Container as i32
    {
        namespaces.pid = v1::NamespaceMode::Target as i32;
        namespaces.target_id.clone_from(target);
    }
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter()
            .flatten()
            .map(|text| expand::expand(text, &inputs.env))
            .collect()
    };
    let command = expanded(&container.command);
    let args = expanded(&container.args);
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: container.name.clone(),
            attempt: u32::try_from(inputs.restart_count).unwrap_or(0),
        }),
        image: Some(v1::ImageSpec {
            image: inputs.image_ref.clone(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command,
        args,
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: inputs
            .env
            .into_iter()
            .map(|(key, value)| v1::KeyValue {
                key,
                value: value.into_bytes(),
            })
            .collect(),
        mounts: inputs.mounts,
        devices: Vec::new(),
        labels: labels::container_labels(pod, container),
        annotations: labels::container_annotations(pod, container, inputs.restart_count),
        log_path: log_path(&container.name, inputs.restart_count),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(container_resources(pod, container, &inputs.node)),
            security_context: Some(security),
        }),
    })
}
