//! A pod's sandbox in CRI's terms.

use std::path::{Path, PathBuf};

use steersman_cri::v1;
use steersman_types::api::core::v1::{ContainerPort, Pod};

use super::{labels, security};
use crate::pod;

/// The kernel's limit for a host name.
const MAX_HOSTNAME: usize = 63;

/// What a sandbox needs besides the pod itself.
#[derive(Debug, Clone)]
pub struct SandboxInputs {
    pub attempt: u32,
    pub cgroup_parent: String,
    pub dns: v1::DnsConfig,
    pub log_root: PathBuf,
    pub cluster_domain: String,
}

/// `/var/log/pods/<namespace>_<name>_<uid>`.
#[must_use]
pub fn log_directory(root: &Path, pod: &Pod) -> PathBuf {
    root.join(format!("{}_{}_{}", pod::namespace(pod), pod::name(pod), pod::uid(pod)))
}

#[must_use]
pub fn sandbox_config(pod: &Pod, inputs: &SandboxInputs) -> v1::PodSandboxConfig {
    let spec = pod::spec(pod);
    let sysctls = spec.security_context.iter().flat_map(|c| c.sysctls.iter().flatten());
    let host_network = pod::is_host_network(pod);
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: pod::name(pod).into(),
            namespace: pod::namespace(pod).into(),
            uid: pod::uid(pod).into(),
            attempt: inputs.attempt,
        }),
        hostname: if host_network {
            String::new()
        } else {
            kernel_hostname(pod, &inputs.cluster_domain)
        },
        log_directory: log_directory(&inputs.log_root, pod).display().to_string(),
        dns_config: Some(inputs.dns.clone()),
        port_mappings: port_mappings(pod),
        labels: labels::sandbox_labels(pod),
        annotations: labels::sandbox_annotations(pod),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: inputs.cgroup_parent.clone(),
            security_context: Some(security::sandbox_context(pod)),
            sysctls: sysctls.map(|s| (s.name.clone(), s.value.clone())).collect(),
            ..Default::default()
        }),
    }
}

/// The pod's host name and, if it has a subdomain, its domain.
#[must_use]
pub fn hostname_and_domain(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let spec = pod::spec(pod);
    if let Some(whole) = spec.hostname_override.as_ref().filter(|h| !h.is_empty()) {
        return (whole.clone(), String::new());
    }
    let name = spec
        .hostname
        .as_deref()
        .filter(|h| !h.is_empty())
        .unwrap_or_else(|| pod::name(pod));
    let mut name = name.to_owned();
    if name.len() > MAX_HOSTNAME {
        let end = (0..=MAX_HOSTNAME)
            .rev()
            .find(|i| name.is_char_boundary(*i))
            .unwrap_or(0);
        name.truncate(end);
        name.truncate(name.trim_end_matches(['-', '.']).len());
    }
    let domain = match spec.subdomain.as_deref() {
        Some(sub) if !sub.is_empty() => format!("{sub}.{}.svc.{cluster_domain}", pod::namespace(pod)),
        _ => String::new(),
    };
    (name, domain)
}

fn kernel_hostname(pod: &Pod, cluster_domain: &str) -> String {
    let (name, domain) = hostname_and_domain(pod, cluster_domain);
    if pod::spec(pod).set_hostname_as_fqdn == Some(true) && !domain.is_empty() {
        format!("{name}.{domain}")
    } else {
        name
    }
}

fn port_mappings(pod: &Pod) -> Vec<v1::PortMapping> {
    let mapped = |p: &ContainerPort| {
        let protocol = match p.protocol.as_deref() {
            Some("UDP") => v1::Protocol::Udp,
            Some("SCTP") => v1::Protocol::Sctp,
            _ => v1::Protocol::Tcp,
        };
        v1::PortMapping {
            protocol: protocol as i32,
            container_port: p.container_port,
            host_port: p.host_port.unwrap_or(0),
            host_ip: p.host_ip.clone().unwrap_or_default(),
        }
    };
    let all = pod::main_containers(pod)
        .iter()
        .chain(pod::init_containers(pod).iter().filter(|c| pod::is_sidecar(c)));
    all.flat_map(|c| c.ports.iter().flatten().map(mapped)).collect()
}
