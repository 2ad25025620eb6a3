//! The command line: upstream's flags, as far as the nftables mode has a use for them.
//!
//! As upstream, `--config` replaces all other settings except `--hostname-override` and `--v`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use steersman_runtime::flags::{LoggingFlags, duration};

use crate::config::Configuration;

/// Keeps this node's nftables rules as the cluster's Services are.
#[derive(Parser, Clone, Debug)]
#[command(name = "kube-proxy", disable_version_flag = true)]
pub struct Flags {
    /// The path to the configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Path to a kubeconfig with authorization information.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The name of the Node; the host's name if empty.
    #[arg(long, default_value = "", value_name = "NAME")]
    pub hostname_override: String,
    /// Which mode to use: nftables.
    #[arg(long, default_value = "", value_name = "MODE")]
    pub proxy_mode: String,
    /// The ranges of the pods' addresses.
    #[arg(long, default_value = "", value_name = "CIDRS")]
    pub cluster_cidr: String,
    /// How to recognise local traffic: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix.
    #[arg(long, default_value = "", value_name = "MODE")]
    pub detect_local_mode: String,
    /// For --detect-local-mode=BridgeInterface.
    #[arg(long, default_value = "", value_name = "NAME")]
    pub pod_bridge_interface: String,
    /// For --detect-local-mode=InterfaceNamePrefix.
    #[arg(long, default_value = "", value_name = "PREFIX")]
    pub pod_interface_name_prefix: String,
    /// Ranges of the addresses that serve NodePorts, or "primary".
    #[arg(long, value_delimiter = ',', value_name = "CIDRS")]
    pub nodeport_addresses: Vec<String>,
    /// Masquerade all traffic to cluster IPs.
    #[arg(long, default_value_t = false, default_missing_value = "true", num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    pub masquerade_all: bool,
    /// The bit of the packet mark that says "masquerade".
    #[arg(long, value_name = "BIT")]
    pub iptables_masquerade_bit: Option<u8>,
    /// How soon a failed transaction is tried again.
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub iptables_sync_period: Option<Duration>,
    /// The shortest time between two transactions.
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub iptables_min_sync_period: Option<Duration>,
    /// Address and port of the health check; empty switches it off.
    #[arg(long, default_value = "0.0.0.0:10256", value_name = "ADDRESS")]
    pub healthz_bind_address: String,
    /// Address and port of the metrics; empty switches them off.
    #[arg(long, default_value = "127.0.0.1:10249", value_name = "ADDRESS")]
    pub metrics_bind_address: String,
    /// This process's oom_score_adj.
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    pub oom_score_adj: Option<i32>,
    /// Conntrack entries per processor; 0 leaves the limit as it is.
    #[arg(long, value_name = "NUMBER")]
    pub conntrack_max_per_core: Option<u32>,
    /// Conntrack entries at least.
    #[arg(long, value_name = "NUMBER")]
    pub conntrack_min: Option<u32>,
    /// Idle timeout of established TCP connections; 0 leaves it as it is.
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub conntrack_tcp_timeout_established: Option<Duration>,
    /// Timeout of TCP connections in CLOSE_WAIT; 0 leaves it as it is.
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub conntrack_tcp_timeout_close_wait: Option<Duration>,
    /// Remove this program's rules and exit.
    #[arg(long, default_value_t = false, default_missing_value = "true", num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    pub cleanup: bool,
    #[command(flatten)]
    pub logging: LoggingFlags,
}

impl Flags {
    /// The configuration: the file if there is one, otherwise the flags.
    ///
    /// # Errors
    /// One line: what cannot be read or understood.
    pub fn configuration(&self) -> Result<Configuration, String> {
        let mut configuration = match &self.config {
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|e| format!("open {}: {e}", path.display()))?;
                Configuration::parse(&text).map_err(|e| format!("{}: {e}", path.display()))?
            }
            None => self.without_file(),
        };
        if !self.hostname_override.is_empty() {
            configuration.hostname_override.clone_from(&self.hostname_override);
        }
        if configuration.client_connection.kubeconfig.as_os_str().is_empty() {
            return Err("clientConnection.kubeconfig (or --kubeconfig) is required".to_owned());
        }
        configuration.validate()?;
        Ok(configuration)
    }

    fn without_file(&self) -> Configuration {
        let mut configuration = Configuration {
            mode: self.proxy_mode.clone(),
            cluster_cidr: self.cluster_cidr.clone(),
            detect_local_mode: self.detect_local_mode.clone(),
            healthz_bind_address: self.healthz_bind_address.clone(),
            metrics_bind_address: self.metrics_bind_address.clone(),
            oom_score_adj: self.oom_score_adj,
            node_port_addresses: Some(self.nodeport_addresses.clone()).filter(|a| !a.is_empty()),
            ..Configuration::default()
        };
        configuration.client_connection.kubeconfig = self.kubeconfig.clone().unwrap_or_default();
        configuration
            .detect_local
            .bridge_interface
            .clone_from(&self.pod_bridge_interface);
        configuration
            .detect_local
            .interface_name_prefix
            .clone_from(&self.pod_interface_name_prefix);
        configuration.nftables.masquerade_all = self.masquerade_all;
        configuration.nftables.masquerade_bit = self.iptables_masquerade_bit;
        configuration.nftables.sync_period = self.iptables_sync_period;
        configuration.nftables.min_sync_period = self.iptables_min_sync_period;
        configuration.conntrack.max_per_core = self.conntrack_max_per_core;
        configuration.conntrack.min = self.conntrack_min;
        configuration.conntrack.tcp_established_timeout = self.conntrack_tcp_timeout_established;
        configuration.conntrack.tcp_close_wait_timeout = self.conntrack_tcp_timeout_close_wait;
        configuration
    }
}
