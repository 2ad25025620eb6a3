//! Starts one container: image, environment, mounts, create, start, postStart.
//!
//! Called by the worker. Each failing step gives the reason under which the container waits, in upstream's words.

use std::collections::BTreeMap;
use std::path::Path;

use steersman_cri::v1;
use steersman_types::api::core::v1::{Container, Pod, VolumeMount};

use super::seen::{PodSeen, Trouble};
use super::{Kind, decide, stop};
use crate::context::Context;
use crate::env::fields::PodFields;
use crate::env::{EnvInputs, environment, expand};
use crate::events::PodEvents;
use crate::images::{Present, Wanted};
use crate::runtime::container::{ContainerInputs, container_config, log_dir, log_path};
use crate::volumes::{MountedVolumes, subpath};
use crate::{hosts, lifecycle, pull_secrets};

/// The sandbox that a container is started in.
pub struct Place<'a> {
    pub sandbox: &'a str,
    pub config: &'a v1::PodSandboxConfig,
    pub ips: &'a [String],
    pub volumes: &'a MountedVolumes,
}

fn trouble(reason: &str, message: impl Into<String>) -> Trouble {
    Trouble {
        reason: reason.into(),
        message: message.into(),
    }
}

/// # Errors
/// Reason and message of the waiting state. A container that was made but did not start is left to the runtime's list:
/// the next attempt has its own number.
pub async fn start(
    context: &Context,
    pod: &Pod,
    wanted: &decide::Start,
    place: &Place<'_>,
    seen: &PodSeen,
    events: &PodEvents,
) -> Result<(), Trouble> {
    let Some((_, container)) = super::find_container(pod, &wanted.name) else {
        return Ok(());
    };
    let name = container.name.as_str();
    let own = Wanted {
        image: container.image.as_deref().unwrap_or_default(),
        policy: container.image_pull_policy.as_deref(),
        container: Some(name),
    };
    let pulled = async {
        let image = pull(context, pod, &own, place, events).await?;
        Ok((image, image_volumes(context, pod, &container, place, events).await?))
    };
    let (image, image_volumes) = match pulled.await {
        Ok(pulled) => pulled,
        Err(t) => {
            let t: Trouble = t;
            events.warning(Some(name), "Failed", &format!("Error: {}", t.reason));
            return Err(t);
        }
    };
    let fail = |reason: &str, message: String| {
        events.warning(Some(name), "Failed", &format!("Error: {message}"));
        trouble(reason, message)
    };
    let config = async {
        let fields = PodFields {
            pod,
            pod_ips: place.ips,
            host_ips: &context.host_ips,
            allocatable: context.allocatable.clone(),
        };
        let services = (context.services)();
        let inputs = EnvInputs {
            fields,
            services: &services,
        };
        let env = environment(pod, &container, &inputs, context.objects.as_ref()).await?;
        let mounts = mounts(context, pod, &container, place, &env, &image_volumes)?;
        let logs = log_dir(&context.pod_logs, pod, name);
        std::fs::create_dir_all(logs)
            .map_err(|e| format!("create container log directory for container {name} failed: {e}"))?;
        let target = target_of(pod, wanted, seen);
        let inputs = ContainerInputs {
            restart_count: wanted.restart_count,
            image_ref: image.id,
            image_user: image.user,
            env,
            mounts,
            node: context.node,
            seccomp_root: context.seccomp_root(),
            seccomp_default: context.seccomp_default,
            target,
        };
        container_config(pod, &container, inputs)
    };
    let config = config
        .await
        .map_err(|message| fail("CreateContainerConfigError", message))?;
    let runtime = &context.runtime;
    let run = async {
        let id = runtime
            .create_container(place.sandbox, config, place.config.clone())
            .await
            .map_err(|e| fail("CreateContainerError", e.message))?;
        events.normal(Some(name), "Created", "Container created");
        runtime
            .start_container(&id)
            .await
            .map_err(|e| fail("RunContainerError", e.message))?;
        events.normal(Some(name), "Started", "Container started");
        Ok::<_, Trouble>(id)
    };
    let id = context.turns.container(run).await?;
    link_log(context, pod, &container, wanted.restart_count, &id);
    let hook = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref());
    if let Some(hook) = hook
        && let Err(e) = lifecycle::run(context.runtime.as_ref(), &id, &container, hook, place.ips.first()).await
    {
        tracing::warn!(pod = %super::full_name(pod), container = name, error = %e, "Failed to execute PostStartHook");
        events.warning(Some(name), "FailedPostStartHook", "PostStartHook failed");
        let grace = super::spec(pod).termination_grace_period_seconds.unwrap_or(30);
        events.normal(Some(name), "Killing", "FailedPostStartHook");
        let _ = context.runtime.stop_container(&id, stop::seconds(grace)).await;
        return Err(trouble("PostStartHookError", e));
    }
    Ok(())
}

async fn pull(
    context: &Context,
    pod: &Pod,
    wanted: &Wanted<'_>,
    place: &Place<'_>,
    events: &PodEvents,
) -> Result<Present, Trouble> {
    let auth = pull_secrets::credentials(context.objects.as_ref(), pod, wanted.image).await;
    context.images.ensure(pod, wanted, events, place.config, &auth).await
}

/// The images of the volumes that the container mounts, by volume name.
async fn image_volumes(
    context: &Context,
    pod: &Pod,
    container: &Container,
    place: &Place<'_>,
    events: &PodEvents,
) -> Result<BTreeMap<String, v1::ImageSpec>, Trouble> {
    let mut images = BTreeMap::new();
    for volume in super::spec(pod).volumes.iter().flatten() {
        let Some(source) = &volume.image else { continue };
        let mut mounts = container.volume_mounts.iter().flatten();
        if !mounts.any(|m| m.name == volume.name) {
            continue;
        }
        let reference = source.reference.as_deref().unwrap_or_default();
        let wanted = Wanted {
            image: reference,
            policy: source.pull_policy.as_deref().filter(|p| !p.is_empty()),
            container: None,
        };
        let image = pull(context, pod, &wanted, place, events).await?;
        let spec = v1::ImageSpec {
            image: image.id,
            user_specified_image: reference.into(),
            ..Default::default()
        };
        images.insert(volume.name.clone(), spec);
    }
    Ok(images)
}

/// The container whose processes an ephemeral container wants to see.
fn target_of(pod: &Pod, wanted: &decide::Start, seen: &PodSeen) -> Option<String> {
    if wanted.kind != Kind::Ephemeral {
        return None;
    }
    let own = super::spec(pod)
        .ephemeral_containers
        .iter()
        .flatten()
        .find(|c| c.name == wanted.name)?;
    let target = own.target_container_name.as_deref().filter(|n| !n.is_empty())?;
    seen.container(target).map(|c| c.id.clone())
}

fn mounts(
    context: &Context,
    pod: &Pod,
    container: &Container,
    place: &Place<'_>,
    env: &[(String, String)],
    images: &BTreeMap<String, v1::ImageSpec>,
) -> Result<Vec<v1::Mount>, String> {
    let pod_dir = context.volumes.pod_dir(super::uid(pod));
    let mut all = Vec::new();
    for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let mut made = volume_mount(&pod_dir, container, i, mount, place.volumes, env)?;
        made.image = images.get(&mount.name).cloned();
        all.push(made);
    }
    let taken = |path: &str, all: &[v1::Mount]| all.iter().any(|m| m.container_path.trim_end_matches('/') == path);
    if (!place.ips.is_empty() || super::is_host_network(pod)) && !taken("/etc/hosts", &all) {
        let file = pod_dir.join("etc-hosts");
        let of_node = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        let text = hosts::hosts_file(pod, place.ips, &context.cluster_domain, &of_node);
        hosts::write(&file, &text).map_err(|e| format!("failed to write hosts file: {e}"))?;
        all.push(bind(&file, "/etc/hosts"));
    }
    let message_path = container.termination_message_path.as_deref().unwrap_or_default();
    if !message_path.is_empty() {
        let dir = pod_dir.join("containers").join(&container.name);
        let file = dir.join(format!("{:08x}", rand::random::<u32>()));
        let make = || {
            use std::os::unix::fs::PermissionsExt;
            std::fs::create_dir_all(&dir)?;
            std::fs::File::create(&file)?;
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666))
        };
        make().map_err(|e: std::io::Error| format!("error on creating termination-log file: {e}"))?;
        all.push(bind(&file, message_path));
    }
    Ok(all)
}

fn bind(host: &Path, container: &str) -> v1::Mount {
    v1::Mount {
        host_path: host.display().to_string(),
        container_path: container.into(),
        selinux_relabel: true,
        ..Default::default()
    }
}

fn volume_mount(
    pod_dir: &Path,
    container: &Container,
    index: usize,
    mount: &VolumeMount,
    volumes: &MountedVolumes,
    env: &[(String, String)],
) -> Result<v1::Mount, String> {
    let volume = volumes.get(&mount.name).ok_or_else(|| {
        format!(
            "cannot find volume {:?} to mount into container {:?}",
            mount.name, container.name
        )
    })?;
    let sub_path = match mount.sub_path_expr.as_deref().filter(|e| !e.is_empty()) {
        Some(expression) => {
            let expanded = expand::expand(expression, env);
            if expanded.contains("$(") {
                return Err(format!("missing value for a variable in subPathExpr {expression:?}"));
            }
            expanded
        }
        None => mount.sub_path.clone().unwrap_or_default(),
    };
    if volume.image {
        return Ok(v1::Mount {
            container_path: absolute(&mount.mount_path),
            readonly: true,
            image_sub_path: sub_path,
            ..Default::default()
        });
    }
    let mut host = volume.path.clone();
    if !sub_path.is_empty() {
        subpath::check(&sub_path)?;
        let target = pod_dir
            .join("volume-subpaths")
            .join(&mount.name)
            .join(&container.name)
            .join(index.to_string());
        host = subpath::prepare(&volume.path, &sub_path, &target).map_err(|e| {
            // The details could tell the pod about the node's files.
            tracing::error!(error = %e, path = %volume.path.display(), sub_path, "Failed to prepare subPath");
            format!(
                "failed to prepare subPath for volumeMount {:?} of container {:?}",
                mount.name, container.name
            )
        })?;
    }
    let propagation = match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => v1::MountPropagation::PropagationBidirectional,
        _ => v1::MountPropagation::PropagationPrivate,
    };
    Ok(v1::Mount {
        host_path: host.display().to_string(),
        container_path: absolute(&mount.mount_path),
        readonly: mount.read_only == Some(true) || volume.read_only,
        propagation: propagation as i32,
        ..Default::default()
    })
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    }
}

/// `/var/log/containers/<pod>_<namespace>_<container>-<id>.log`, where log collectors look.
fn link_log(context: &Context, pod: &Pod, container: &Container, attempt: i32, id: &str) {
    let name = format!(
        "{}_{}_{}-{id}.log",
        super::name(pod),
        super::namespace(pod),
        container.name
    );
    let log = crate::runtime::sandbox::log_directory(&context.pod_logs, pod).join(log_path(&container.name, attempt));
    let link = context.container_logs.join(name);
    let _ = std::fs::create_dir_all(&context.container_logs);
    if let Err(e) = std::os::unix::fs::symlink(&log, &link) {
        tracing::debug!(link = %link.display(), error = %e, "Failed to create the link to the container's log");
    }
}
