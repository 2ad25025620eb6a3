//! The command line of `kube-apiserver`: upstream's flag names, one struct per concern.
//!
//! A flag that is not here is refused by name; a flag that is here does what upstream's manual says. No flag turns
//! authentication or authorization off. [`Options::validate`] finds every fault before anything starts.

mod parse;

pub use parse::{GoDuration, PortRange};

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser};
use ipnet::IpNet;

use parse::{bool_map, no_plus, port_range};

/// Everything the command line can say.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "kube-apiserver",
    about = "The Kubernetes API server: validates and stores API objects and serves every other component.",
    disable_version_flag = true,
    args_override_self = true
)]
pub struct Options {
    #[command(flatten, next_help_heading = "Etcd")]
    pub etcd: Etcd,
    #[command(flatten, next_help_heading = "Serving")]
    pub serving: Serving,
    #[command(flatten, next_help_heading = "Limits")]
    pub limits: Limits,
    #[command(flatten, next_help_heading = "Authentication")]
    pub authentication: Authentication,
    #[command(flatten, next_help_heading = "Authorization and admission")]
    pub policy: Policy,
    #[command(flatten, next_help_heading = "Nodes and services")]
    pub network: Network,
    #[command(flatten, next_help_heading = "API")]
    pub api: Api,
    #[command(flatten, next_help_heading = "Logs")]
    pub logs: Logs,
}

#[derive(Clone, Debug, Args)]
pub struct Etcd {
    /// List of etcd servers to connect with (scheme://ip:port), comma separated.
    #[arg(long, value_name = "URLS", value_delimiter = ',', action = clap::ArgAction::Append)]
    pub etcd_servers: Vec<String>,
    /// SSL Certificate Authority file used to secure etcd communication.
    #[arg(long, value_name = "FILE")]
    pub etcd_cafile: Option<PathBuf>,
    /// SSL certification file used to secure etcd communication.
    #[arg(long, value_name = "FILE")]
    pub etcd_certfile: Option<PathBuf>,
    /// SSL key file used to secure etcd communication.
    #[arg(long, value_name = "FILE")]
    pub etcd_keyfile: Option<PathBuf>,
    /// The prefix to prepend to all resource paths in etcd.
    #[arg(long, value_name = "PATH", default_value = "/registry")]
    pub etcd_prefix: String,
    /// The interval of compaction requests. If 0, the compaction request from apiserver is disabled.
    #[arg(long, value_name = "DURATION", default_value = "5m0s")]
    pub etcd_compaction_interval: GoDuration,
    /// The storage backend for persistence: etcd3.
    #[arg(long, value_name = "NAME", default_value = "etcd3", value_parser = ["etcd3"])]
    pub storage_backend: String,
    /// The media type to use to store objects in storage.
    #[arg(long, value_name = "TYPE", default_value = "application/vnd.kubernetes.protobuf", value_parser = ["application/vnd.kubernetes.protobuf"])]
    pub storage_media_type: String,
    /// Amount of time to retain events.
    #[arg(long, value_name = "DURATION", default_value = "1h0m0s")]
    pub event_ttl: GoDuration,
}

#[derive(Clone, Debug, Args)]
pub struct Serving {
    /// The IP address on which to advertise the apiserver to members of the cluster.
    #[arg(long, value_name = "IP")]
    pub advertise_address: Option<IpAddr>,
    /// The IP address on which to listen for the --secure-port port.
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// The port on which to serve HTTPS with authentication and authorization. It cannot be switched off with 0.
    #[arg(long, value_name = "PORT", default_value_t = 6443, value_parser = clap::value_parser!(u16).range(1..))]
    pub secure_port: u16,
    /// If true, SO_REUSEPORT will be used when binding the port.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub permit_port_sharing: bool,
    /// The directory where the TLS certs are located. Ignored if --tls-cert-file and --tls-private-key-file are given.
    #[arg(long, value_name = "DIR", default_value = "/var/run/kubernetes")]
    pub cert_dir: PathBuf,
    /// File containing the default x509 Certificate for HTTPS. Without it a self-signed one is made in --cert-dir.
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// File containing the default x509 private key matching --tls-cert-file.
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
    /// Minimum TLS version supported.
    #[arg(long, value_name = "VERSION", default_value = "VersionTLS12", value_parser = ["VersionTLS12", "VersionTLS13"])]
    pub tls_min_version: String,
    /// The limit that the server gives to clients for the maximum number of streams in an HTTP/2 connection.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub http2_max_streams_per_connection: u32,
    /// Time to delay the termination. During that time the server keeps serving requests normally and /readyz fails.
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub shutdown_delay_duration: GoDuration,
}

#[derive(Clone, Debug, Args)]
pub struct Limits {
    /// The maximum number of mutating requests in flight at a given time; further ones get 429.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub max_mutating_requests_inflight: usize,
    /// The maximum number of non-mutating requests in flight at a given time; further ones get 429.
    #[arg(long, value_name = "N", default_value_t = 400)]
    pub max_requests_inflight: usize,
    /// The duration a handler must keep a request open before timing it out. Not for watches and other long requests.
    #[arg(long, value_name = "DURATION", default_value = "1m0s")]
    pub request_timeout: GoDuration,
    /// The minimum number of seconds a watch stays open; the end is chosen between this and twice as much.
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    pub min_request_timeout: u64,
}

#[derive(Clone, Debug, Args)]
pub struct Authentication {
    /// Enables anonymous requests to the secure port; RBAC decides what they may do. Without this flag they are
    /// taken for /healthz, /livez and /readyz alone.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub anonymous_auth: Option<bool>,
    /// Whether secrets of type bootstrap.kubernetes.io/token in kube-system authenticate those who join.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_bootstrap_token_auth: bool,
    /// Any request presenting a client certificate signed by one of these authorities is authenticated by its subject.
    #[arg(long, value_name = "FILE")]
    pub client_ca_file: Option<PathBuf>,
    /// CSV file of bearer tokens: token,user,uid,"group1,group2".
    #[arg(long, value_name = "FILE")]
    pub token_auth_file: Option<PathBuf>,
    /// Identifiers of the API; tokens must carry one of them. Defaults to the first issuer.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', action = clap::ArgAction::Append)]
    pub api_audiences: Vec<String>,
    /// Identifier of the service account token issuer. Repeated: the first one signs, all are accepted.
    #[arg(long, value_name = "URL", action = clap::ArgAction::Append)]
    pub service_account_issuer: Vec<String>,
    /// File with PEM keys that verify service account tokens; may be repeated.
    #[arg(long, value_name = "FILE", action = clap::ArgAction::Append)]
    pub service_account_key_file: Vec<PathBuf>,
    /// File with the private key that signs service account tokens.
    #[arg(long, value_name = "FILE")]
    pub service_account_signing_key_file: Option<PathBuf>,
    /// The maximum validity of a service account token; between one hour and 2^32 seconds. 0: no maximum.
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub service_account_max_token_expiration: GoDuration,
    /// Whether projected tokens live longer than asked, as a safe path away from legacy tokens.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub service_account_extend_token_expiration: bool,
    /// Overrides the URI of the JSON Web Key Set in the discovery document.
    #[arg(long, value_name = "URL")]
    pub service_account_jwks_uri: Option<String>,
    /// Authorities of front proxies whose identity headers are believed.
    #[arg(long, value_name = "FILE")]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Common names of front proxies. Empty: any that --requestheader-client-ca-file signed.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', action = clap::ArgAction::Append)]
    pub requestheader_allowed_names: Vec<String>,
    /// Headers to inspect for usernames.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', action = clap::ArgAction::Append)]
    pub requestheader_username_headers: Vec<String>,
    /// Headers to inspect for user uids.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', action = clap::ArgAction::Append)]
    pub requestheader_uid_headers: Vec<String>,
    /// Headers to inspect for groups.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', action = clap::ArgAction::Append)]
    pub requestheader_group_headers: Vec<String>,
    /// Header prefixes to inspect for extra values.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', action = clap::ArgAction::Append)]
    pub requestheader_extra_headers_prefix: Vec<String>,
    /// Client certificate that proves the aggregator's identity to extension servers.
    #[arg(long, value_name = "FILE", requires = "proxy_client_key_file")]
    pub proxy_client_cert_file: Option<PathBuf>,
    /// Private key of --proxy-client-cert-file.
    #[arg(long, value_name = "FILE", requires = "proxy_client_cert_file")]
    pub proxy_client_key_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct Policy {
    /// Ordered list of authorizers: Node, RBAC, AlwaysDeny. There is no way to allow everything.
    #[arg(long, value_name = "MODES", value_delimiter = ',', default_value = "Node,RBAC", value_parser = ["Node", "RBAC", "AlwaysDeny"])]
    pub authorization_mode: Vec<String>,
    /// Admission plugins that should be enabled in addition to the default ones.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', action = clap::ArgAction::Append)]
    pub enable_admission_plugins: Vec<String>,
    /// Admission plugins that should be disabled although they are enabled by default.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', action = clap::ArgAction::Append)]
    pub disable_admission_plugins: Vec<String>,
    /// If true, allow privileged containers.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub allow_privileged: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Network {
    /// CIDRs from which Services get their cluster addresses (at most two, of different families).
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    pub service_cluster_ip_range: Vec<IpNet>,
    /// Ports reserved for Services of type NodePort, inclusive at both ends.
    #[arg(long, value_name = "RANGE", default_value = "30000-32767", value_parser = port_range)]
    pub service_node_port_range: PortRange,
    /// Client certificate for the kubelets.
    #[arg(long, value_name = "FILE", requires = "kubelet_client_key")]
    pub kubelet_client_certificate: Option<PathBuf>,
    /// Private key of --kubelet-client-certificate.
    #[arg(long, value_name = "FILE", requires = "kubelet_client_certificate")]
    pub kubelet_client_key: Option<PathBuf>,
    /// Authorities that sign the kubelets' serving certificates.
    #[arg(long, value_name = "FILE")]
    pub kubelet_certificate_authority: Option<PathBuf>,
    /// Preferred order of node address types for connections to kubelets.
    #[arg(long, value_name = "TYPES", value_delimiter = ',', default_value = "Hostname,InternalDNS,InternalIP,ExternalDNS,ExternalIP", value_parser = ["Hostname", "InternalDNS", "InternalIP", "ExternalDNS", "ExternalIP"])]
    pub kubelet_preferred_address_types: Vec<String>,
    /// Timeout for kubelet operations.
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    pub kubelet_timeout: GoDuration,
    /// Endpoint reconciler: lease or none.
    #[arg(long, value_name = "NAME", default_value = "lease", value_parser = ["lease", "none"])]
    pub endpoint_reconciler_type: String,
    /// Whether aggregated requests go to endpoint addresses instead of cluster addresses.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_aggregator_routing: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Api {
    /// Group-versions to switch on or off: api/all=true|false, api/ga=…, api/beta=…, api/alpha=…, group/version=….
    #[arg(long, value_name = "KEY=BOOL", default_value = "", value_parser = bool_map)]
    pub runtime_config: BTreeMap<String, bool>,
    /// Feature gates (name=true|false). Only stable features exist here, so a gate can be named but not changed.
    #[arg(long, value_name = "KEY=BOOL", default_value = "", value_parser = bool_map)]
    pub feature_gates: BTreeMap<String, bool>,
    /// Serve profiles at /debug/pprof. There are none, so only false is possible.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub profiling: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Logs {
    /// Number for the log level verbosity.
    #[arg(short = 'v', long = "v", value_name = "LEVEL", default_value = "0", value_parser = no_plus)]
    pub v: i32,
    /// Log format: text or json.
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"])]
    pub logging_format: String,
}

impl Options {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    /// One line that names the flag, in upstream's wording where upstream has one. `Ok(None)` when help was asked for
    /// and has been printed.
    pub fn parse_args(args: impl IntoIterator<Item = String>) -> Result<Option<Self>, String> {
        let args = std::iter::once("kube-apiserver".to_owned()).chain(args);
        let matches = match Self::command().try_get_matches_from(args) {
            Ok(matches) => matches,
            Err(error) if error.kind() == clap::error::ErrorKind::DisplayHelp => {
                error.print().map_err(|error| error.to_string())?;
                return Ok(None);
            }
            Err(error) => return Err(parse::one_line(&error)),
        };
        Self::from_arg_matches(&matches)
            .map(Some)
            .map_err(|error| parse::one_line(&error))
    }

    /// Every fault that can be seen without opening a file, upstream's texts where it has them.
    #[must_use]
    pub fn validate(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.etcd.etcd_servers.is_empty() {
            faults.push("--etcd-servers must be specified".to_owned());
        }
        for server in &self.etcd.etcd_servers {
            if !server.starts_with("http://") && !server.starts_with("https://") {
                faults.push(format!(
                    "--etcd-servers: {server:?} must start with http:// or https://"
                ));
            }
        }
        if self.etcd.etcd_certfile.is_some() != self.etcd.etcd_keyfile.is_some() {
            faults.push("--etcd-certfile and --etcd-keyfile must be specified together".to_owned());
        }
        if !self.etcd.etcd_prefix.starts_with('/') {
            faults.push("--etcd-prefix must start with /".to_owned());
        }
        if self.authentication.service_account_issuer.is_empty() {
            faults.push("--service-account-issuer is a required flag".to_owned());
        }
        if self.authentication.service_account_signing_key_file.is_none() {
            faults.push("--service-account-signing-key-file is a required flag".to_owned());
        }
        let maximum = self.authentication.service_account_max_token_expiration.0.as_secs();
        if maximum != 0 && !(3600..=1 << 32).contains(&maximum) {
            faults.push("the service-account-max-token-expiration must be between 1 hour and 2^32 seconds".to_owned());
        }
        let ranges = &self.network.service_cluster_ip_range;
        match ranges.as_slice() {
            [] | [_] => {}
            [first, second] if first.addr().is_ipv4() != second.addr().is_ipv4() => {}
            [_, _] => faults.push(
                "--service-cluster-ip-range[0] and --service-cluster-ip-range[1] must be of different IP family"
                    .to_owned(),
            ),
            _ => faults.push("--service-cluster-ip-range must not contain more than two entries".to_owned()),
        }
        for range in ranges {
            let hosts = u32::from(range.max_prefix_len()) - u32::from(range.prefix_len());
            if hosts < 3 {
                faults.push(format!(
                    "--service-cluster-ip-range {range}: must contain at least 8 IP addresses"
                ));
            }
        }
        if let Some(gate) = self.api.feature_gates.keys().next() {
            faults.push(format!("--feature-gates: unrecognized feature gate: {gate}"));
        }
        if self.api.profiling {
            faults.push(
                "--profiling: this server has no profiles to serve, only --profiling=false is possible".to_owned(),
            );
        }
        if !(-1..=30).contains(&self.logs.v) {
            faults.push(format!("--v: {} is not a level between -1 and 30", self.logs.v));
        }
        faults
    }

    /// The Services' ranges, with upstream's default when none was given.
    #[must_use]
    pub fn service_ranges(&self) -> Vec<IpNet> {
        if self.network.service_cluster_ip_range.is_empty() {
            vec![IpNet::new_assert(IpAddr::from([10, 0, 0, 0]), 24)]
        } else {
            self.network.service_cluster_ip_range.iter().map(IpNet::trunc).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Options, String> {
        Options::parse_args(args.iter().map(|arg| (*arg).to_owned())).map(|options| options.expect("not help"))
    }

    #[test]
    fn an_unknown_flag_is_named() {
        assert_eq!(
            parse(&["--insecure-port=8080"]).unwrap_err(),
            "unknown flag: --insecure-port"
        );
    }

    #[test]
    fn a_bad_value_names_the_flag_and_the_value() {
        let error = parse(&["--secure-port=http"]).unwrap_err();
        assert!(error.contains("--secure-port") && error.contains("http"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }

    #[test]
    fn upstreams_ways_to_write_booleans_and_durations_are_read() {
        let options = parse(&[
            "--anonymous-auth=false",
            "--allow-privileged",
            "--request-timeout=1m30s",
        ])
        .expect("valid");
        assert_eq!(options.authentication.anonymous_auth, Some(false));
        assert!(options.policy.allow_privileged);
        assert_eq!(options.limits.request_timeout.0.as_secs(), 90);
    }

    #[test]
    fn nothing_can_allow_everything() {
        let error = parse(&["--authorization-mode=AlwaysAllow"]).unwrap_err();
        assert!(error.contains("--authorization-mode"), "{error}");
    }

    #[test]
    fn what_is_missing_is_listed() {
        let faults = parse(&[]).expect("parses").validate();
        assert!(
            faults.contains(&"--etcd-servers must be specified".to_owned()),
            "{faults:?}"
        );
        assert!(
            faults.contains(&"--service-account-issuer is a required flag".to_owned()),
            "{faults:?}"
        );
    }
}
