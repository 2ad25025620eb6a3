//! What stands in a pod's `/etc/resolv.conf`.

use std::net::IpAddr;

use steersman_cri::v1::DnsConfig;
use steersman_types::api::core::v1::{Pod, PodDNSConfigOption};

use crate::pod;

/// Limits of common resolvers; what is beyond is cut, as upstream does.
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;

/// The node's part.
#[derive(Debug, Clone, Default)]
pub struct DnsSettings {
    /// `clusterDNS` of the configuration.
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    /// The node's own resolver configuration (`resolvConf`), parsed; `None` if it is switched off (empty path).
    pub host: Option<DnsConfig>,
}

/// Reads a resolv.conf. The last `search` and each `options` line count, comments do not.
#[must_use]
pub fn parse_resolv_conf(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with(['#', ';']) {
            continue;
        }
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            Some("search") => {
                // A lone dot is kept; other names lose their trailing dot.
                config.searches = words
                    .map(|w| if w == "." { w } else { w.trim_end_matches('.') }.to_owned())
                    .collect();
            }
            Some("options") => config.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    config
}

/// The pod's resolver configuration, by its `dnsPolicy` and `dnsConfig`.
#[must_use]
pub fn pod_dns(pod: &Pod, node: &DnsSettings) -> DnsConfig {
    let spec = pod::spec(pod);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirst" => spec.host_network != Some(true),
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut config = match policy {
        "None" => DnsConfig::default(),
        _ if cluster && !node.cluster_dns.is_empty() => cluster_first(pod, node),
        _ => node.host.clone().unwrap_or_else(|| DnsConfig {
            servers: vec!["127.0.0.1".into()],
            searches: vec![".".into()],
            options: Vec::new(),
        }),
    };
    if let Some(own) = &spec.dns_config {
        config.servers.extend(own.nameservers.iter().flatten().cloned());
        config.searches.extend(own.searches.iter().flatten().cloned());
        config.options = merged_options(config.options, own.options.as_deref().unwrap_or_default());
        dedup(&mut config.servers);
        dedup(&mut config.searches);
    }
    config.servers.truncate(MAX_SERVERS);
    limit_searches(&mut config.searches);
    config
}

fn cluster_first(pod: &Pod, node: &DnsSettings) -> DnsConfig {
    let domain = &node.cluster_domain;
    let mut searches = Vec::new();
    if !domain.is_empty() {
        searches.push(format!("{}.svc.{domain}", pod::namespace(pod)));
        searches.push(format!("svc.{domain}"));
        searches.push(domain.clone());
    }
    searches.extend(node.host.iter().flat_map(|h| h.searches.clone()));
    dedup(&mut searches);
    DnsConfig {
        servers: node.cluster_dns.iter().map(ToString::to_string).collect(),
        searches,
        options: vec!["ndots:5".into()],
    }
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|x| seen.insert(x.clone()));
}

/// Options of the pod replace those of the same name.
fn merged_options(before: Vec<String>, own: &[PodDNSConfigOption]) -> Vec<String> {
    let name = |option: &str| option.split(':').next().unwrap_or_default().to_owned();
    let mut all: Vec<(String, String)> = before.into_iter().map(|o| (name(&o), o)).collect();
    for option in own {
        let key = option.name.clone().unwrap_or_default();
        let text = match &option.value {
            Some(value) if !value.is_empty() => format!("{key}:{value}"),
            _ => key.clone(),
        };
        match all.iter_mut().find(|(k, _)| *k == key) {
            Some(entry) => entry.1 = text,
            None => all.push((key, text)),
        }
    }
    all.into_iter().map(|(_, text)| text).collect()
}

fn limit_searches(searches: &mut Vec<String>) {
    searches.truncate(MAX_SEARCHES);
    // Some resolvers abort on a longer name.
    searches.retain(|s| s.len() <= 253);
    while searches.join(" ").len() > MAX_SEARCH_CHARS {
        searches.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use steersman_types::Typed;

    fn node() -> DnsSettings {
        DnsSettings {
            cluster_dns: vec![IpAddr::from([10, 96, 0, 10])],
            cluster_domain: "cluster.local".into(),
            host: Some(parse_resolv_conf(
                "# x\nnameserver 192.0.2.53\nsearch corp.example.\noptions ndots:1 rotate\n",
            )),
        }
    }

    fn check(spec: serde_json::Value) -> String {
        let pod = Pod::from_value(&serde_json::json!({"metadata": {"namespace": "ns"}, "spec": spec})).unwrap();
        let c = pod_dns(&pod, &node());
        format!(
            "{} | {} | {}",
            c.servers.join(" "),
            c.searches.join(" "),
            c.options.join(" ")
        )
    }

    #[test]
    fn each_policy_gives_upstreams_resolver_configuration() {
        let cluster = "10.96.0.10 | ns.svc.cluster.local svc.cluster.local cluster.local corp.example | ndots:5";
        let host = "192.0.2.53 | corp.example | ndots:1 rotate";
        assert_eq!(check(serde_json::json!({"containers": []})), cluster);
        assert_eq!(check(serde_json::json!({"containers": [], "hostNetwork": true})), host);
        let with_host =
            serde_json::json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"});
        assert_eq!(check(with_host), cluster);
        assert_eq!(
            check(serde_json::json!({"containers": [], "dnsPolicy": "Default"})),
            host
        );
        let own = serde_json::json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"],
            "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}});
        assert_eq!(check(own), "1.1.1.1 | a.b | ndots:2 edns0");
    }
}
