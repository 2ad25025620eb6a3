//! The `/etc/hosts` file of a pod.

use std::path::Path;

use steersman_types::api::core::v1::{HostAlias, Pod};

use crate::pod;
use crate::runtime::sandbox::hostname_and_domain;

const HEADER: &str = "# Kubernetes-managed hosts file.\n";
const HEADER_HOST_NETWORK: &str = "# Kubernetes-managed hosts file (host network).\n";

/// The file's content. `node_hosts` is the node's own file, used with host network.
#[must_use]
pub fn hosts_file(pod: &Pod, ips: &[String], cluster_domain: &str, node_hosts: &str) -> String {
    let aliases = pod::spec(pod).host_aliases.as_deref().unwrap_or_default();
    let mut text = String::new();
    if pod::is_host_network(pod) {
        text.push_str(HEADER_HOST_NETWORK);
        text.push_str(node_hosts);
    } else {
        text.push_str(HEADER);
        text.push_str("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n");
        text.push_str("fe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n");
        let (name, domain) = hostname_and_domain(pod, cluster_domain);
        for ip in ips {
            if domain.is_empty() {
                text.push_str(&format!("{ip}\t{name}\n"));
            } else {
                text.push_str(&format!("{ip}\t{name}.{domain}\t{name}\n"));
            }
        }
    }
    text.push_str(&alias_lines(aliases));
    text
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let mut text = String::from("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        text.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    text
}

/// Writes the file, readable for everybody.
///
/// # Errors
/// When the pod's directory cannot be written.
pub fn write(path: &Path, content: &str) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, content)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
}

#[cfg(test)]
mod tests {
    use super::*;
    use steersman_types::Typed;

    #[test]
    fn the_pods_own_name_and_its_aliases_are_listed() {
        let pod = Pod::from_value(&serde_json::json!({"metadata": {"name": "web-0", "namespace": "ns"},
            "spec": {"containers": [], "subdomain": "web", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}}))
        .unwrap();
        let text = hosts_file(&pod, &["10.0.0.7".into()], "cluster.local", "");
        assert!(
            text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"),
            "{text}"
        );
        let end = "10.0.0.7\tweb-0.web.ns.svc.cluster.local\tweb-0\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n";
        assert!(text.ends_with(end), "{text}");
    }
}
