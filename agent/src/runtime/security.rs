//! Security contexts: the container's own settings before the pod's.

use steersman_cri::v1;
use steersman_types::api::core::v1::{Container, Pod, PodSecurityContext, SeccompProfile};

use crate::pod;

/// Kernel files that containers may not read, unless `procMount: Unmasked`. Upstream's list.
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Kernel files that containers may not write.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The user an image names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageUser {
    pub uid: Option<i64>,
    pub name: String,
}

#[must_use]
pub fn namespaces(pod: &Pod) -> v1::NamespaceOption {
    let spec = pod::spec(pod);
    let node = |on: Option<bool>| {
        if on == Some(true) {
            v1::NamespaceMode::Node
        } else {
            v1::NamespaceMode::Pod
        }
    };
    let pid = match (spec.host_pid, spec.share_process_namespace) {
        (Some(true), _) => v1::NamespaceMode::Node,
        (_, Some(true)) => v1::NamespaceMode::Pod,
        _ => v1::NamespaceMode::Container,
    };
    v1::NamespaceOption {
        network: node(spec.host_network) as i32,
        ipc: node(spec.host_ipc) as i32,
        pid: pid as i32,
        target_id: String::new(),
    }
}

fn number(value: Option<i64>) -> Option<v1::Int64Value> {
    value.map(|value| v1::Int64Value { value })
}

fn groups(context: Option<&PodSecurityContext>) -> Vec<i64> {
    let own = context.and_then(|c| c.supplemental_groups.clone()).unwrap_or_default();
    context.and_then(|c| c.fs_group).into_iter().chain(own).collect()
}

fn groups_policy(context: Option<&PodSecurityContext>) -> i32 {
    let strict = context.and_then(|c| c.supplemental_groups_policy.as_deref()) == Some("Strict");
    (if strict {
        v1::SupplementalGroupsPolicy::Strict
    } else {
        v1::SupplementalGroupsPolicy::Merge
    }) as i32
}

/// The sandbox's own (pause) process. Always under the runtime's default seccomp profile.
#[must_use]
pub fn sandbox_context(pod: &Pod) -> v1::LinuxSandboxSecurityContext {
    let context = pod::spec(pod).security_context.as_ref();
    let privileged = |c: &Container| c.security_context.as_ref().and_then(|s| s.privileged) == Some(true);
    v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        run_as_user: number(context.and_then(|c| c.run_as_user)),
        run_as_group: number(context.and_then(|c| c.run_as_group)),
        supplemental_groups: groups(context),
        supplemental_groups_policy: groups_policy(context),
        privileged: pod::all_containers(pod).any(|(_, c)| privileged(&c)),
        seccomp: Some(v1::SecurityProfile::default()),
        ..Default::default()
    }
}

/// A container's security context. `seccomp_root` is where localhost profiles lie; `seccomp_default` chooses the
/// runtime's profile for containers that name none.
///
/// # Errors
/// When the pod demands a user other than root and the container would run as root, or that cannot be known.
pub fn container_context(
    pod: &Pod,
    container: &Container,
    image_user: &ImageUser,
    seccomp_root: &std::path::Path,
    seccomp_default: bool,
) -> Result<v1::LinuxContainerSecurityContext, String> {
    let of_pod = pod::spec(pod).security_context.as_ref();
    let own = container.security_context.clone().unwrap_or_default();
    let run_as_user = own.run_as_user.or(of_pod.and_then(|c| c.run_as_user));
    let non_root = own.run_as_non_root.or(of_pod.and_then(|c| c.run_as_non_root)) == Some(true);
    if non_root {
        verify_non_root(pod, container, run_as_user, image_user)?;
    }
    let privileged = own.privileged == Some(true);
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |list: &[&str]| {
        if unmasked {
            Vec::new()
        } else {
            list.iter().map(|p| (*p).to_owned()).collect()
        }
    };
    let profile = own
        .seccomp_profile
        .as_ref()
        .or(of_pod.and_then(|c| c.seccomp_profile.as_ref()));
    let selinux = own
        .se_linux_options
        .as_ref()
        .or(of_pod.and_then(|c| c.se_linux_options.as_ref()));
    Ok(v1::LinuxContainerSecurityContext {
        capabilities: own.capabilities.as_ref().map(|c| v1::Capability {
            add_capabilities: c.add.clone().unwrap_or_default(),
            drop_capabilities: c.drop.clone().unwrap_or_default(),
            ..Default::default()
        }),
        privileged,
        namespace_options: Some(namespaces(pod)),
        selinux_options: selinux.map(|s| v1::SeLinuxOption {
            user: s.user.clone().unwrap_or_default(),
            role: s.role.clone().unwrap_or_default(),
            r#type: s.type_.clone().unwrap_or_default(),
            level: s.level.clone().unwrap_or_default(),
        }),
        run_as_user: number(run_as_user.or(image_user.uid)),
        run_as_username: if run_as_user.is_none() {
            image_user.name.clone()
        } else {
            String::new()
        },
        run_as_group: number(own.run_as_group.or(of_pod.and_then(|c| c.run_as_group))),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(of_pod),
        supplemental_groups_policy: groups_policy(of_pod),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(seccomp(profile, seccomp_root, seccomp_default && !privileged)?),
        ..Default::default()
    })
}

fn seccomp(
    profile: Option<&SeccompProfile>,
    root: &std::path::Path,
    default: bool,
) -> Result<v1::SecurityProfile, String> {
    use v1::security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    let plain = |kind| v1::SecurityProfile {
        profile_type: kind as i32,
        ..Default::default()
    };
    match profile.map(|p| (p.type_.as_str(), p.localhost_profile.as_deref())) {
        None if default => Ok(plain(RuntimeDefault)),
        None | Some(("Unconfined", _)) => Ok(plain(Unconfined)),
        Some(("RuntimeDefault", _)) => Ok(plain(RuntimeDefault)),
        Some(("Localhost", Some(file))) if !file.is_empty() => Ok(v1::SecurityProfile {
            profile_type: Localhost as i32,
            localhost_ref: root.join(file).display().to_string(),
        }),
        Some(("Localhost", _)) => Err("localhostProfile must be set if seccompProfile type is Localhost.".into()),
        Some((other, _)) => Err(format!("unknown seccomp profile type {other:?}")),
    }
}

fn verify_non_root(pod: &Pod, container: &Container, user: Option<i64>, image: &ImageUser) -> Result<(), String> {
    let at = format!("(pod: {:?}, container: {})", pod::full_name(pod), container.name);
    match (user, image.uid, image.name.as_str()) {
        (Some(0), ..) => Err(format!("container's runAsUser breaks non-root policy {at}")),
        (Some(_), ..) => Ok(()),
        (None, Some(0), _) | (None, None, "") => {
            Err(format!("container has runAsNonRoot and image will run as root {at}"))
        }
        (None, None, name) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {at}"
        )),
        (None, Some(_), _) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use steersman_types::api::core::v1::{PodSpec, SecurityContext};

    fn check(user: Option<i64>, image: ImageUser) -> Result<(), String> {
        let container = Container {
            name: "c".into(),
            security_context: Some(SecurityContext {
                run_as_non_root: Some(true),
                run_as_user: user,
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut pod = Pod {
            spec: Some(PodSpec::default()),
            ..Default::default()
        };
        pod.metadata.name = Some("p".into());
        pod.metadata.namespace = Some("n".into());
        pod.metadata.uid = Some("u".into());
        container_context(&pod, &container, &image, std::path::Path::new("/seccomp"), false).map(drop)
    }

    #[test]
    fn run_as_non_root_refuses_root_and_users_that_are_names() {
        let named = ImageUser {
            uid: None,
            name: "www".into(),
        };
        let zero = ImageUser {
            uid: Some(0),
            name: String::new(),
        };
        assert_eq!(check(Some(5), ImageUser::default()), Ok(()));
        assert_eq!(
            check(
                None,
                ImageUser {
                    uid: Some(5),
                    name: String::new()
                }
            ),
            Ok(())
        );
        let at = "(pod: \"p_n(u)\", container: c)";
        assert_eq!(
            check(Some(0), named.clone()),
            Err(format!("container's runAsUser breaks non-root policy {at}"))
        );
        assert_eq!(
            check(None, zero),
            Err(format!("container has runAsNonRoot and image will run as root {at}"))
        );
        let text = "container has runAsNonRoot and image has non-numeric user (www), cannot verify user is non-root";
        assert_eq!(check(None, named), Err(format!("{text} {at}")));
    }
}
