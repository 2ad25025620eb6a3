//! `KubeletConfiguration` (kubelet.config.k8s.io/v1beta1), the fields that this agent honours.
//!
//! A key that is unknown, or known upstream but without effect here, is refused by name: what is accepted does what it
//! says. Defaults are upstream's. Durations are Go's texts (`10s`), times are kept as [`Duration`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use steersman_schema::quantity::Quantity;
use steersman_types::api::core::v1::Taint;

use crate::eviction;

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";

/// The file as a whole.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct KubeletConfiguration {
    pub api_version: String,
    pub kind: String,
    pub address: IpAddr,
    pub port: u16,
    pub authentication: Authentication,
    pub authorization: Authorization,
    pub tls_cert_file: Option<PathBuf>,
    pub tls_private_key_file: Option<PathBuf>,
    pub healthz_port: u16,
    pub healthz_bind_address: IpAddr,
    pub container_runtime_endpoint: String,
    #[serde(deserialize_with = "go_duration")]
    pub runtime_request_timeout: Duration,
    pub fail_cgroup_v1: bool,
    pub cgroup_driver: String,
    pub cgroup_root: String,
    #[serde(rename = "cgroupsPerQOS")]
    pub cgroups_per_qos: bool,
    /// What containers may put aside.
    pub memory_swap: MemorySwap,
    /// Whether a container over its memory limit loses one process only; `None` means no with cgroup v2, which can end it as
    /// a whole, and yes with v1.
    #[serde(rename = "singleProcessOOMKill")]
    pub single_process_oom_kill: Option<bool>,
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    pub resolv_conf: String,
    pub fail_swap_on: bool,
    pub oom_score_adj: i32,
    pub serialize_image_pulls: bool,
    pub max_parallel_image_pulls: Option<usize>,
    pub max_pods: u32,
    pub pods_per_core: u32,
    pub pod_pids_limit: i64,
    pub eviction_hard: BTreeMap<String, String>,
    pub eviction_soft: BTreeMap<String, String>,
    pub eviction_soft_grace_period: BTreeMap<String, String>,
    #[serde(deserialize_with = "go_duration")]
    pub eviction_pressure_transition_period: Duration,
    pub eviction_max_pod_grace_period: i64,
    pub eviction_minimum_reclaim: BTreeMap<String, String>,
    /// Whether hard thresholds that are not given keep their defaults.
    pub merge_default_eviction_settings: bool,
    /// Whether limits of ephemeral storage and of volumes end pods.
    pub local_storage_capacity_isolation: bool,
    /// File or folder of static pods.
    pub static_pod_path: Option<PathBuf>,
    #[serde(deserialize_with = "go_duration")]
    pub file_check_frequency: Duration,
    /// Where static pods are described besides; empty for nowhere.
    #[serde(rename = "staticPodURL")]
    pub static_pod_url: String,
    /// Headers of the request.
    #[serde(rename = "staticPodURLHeader")]
    pub static_pod_url_header: BTreeMap<String, Vec<String>>,
    #[serde(deserialize_with = "go_duration")]
    pub http_check_frequency: Duration,
    /// Whether the client certificate is renewed before it expires.
    pub rotate_certificates: bool,
    /// Whether the serving certificate is asked for at the API server, and renewed.
    #[serde(rename = "serverTLSBootstrap")]
    pub server_tls_bootstrap: bool,
    pub kube_reserved: BTreeMap<String, String>,
    pub system_reserved: BTreeMap<String, String>,
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: u32,
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub image_gc_low_threshold_percent: u32,
    #[serde(rename = "imageMinimumGCAge", deserialize_with = "go_duration")]
    pub image_minimum_gc_age: Duration,
    /// Zero for no limit.
    #[serde(rename = "imageMaximumGCAge", deserialize_with = "go_duration")]
    pub image_maximum_gc_age: Duration,
    /// Only `false`: this agent does not check kernel parameters.
    pub protect_kernel_defaults: bool,
    /// Where flex volume plugins would be; made, so that tools which place plugins there find it.
    pub volume_plugin_dir: PathBuf,
    #[serde(deserialize_with = "go_duration")]
    pub node_status_update_frequency: Duration,
    #[serde(deserialize_with = "go_duration")]
    pub node_status_report_frequency: Duration,
    pub node_lease_duration_seconds: i32,
    #[serde(deserialize_with = "go_duration")]
    pub sync_frequency: Duration,
    pub container_log_max_size: String,
    pub container_log_max_files: usize,
    #[serde(deserialize_with = "go_duration")]
    pub container_log_monitor_interval: Duration,
    #[serde(rename = "cpuCFSQuota")]
    pub cpu_cfs_quota: bool,
    #[serde(rename = "cpuCFSQuotaPeriod", deserialize_with = "go_duration")]
    pub cpu_cfs_quota_period: Duration,
    pub crash_loop_back_off: CrashLoopBackOff,
    pub register_node: bool,
    pub register_with_taints: Vec<Taint>,
    #[serde(rename = "providerID")]
    pub provider_id: String,
    pub seccomp_default: bool,
    pub pod_logs_dir: PathBuf,
    pub logging: Logging,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Authentication {
    pub anonymous: Anonymous,
    pub webhook: Webhook,
    pub x509: X509,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Anonymous {
    pub enabled: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Webhook {
    pub enabled: bool,
}

impl Default for Webhook {
    fn default() -> Self {
        Self { enabled: true }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct X509 {
    #[serde(rename = "clientCAFile")]
    pub client_ca_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Authorization {
    pub mode: String,
}

impl Default for Authorization {
    fn default() -> Self {
        Self { mode: "Webhook".into() }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct CrashLoopBackOff {
    #[serde(deserialize_with = "go_duration")]
    pub max_container_restart_period: Duration,
}

impl Default for CrashLoopBackOff {
    fn default() -> Self {
        Self {
            max_container_restart_period: Duration::from_secs(300),
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Logging {
    pub verbosity: Option<u8>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct MemorySwap {
    /// `NoSwap`, which is also meant by nothing, or `LimitedSwap`.
    pub swap_behavior: String,
}

impl MemorySwap {
    #[must_use]
    pub fn limited(&self) -> bool {
        self.swap_behavior == "LimitedSwap"
    }
}

impl Default for KubeletConfiguration {
    fn default() -> Self {
        Self {
            api_version: API_VERSION.into(),
            kind: "KubeletConfiguration".into(),
            address: IpAddr::from([0, 0, 0, 0]),
            port: 10250,
            authentication: Authentication::default(),
            authorization: Authorization::default(),
            tls_cert_file: None,
            tls_private_key_file: None,
            healthz_port: 10248,
            healthz_bind_address: IpAddr::from([127, 0, 0, 1]),
            container_runtime_endpoint: "unix:///run/containerd/containerd.sock".into(),
            runtime_request_timeout: Duration::from_secs(120),
            fail_cgroup_v1: true,
            cgroup_driver: "cgroupfs".into(),
            cgroup_root: String::new(),
            cgroups_per_qos: true,
            memory_swap: MemorySwap::default(),
            single_process_oom_kill: None,
            cluster_dns: Vec::new(),
            cluster_domain: String::new(),
            resolv_conf: "/etc/resolv.conf".into(),
            fail_swap_on: true,
            oom_score_adj: -999,
            serialize_image_pulls: true,
            max_parallel_image_pulls: None,
            max_pods: 110,
            pods_per_core: 0,
            pod_pids_limit: -1,
            eviction_hard: default_eviction_hard(),
            eviction_soft: BTreeMap::new(),
            eviction_soft_grace_period: BTreeMap::new(),
            eviction_pressure_transition_period: Duration::from_secs(300),
            eviction_max_pod_grace_period: 0,
            eviction_minimum_reclaim: BTreeMap::new(),
            merge_default_eviction_settings: false,
            local_storage_capacity_isolation: true,
            static_pod_path: None,
            file_check_frequency: Duration::from_secs(20),
            static_pod_url: String::new(),
            static_pod_url_header: BTreeMap::new(),
            http_check_frequency: Duration::from_secs(20),
            rotate_certificates: false,
            server_tls_bootstrap: false,
            kube_reserved: BTreeMap::new(),
            system_reserved: BTreeMap::new(),
            image_gc_high_threshold_percent: 85,
            image_gc_low_threshold_percent: 80,
            image_minimum_gc_age: Duration::from_secs(120),
            image_maximum_gc_age: Duration::ZERO,
            protect_kernel_defaults: false,
            volume_plugin_dir: "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/".into(),
            node_status_update_frequency: Duration::from_secs(10),
            node_status_report_frequency: Duration::from_secs(300),
            node_lease_duration_seconds: 40,
            sync_frequency: Duration::from_secs(60),
            container_log_max_size: "10Mi".into(),
            container_log_max_files: 5,
            container_log_monitor_interval: Duration::from_secs(10),
            cpu_cfs_quota: true,
            cpu_cfs_quota_period: Duration::from_millis(100),
            crash_loop_back_off: CrashLoopBackOff::default(),
            register_node: true,
            register_with_taints: Vec::new(),
            provider_id: String::new(),
            seccomp_default: false,
            pod_logs_dir: "/var/log/pods".into(),
            logging: Logging::default(),
        }
    }
}

fn default_eviction_hard() -> BTreeMap<String, String> {
    let hard = [
        ("memory.available", "100Mi"),
        ("nodefs.available", "10%"),
        ("nodefs.inodesFree", "5%"),
        ("imagefs.available", "15%"),
        ("imagefs.inodesFree", "5%"),
    ];
    hard.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// A number of nanoseconds or Go's text, as upstream's durations read.
fn go_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    steersman_runtime::flags::duration(&text).map_err(serde::de::Error::custom)
}

impl KubeletConfiguration {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// One line that names the file and what is wrong with it.
    pub fn load(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            format!(
                "failed to load kubelet config file, path: {}, error: {e}",
                path.display()
            )
        })?;
        Self::parse(&text).map_err(|e| {
            format!(
                "failed to load kubelet config file, path: {}, error: {e}",
                path.display()
            )
        })
    }

    /// # Errors
    /// One line per file: syntax, an unknown key, or the first value that makes no sense.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut config: Self = serde_saphyr::from_str(text).map_err(|e| one_line(&e.to_string()))?;
        if config.merge_default_eviction_settings {
            let given = std::mem::replace(&mut config.eviction_hard, default_eviction_hard());
            config.eviction_hard.extend(given);
        }
        match config.validate().first() {
            Some(error) => Err(error.clone()),
            None => Ok(config),
        }
    }

    /// Everything that is wrong, in upstream's words where it has some.
    #[must_use]
    pub fn validate(&self) -> Vec<String> {
        let mut errors = Vec::new();
        let mut refuse = |wrong: bool, text: String| {
            if wrong {
                errors.push(format!("invalid configuration: {text}"));
            }
        };
        refuse(
            self.api_version != API_VERSION,
            format!("apiVersion must be {API_VERSION}, not {:?}", self.api_version),
        );
        refuse(
            self.kind != "KubeletConfiguration",
            format!("kind must be KubeletConfiguration, not {:?}", self.kind),
        );
        refuse(self.port == 0, "port must be between 1 and 65535, inclusive".into());
        refuse(
            self.cgroup_driver != "cgroupfs",
            format!(
                "cgroupDriver {:?} is not supported by this agent: only cgroupfs is",
                self.cgroup_driver
            ),
        );
        refuse(
            !self.cgroups_per_qos,
            "cgroupsPerQOS: false is not supported by this agent".into(),
        );
        let swap = &self.memory_swap.swap_behavior;
        refuse(
            !matches!(swap.as_str(), "" | "NoSwap" | "LimitedSwap"),
            format!("memorySwap.swapBehavior {swap:?} must be one of: \"\", \"LimitedSwap\" or \"NoSwap\""),
        );
        refuse(
            self.protect_kernel_defaults,
            "protectKernelDefaults: true is not supported by this agent".into(),
        );
        refuse(
            self.authorization.mode != "Webhook",
            format!(
                "authorization.mode {:?} is not supported by this agent: only Webhook is",
                self.authorization.mode
            ),
        );
        refuse(
            self.authentication.anonymous.enabled,
            "authentication.anonymous.enabled: true is not supported by this agent".into(),
        );
        let (high, low) = (
            self.image_gc_high_threshold_percent,
            self.image_gc_low_threshold_percent,
        );
        refuse(
            high > 100,
            format!("imageGCHighThresholdPercent {high} must be between 0 and 100, inclusive"),
        );
        refuse(
            low >= high,
            format!("imageGCLowThresholdPercent {low} must be less than imageGCHighThresholdPercent {high}"),
        );
        refuse(
            self.node_lease_duration_seconds <= 0,
            format!(
                "nodeLeaseDurationSeconds {} must be greater than 0",
                self.node_lease_duration_seconds
            ),
        );
        refuse(
            !(-1000..=1000).contains(&self.oom_score_adj),
            format!(
                "oomScoreAdj {} must be between -1000 and 1000, inclusive",
                self.oom_score_adj
            ),
        );
        refuse(
            self.container_log_max_files < 2,
            format!(
                "containerLogMaxFiles {} must be greater than 1",
                self.container_log_max_files
            ),
        );
        refuse(
            Quantity::parse(&self.container_log_max_size).is_err(),
            format!(
                "containerLogMaxSize {:?} is not a quantity",
                self.container_log_max_size
            ),
        );
        for (name, amounts) in [
            ("kubeReserved", &self.kube_reserved),
            ("systemReserved", &self.system_reserved),
        ] {
            for (resource, amount) in amounts {
                refuse(
                    Quantity::parse(amount).is_err(),
                    format!("{name}: {resource}: {amount:?} is not a quantity"),
                );
            }
        }
        if let Err(e) = eviction::threshold::thresholds(self) {
            refuse(true, format!("evictionHard, evictionSoft: {e}"));
        }
        refuse(
            self.container_log_monitor_interval < Duration::from_secs(3),
            format!(
                "containerLogMonitorInterval {:?} must be greater than or equal to 3s",
                self.container_log_monitor_interval
            ),
        );
        refuse(
            !self.image_maximum_gc_age.is_zero() && self.image_maximum_gc_age <= self.image_minimum_gc_age,
            "imageMaximumGCAge must be greater than imageMinimumGCAge".into(),
        );
        refuse(
            self.server_tls_bootstrap && self.tls_cert_file.is_some(),
            "serverTLSBootstrap and tlsCertFile exclude one another".into(),
        );
        refuse(
            self.tls_cert_file.is_some() != self.tls_private_key_file.is_some(),
            "tlsCertFile and tlsPrivateKeyFile must be given together".into(),
        );
        refuse(
            self.max_parallel_image_pulls == Some(0),
            "maxParallelImagePulls 0 must be a positive number".into(),
        );
        refuse(
            self.serialize_image_pulls && self.max_parallel_image_pulls.is_some_and(|n| n > 1),
            "maxParallelImagePulls cannot be larger than 1 unless serializeImagePulls is set to false".into(),
        );
        errors
    }
}

/// The parser adds the file's text after an arrow and lists all keys after an unknown one: too much for one line.
fn one_line(text: &str) -> String {
    let text = text.split(" -->").next().unwrap_or_default();
    let text = text.split(", expected one of").next().unwrap_or_default();
    text.trim_start_matches("error: ")
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

    #[test]
    fn the_test_clusters_file_is_understood() {
        let text = format!(
            "{HEAD}address: 0.0.0.0\nauthentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: /pki/ca.crt}}}}\n\
             authorization: {{mode: Webhook}}\nfailCgroupV1: false\ncgroupRoot: /n1\nclusterDNS: [\"10.232.0.10\"]\nclusterDomain: cluster.local\n\
             serializeImagePulls: false\nevictionHard: {{\"memory.available\": \"100Mi\"}}\nnodeStatusUpdateFrequency: 5s\ncpuCFSQuotaPeriod: 100ms\n"
        );
        let config = KubeletConfiguration::parse(&text).unwrap();
        assert_eq!(config.cluster_dns, [IpAddr::from([10, 232, 0, 10])]);
        assert_eq!(
            config.authentication.x509.client_ca_file.as_deref(),
            Some(Path::new("/pki/ca.crt"))
        );
        assert_eq!(config.node_status_update_frequency, Duration::from_secs(5));
        assert_eq!((config.max_pods, config.port), (110, 10250));
        assert!(!config.memory_swap.limited() && config.single_process_oom_kill.is_none());
        let more = format!("{HEAD}memorySwap: {{swapBehavior: LimitedSwap}}\nsingleProcessOOMKill: true\n");
        let config = KubeletConfiguration::parse(&more).unwrap();
        assert!(config.memory_swap.limited() && config.single_process_oom_kill == Some(true));
    }

    #[test]
    fn unknown_keys_and_senseless_values_are_refused_by_name() {
        for (text, part) in [
            ("maxpods: 5\n", "maxpods"),
            (
                "imageGCLowThresholdPercent: 90\n",
                "imageGCLowThresholdPercent 90 must be less than",
            ),
            ("cgroupDriver: systemd\n", "cgroupDriver"),
            (
                "memorySwap: {swapBehavior: UnlimitedSwap}\n",
                "memorySwap.swapBehavior \"UnlimitedSwap\" must be one of",
            ),
            ("port: 0\n", "port must be between"),
            ("syncFrequency: soon\n", "soon"),
            (
                "containerLogMaxSize: big\n",
                "containerLogMaxSize \"big\" is not a quantity",
            ),
            (
                "evictionHard: {\"memory.available\": much}\n",
                "quantities must match the regular expression",
            ),
        ] {
            let error = KubeletConfiguration::parse(&format!("{HEAD}{text}")).unwrap_err();
            assert!(
                error.contains(part) && !error.contains('\n') && error.len() < 200,
                "{error}"
            );
        }
    }
}
