//! Flags that say the same as a field of the configuration; a flag that is given counts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use steersman_runtime::flags::duration;

use crate::config::KubeletConfiguration;

/// Pairs given by a flag.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pairs(pub BTreeMap<String, String>);

fn pairs(text: &str, separator: char) -> Result<Pairs, String> {
    let split = |pair: &str| {
        let (name, value) = pair
            .split_once(separator)
            .ok_or_else(|| format!("malformed pair, expect string{separator}string"))?;
        Ok((name.trim().to_owned(), value.trim().to_owned()))
    };
    let all: Result<BTreeMap<_, _>, String> = text.split(',').filter(|p| !p.is_empty()).map(split).collect();
    all.map(Pairs)
}

fn below(text: &str) -> Result<Pairs, String> {
    pairs(text, '<')
}

fn equals(text: &str) -> Result<Pairs, String> {
    pairs(text, '=')
}

/// Headers given by a flag: names, each with its values in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(pub BTreeMap<String, Vec<String>>);

fn headers(text: &str) -> Result<Headers, String> {
    let mut all = Headers::default();
    for pair in text.split(',').filter(|p| !p.is_empty()) {
        let (name, value) = pair
            .split_once(':')
            .ok_or_else(|| "malformed pair, expect string:string".to_owned())?;
        all.0
            .entry(name.trim().to_owned())
            .or_default()
            .push(value.trim().to_owned());
    }
    Ok(all)
}

/// See the module.
#[derive(Args, Debug, Clone, Default)]
pub struct Overrides {
    /// A set of eviction thresholds (e.g. memory.available<1Gi) that if met would trigger a pod eviction.
    #[arg(long, value_parser = below, value_name = "THRESHOLDS")]
    pub eviction_hard: Option<Pairs>,
    /// A set of eviction thresholds (e.g. memory.available<1.5Gi) that if met over a corresponding grace period would
    /// trigger a pod eviction.
    #[arg(long, value_parser = below, value_name = "THRESHOLDS")]
    pub eviction_soft: Option<Pairs>,
    /// A set of eviction grace periods (e.g. memory.available=1m30s) that correspond to how long a soft eviction
    /// threshold must hold before triggering a pod eviction.
    #[arg(long, value_parser = equals, value_name = "PERIODS")]
    pub eviction_soft_grace_period: Option<Pairs>,
    /// A set of minimum reclaims (e.g. imagefs.available=2Gi) that describes the minimum amount of resource the kubelet
    /// will reclaim when performing a pod eviction if that resource is under pressure.
    #[arg(long, value_parser = equals, value_name = "AMOUNTS")]
    pub eviction_minimum_reclaim: Option<Pairs>,
    /// Duration for which the kubelet has to wait before transitioning out of an eviction pressure condition.
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub eviction_pressure_transition_period: Option<Duration>,
    /// Maximum allowed grace period (in seconds) to use when terminating pods in response to a soft eviction threshold
    /// being met.
    #[arg(long, allow_negative_numbers = true, value_name = "SECONDS")]
    pub eviction_max_pod_grace_period: Option<i64>,
    /// Path to the directory containing static pod files to run, or the path to a single static pod file.
    #[arg(long, value_name = "PATH")]
    pub pod_manifest_path: Option<PathBuf>,
    /// Duration between checking the static pods' files for new data.
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub file_check_frequency: Option<Duration>,
    /// URL for accessing additional Pod specifications to run.
    #[arg(long, value_name = "URL")]
    pub manifest_url: Option<String>,
    /// Comma-separated list of HTTP headers to use when accessing the url provided to --manifest-url. Multiple headers
    /// with the same name will be added in the same order provided. This flag can be repeatedly invoked. For example:
    /// --manifest-url-header 'a:hello,b:again,c:world' --manifest-url-header 'b:beautiful'
    #[arg(long, value_parser = headers, value_name = "HEADERS")]
    pub manifest_url_header: Vec<Headers>,
    /// Duration between checking http for new data.
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub http_check_frequency: Option<Duration>,
    /// Auto rotate the kubelet client certificates by requesting new certificates from the kube-apiserver when the
    /// certificate expiration approaches.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub rotate_certificates: Option<bool>,
    /// Auto-request and rotate the kubelet serving certificates by requesting new certificates from the kube-apiserver
    /// when the certificate expiration approaches.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub rotate_server_certificates: Option<bool>,
    /// Maximum size (e.g. 10Mi) of a container's log file before it is rotated.
    #[arg(long, value_name = "SIZE")]
    pub container_log_max_size: Option<String>,
    /// Maximum number of log files that can be present for a container, at least 2.
    #[arg(long, value_name = "NUMBER")]
    pub container_log_max_files: Option<usize>,
    /// The percent of disk usage after which image garbage collection is always run.
    #[arg(long, value_name = "PERCENT")]
    pub image_gc_high_threshold: Option<u32>,
    /// The percent of disk usage before which image garbage collection is never run.
    #[arg(long, value_name = "PERCENT")]
    pub image_gc_low_threshold: Option<u32>,
    /// Number of pods that can run on this node.
    #[arg(long, value_name = "NUMBER")]
    pub max_pods: Option<u32>,
}

impl Overrides {
    /// The configuration with the flags in it.
    ///
    /// # Errors
    /// When a flag's value makes no sense; one line.
    pub fn apply(self, mut config: KubeletConfiguration) -> Result<KubeletConfiguration, String> {
        fn set<T>(field: &mut T, flag: Option<T>) {
            if let Some(value) = flag {
                *field = value;
            }
        }
        let Self {
            eviction_hard,
            eviction_soft,
            eviction_soft_grace_period,
            eviction_minimum_reclaim,
            eviction_pressure_transition_period,
            eviction_max_pod_grace_period,
            pod_manifest_path,
            file_check_frequency,
            manifest_url,
            manifest_url_header,
            http_check_frequency,
            rotate_certificates,
            rotate_server_certificates,
            container_log_max_size,
            container_log_max_files,
            image_gc_high_threshold,
            image_gc_low_threshold,
            max_pods,
        } = self;
        set(&mut config.eviction_hard, eviction_hard.map(|p| p.0));
        set(&mut config.eviction_soft, eviction_soft.map(|p| p.0));
        set(
            &mut config.eviction_soft_grace_period,
            eviction_soft_grace_period.map(|p| p.0),
        );
        set(
            &mut config.eviction_minimum_reclaim,
            eviction_minimum_reclaim.map(|p| p.0),
        );
        set(
            &mut config.eviction_pressure_transition_period,
            eviction_pressure_transition_period,
        );
        set(&mut config.eviction_max_pod_grace_period, eviction_max_pod_grace_period);
        if let Some(path) = pod_manifest_path {
            config.static_pod_path = Some(path);
        }
        set(&mut config.file_check_frequency, file_check_frequency);
        set(&mut config.static_pod_url, manifest_url);
        if !manifest_url_header.is_empty() {
            config.static_pod_url_header.clear();
        }
        for (name, values) in manifest_url_header.into_iter().flat_map(|h| h.0) {
            config.static_pod_url_header.entry(name).or_default().extend(values);
        }
        set(&mut config.http_check_frequency, http_check_frequency);
        set(&mut config.rotate_certificates, rotate_certificates);
        set(&mut config.server_tls_bootstrap, rotate_server_certificates);
        set(&mut config.container_log_max_size, container_log_max_size);
        set(&mut config.container_log_max_files, container_log_max_files);
        set(&mut config.image_gc_high_threshold_percent, image_gc_high_threshold);
        set(&mut config.image_gc_low_threshold_percent, image_gc_low_threshold);
        set(&mut config.max_pods, max_pods);
        match config.validate().into_iter().next() {
            Some(error) => Err(error),
            None => Ok(config),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        overrides: Overrides,
    }

    fn parse(args: &[&str]) -> Result<KubeletConfiguration, String> {
        let program = Program::try_parse_from([&["kubelet"], args].concat()).map_err(|e| e.to_string())?;
        program.overrides.apply(KubeletConfiguration::default())
    }

    #[test]
    fn flags_come_before_the_file() {
        let config = parse(&[
            "--eviction-hard=memory.available<1Gi,nodefs.available<5%",
            "--eviction-soft=pid.available<10",
            "--eviction-soft-grace-period=pid.available=1m30s",
            "--eviction-pressure-transition-period=30s",
            "--pod-manifest-path=/etc/static",
            "--manifest-url=http://127.0.0.1/pods",
            "--manifest-url-header=a:hello,b:again,c:world",
            "--manifest-url-header=b:beautiful",
            "--rotate-certificates",
            "--rotate-server-certificates=false",
            "--container-log-max-size=1Mi",
        ])
        .unwrap();
        assert_eq!(config.eviction_hard["nodefs.available"], "5%");
        assert_eq!(config.eviction_hard.len(), 2, "instead of the defaults");
        assert_eq!(config.eviction_pressure_transition_period, Duration::from_secs(30));
        assert_eq!(config.static_pod_path, Some("/etc/static".into()));
        assert_eq!(config.static_pod_url, "http://127.0.0.1/pods");
        assert_eq!(config.static_pod_url_header["b"], ["again", "beautiful"]);
        assert!(config.rotate_certificates && !config.server_tls_bootstrap);
        assert_eq!(config.container_log_max_size, "1Mi");
    }

    #[test]
    fn senseless_flags_are_refused() {
        for (flag, part) in [
            (
                "--eviction-hard=memory.available=1Gi",
                "malformed pair, expect string<string",
            ),
            ("--manifest-url-header=a", "malformed pair, expect string:string"),
            ("--eviction-hard=disk<1Gi", "unsupported eviction signal disk"),
            ("--eviction-soft=memory.available<1Gi", "grace period must be specified"),
            ("--container-log-max-files=1", "must be greater than 1"),
        ] {
            let error = parse(&[flag]).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
