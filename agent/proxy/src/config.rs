//! The configuration: `KubeProxyConfiguration` (v1alpha1) from `--config`, the flags, and what follows from both.
//!
//! [`Configuration`] is the file, with upstream's names and defaults and no unknown field; [`Settings`] is what the rules
//! need, [`NodeView`] what they need to know of this node.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};
use steersman_types::api::core::v1::Node;

use crate::family::Family;

/// The file's content. Fields that only concern other modes or systems are read and not used, as upstream does.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Configuration {
    pub api_version: String,
    pub kind: String,
    pub feature_gates: BTreeMap<String, bool>,
    pub client_connection: ClientConnection,
    pub logging: serde_json::Value,
    pub hostname_override: String,
    pub bind_address: String,
    pub healthz_bind_address: String,
    pub metrics_bind_address: String,
    pub bind_address_hard_fail: bool,
    pub enable_profiling: bool,
    pub show_hidden_metrics_for_version: String,
    pub mode: String,
    pub iptables: serde_json::Value,
    pub ipvs: serde_json::Value,
    pub nftables: Nftables,
    pub winkernel: serde_json::Value,
    pub detect_local_mode: String,
    pub detect_local: DetectLocal,
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: String,
    pub node_port_addresses: Option<Vec<String>>,
    pub oom_score_adj: Option<i32>,
    pub conntrack: Conntrack,
    #[serde(deserialize_with = "duration")]
    pub config_sync_period: Option<Duration>,
    pub port_range: String,
    pub windows_run_as_service: bool,
}

/// How to reach the API server.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ClientConnection {
    pub kubeconfig: PathBuf,
    pub accept_content_types: String,
    pub content_type: String,
    pub qps: f64,
    pub burst: i32,
}

/// The nftables mode's own settings.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Nftables {
    /// Which bit of the packet mark says "masquerade"; 14 by default.
    pub masquerade_bit: Option<u8>,
    pub masquerade_all: bool,
    /// How soon a failed transaction is tried again; 30 s by default.
    #[serde(deserialize_with = "duration")]
    pub sync_period: Option<Duration>,
    /// The shortest time between two transactions. Upstream's default is a second; ours is 10 ms, because a
    /// transaction here costs what changed and not what exists.
    #[serde(deserialize_with = "duration")]
    pub min_sync_period: Option<Duration>,
}

/// What `detectLocalMode` needs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct DetectLocal {
    pub bridge_interface: String,
    pub interface_name_prefix: String,
}

/// Connection tracking; `None` means upstream's default, zero means "leave as it is".
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Conntrack {
    pub max_per_core: Option<u32>,
    pub min: Option<u32>,
    #[serde(deserialize_with = "duration")]
    pub tcp_established_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub tcp_close_wait_timeout: Option<Duration>,
    pub tcp_be_liberal: bool,
    #[serde(deserialize_with = "duration")]
    pub udp_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub udp_stream_timeout: Option<Duration>,
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    let parse = |text: String| steersman_runtime::flags::duration(&text).map_err(serde::de::Error::custom);
    text.map(parse).transpose()
}

impl Default for Configuration {
    fn default() -> Self {
        Self {
            api_version: "kubeproxy.config.k8s.io/v1alpha1".to_owned(),
            kind: "KubeProxyConfiguration".to_owned(),
            feature_gates: BTreeMap::new(),
            client_connection: ClientConnection::default(),
            logging: serde_json::Value::Null,
            hostname_override: String::new(),
            bind_address: String::new(),
            healthz_bind_address: "0.0.0.0:10256".to_owned(),
            metrics_bind_address: "127.0.0.1:10249".to_owned(),
            bind_address_hard_fail: false,
            enable_profiling: false,
            show_hidden_metrics_for_version: String::new(),
            mode: String::new(),
            iptables: serde_json::Value::Null,
            ipvs: serde_json::Value::Null,
            nftables: Nftables::default(),
            winkernel: serde_json::Value::Null,
            detect_local_mode: String::new(),
            detect_local: DetectLocal::default(),
            cluster_cidr: String::new(),
            node_port_addresses: None,
            oom_score_adj: None,
            conntrack: Conntrack::default(),
            config_sync_period: None,
            port_range: String::new(),
            windows_run_as_service: false,
        }
    }
}

impl Configuration {
    /// Reads the file's text (YAML, and so JSON).
    ///
    /// # Errors
    /// One line: what is not understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parsed: Self =
            serde_saphyr::from_str(text).map_err(|e| e.to_string().lines().next().unwrap_or_default().to_owned())?;
        if parsed.kind != "KubeProxyConfiguration" || parsed.api_version != "kubeproxy.config.k8s.io/v1alpha1" {
            return Err(format!(
                "no kind {:?} is registered for version {:?}",
                parsed.kind, parsed.api_version
            ));
        }
        Ok(parsed)
    }

    /// # Errors
    /// The first field that asks for what this program does not do, in upstream's form of field errors.
    pub fn validate(&self) -> Result<(), String> {
        let invalid = |field: &str, value: &str, why: &str| {
            Err(format!(
                "KubeProxyConfiguration.{field}: Invalid value: {value:?}: {why}"
            ))
        };
        if !matches!(self.mode.as_str(), "" | "nftables") {
            return invalid("Mode", &self.mode, "must be nftables or blank (blank means nftables)");
        }
        if self.enable_profiling {
            return invalid("EnableProfiling", "true", "there is no profiler");
        }
        for (field, text) in [
            ("HealthzBindAddress", &self.healthz_bind_address),
            ("MetricsBindAddress", &self.metrics_bind_address),
        ] {
            if !text.is_empty() && bind_address(text).is_none() {
                return invalid(field, text, "must be IP:port");
            }
        }
        if self.nftables.masquerade_bit.is_some_and(|bit| bit > 31) {
            return Err(
                "KubeProxyConfiguration.NFTables.MasqueradeBit: Invalid value: must be within the range [0, 31]"
                    .to_owned(),
            );
        }
        self.settings(&NodeView::default()).map(|_| ())
    }

    /// What the rules need to know.
    ///
    /// # Errors
    /// One line when a field makes no sense.
    pub fn settings(&self, node: &NodeView) -> Result<Settings, String> {
        let ranges = |field: &str, text: &str| -> Result<Vec<IpNet>, String> {
            let parts = text.split(',').map(str::trim).filter(|p| !p.is_empty());
            let parse = |p: &str| {
                p.parse().map_err(|_| {
                    format!("KubeProxyConfiguration.{field}: Invalid value: {p:?}: must be a valid CIDR block")
                })
            };
            parts.map(parse).collect()
        };
        let required = |field: &str, text: &str| match text {
            "" => Err(format!(
                "KubeProxyConfiguration.{field}: Required value: for this detectLocalMode"
            )),
            text => Ok(text.to_owned()),
        };
        let local = match self.detect_local_mode.as_str() {
            "" | "ClusterCIDR" => LocalTraffic::Ranges(ranges("ClusterCIDR", &self.cluster_cidr)?),
            "NodeCIDR" => LocalTraffic::Ranges(node.pod_ranges.clone()),
            "BridgeInterface" => LocalTraffic::Interface(required(
                "DetectLocal.BridgeInterface",
                &self.detect_local.bridge_interface,
            )?),
            "InterfaceNamePrefix" => LocalTraffic::Interface(format!(
                "{}*",
                required(
                    "DetectLocal.InterfaceNamePrefix",
                    &self.detect_local.interface_name_prefix
                )?
            )),
            other => {
                return Err(format!(
                    "KubeProxyConfiguration.DetectLocalMode: Unsupported value: {other:?}"
                ));
            }
        };
        let node_ports = match self.node_port_addresses.as_deref().unwrap_or_default() {
            [] => NodePortAddresses::Primary,
            [one] if one == "primary" => NodePortAddresses::Primary,
            many => NodePortAddresses::Ranges(ranges("NodePortAddresses", &many.join(","))?),
        };
        let masquerade_bit = self.nftables.masquerade_bit.unwrap_or(14);
        Ok(Settings {
            masquerade_all: self.nftables.masquerade_all,
            masquerade_bit,
            local,
            node_ports,
        })
    }
}

/// `IP:port`, or a bare IP-less `:port`.
#[must_use]
pub fn bind_address(text: &str) -> Option<SocketAddr> {
    text.parse()
        .ok()
        .or_else(|| format!("0.0.0.0{text}").parse().ok().filter(|_| text.starts_with(':')))
}

/// How traffic from this node's pods is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalTraffic {
    /// By source address; none: not at all.
    Ranges(Vec<IpNet>),
    /// By the interface it comes from (a trailing `*` matches any rest).
    Interface(String),
}

/// On which of the node's addresses NodePorts answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The node's own, as its Node object says.
    Primary,
    /// Local addresses in these ranges.
    Ranges(Vec<IpNet>),
}

/// What the rules need of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub masquerade_all: bool,
    pub masquerade_bit: u8,
    pub local: LocalTraffic,
    pub node_ports: NodePortAddresses,
}

impl Settings {
    /// The mark as nftables writes it.
    #[must_use]
    pub fn mark_value(&self) -> String {
        format!(
            "{:#010x}",
            1u32.checked_shl(self.masquerade_bit.into()).unwrap_or(1 << 14)
        )
    }

    /// The statement that asks for masquerading.
    #[must_use]
    pub fn mark(&self) -> String {
        format!("meta mark set meta mark or {}", self.mark_value())
    }

    /// Which traffic to a cluster IP is masqueraded: `None` never, empty always, else a condition with a leading blank.
    #[must_use]
    pub fn masquerade_condition(&self, family: Family) -> Option<String> {
        if self.masquerade_all {
            return Some(String::new());
        }
        self.local_match(family, "!= ").map(|condition| format!(" {condition}"))
    }

    /// Matches traffic from this node's pods.
    #[must_use]
    pub fn local_condition(&self, family: Family) -> Option<String> {
        self.local_match(family, "")
    }

    fn local_match(&self, family: Family, not: &str) -> Option<String> {
        match &self.local {
            LocalTraffic::Ranges(ranges) => {
                let ours: Vec<String> = ranges
                    .iter()
                    .filter(|r| Family::of(&r.addr()) == family)
                    .map(|r| r.trunc().to_string())
                    .collect();
                let text = match ours.as_slice() {
                    [] => return None,
                    [one] => one.clone(),
                    many => format!("{{ {} }}", many.join(", ")),
                };
                Some(format!("{} saddr {not}{text}", family.ip()))
            }
            LocalTraffic::Interface(name) => Some(format!("iifname {not}\"{name}\"")),
        }
    }

    /// Whether NodePorts answer on `address`, if it is this node's at all.
    #[must_use]
    pub fn serves_node_ports(&self, address: IpAddr, node: &NodeView) -> bool {
        match &self.node_ports {
            NodePortAddresses::Primary => node.addresses.contains(&address),
            NodePortAddresses::Ranges(ranges) => ranges.iter().any(|range| range.contains(&address)),
        }
    }

    /// Matches traffic to an address that serves NodePorts; `None` while there is none.
    #[must_use]
    pub fn node_port_condition(&self, family: Family, node: &NodeView) -> Option<String> {
        let of_family = |texts: Vec<(IpAddr, String)>| -> Vec<String> {
            texts
                .into_iter()
                .filter(|(a, _)| Family::of(a) == family)
                .map(|(_, t)| t)
                .collect()
        };
        let (texts, local) = match &self.node_ports {
            NodePortAddresses::Primary => (node.addresses.iter().map(|a| (*a, a.to_string())).collect(), ""),
            NodePortAddresses::Ranges(ranges) => (
                IpNet::aggregate(ranges)
                    .iter()
                    .map(|r| (r.addr(), r.to_string()))
                    .collect(),
                "fib daddr type local ",
            ),
        };
        let texts = of_family(texts);
        let ip = family.ip();
        (!texts.is_empty()).then(|| {
            format!(
                "{local}{ip} daddr != {} {ip} daddr {{ {} }}",
                family.loopback(),
                texts.join(", ")
            )
        })
    }
}

/// What the rules need to know of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    pub name: String,
    /// Primary addresses, at most one per family.
    pub addresses: Vec<IpAddr>,
    /// Empty: unknown.
    pub zone: String,
    pub pod_ranges: Vec<IpNet>,
    /// The node is being deleted, or about to be: load balancers shall look elsewhere.
    pub leaving: bool,
}

impl NodeView {
    /// Reads the Node object; without one only the name is known.
    #[must_use]
    pub fn new(name: &str, node: Option<&Node>) -> Self {
        let mut view = Self {
            name: name.to_owned(),
            ..Self::default()
        };
        let Some(node) = node else { return view };
        view.leaving = node.metadata.deletion_timestamp.is_some();
        let labels = node.metadata.labels.as_ref();
        view.zone = labels
            .and_then(|l| l.get("topology.kubernetes.io/zone"))
            .cloned()
            .unwrap_or_default();
        let addresses = node
            .status
            .as_ref()
            .and_then(|s| s.addresses.as_deref())
            .unwrap_or_default();
        for kind in ["InternalIP", "ExternalIP"] {
            for address in addresses
                .iter()
                .filter(|a| a.type_ == kind)
                .filter_map(|a| a.address.parse::<IpAddr>().ok())
            {
                if !view.addresses.iter().any(|known| known.is_ipv4() == address.is_ipv4()) {
                    view.addresses.push(address);
                }
            }
        }
        let spec = node.spec.as_ref();
        let ranges = spec.and_then(|s| s.pod_cidrs.as_ref()).into_iter().flatten();
        view.pod_ranges = ranges.filter_map(|r| r.parse().ok()).collect();
        let taints = spec.and_then(|s| s.taints.as_ref()).into_iter().flatten();
        view.leaving |= taints.into_iter().any(|t| t.key == "ToBeDeletedByClusterAutoscaler");
        view
    }
}
