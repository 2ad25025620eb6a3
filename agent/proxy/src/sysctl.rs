//! Kernel settings that the configuration asks for. Failing to set one is a warning: in a network namespace some of them
//! can only be read.

use std::time::Duration;

use tracing::{info, warn};

use crate::config::Conntrack;

/// What to write: paths below `/proc/sys/net/netfilter` and values. Pure; `cores` is the number of processors.
#[must_use]
pub fn conntrack(settings: &Conntrack, cores: u32) -> Vec<(&'static str, String)> {
    let mut wanted = Vec::new();
    let per_core = settings.max_per_core.unwrap_or(32_768);
    if per_core > 0 {
        let max = per_core.saturating_mul(cores).max(settings.min.unwrap_or(131_072));
        wanted.push(("nf_conntrack_max", max.to_string()));
    }
    let mut timeout = |name, value: Option<Duration>, default: u64| {
        let seconds = value.map_or(default, |d| d.as_secs());
        if seconds > 0 {
            wanted.push((name, seconds.to_string()));
        }
    };
    timeout(
        "nf_conntrack_tcp_timeout_established",
        settings.tcp_established_timeout,
        24 * 3600,
    );
    timeout(
        "nf_conntrack_tcp_timeout_close_wait",
        settings.tcp_close_wait_timeout,
        3600,
    );
    timeout("nf_conntrack_udp_timeout", settings.udp_timeout, 0);
    timeout("nf_conntrack_udp_timeout_stream", settings.udp_stream_timeout, 0);
    if settings.tcp_be_liberal {
        wanted.push(("nf_conntrack_tcp_be_liberal", "1".to_owned()));
    }
    wanted
}

/// Writes what differs. `nf_conntrack_max` is only ever raised.
pub fn apply(wanted: &[(&'static str, String)]) {
    for (name, value) in wanted {
        let path = format!("/proc/sys/net/netfilter/{name}");
        let current = std::fs::read_to_string(&path).unwrap_or_default();
        let enough = *name == "nf_conntrack_max" && current.trim().parse::<u64>().ok() >= value.parse().ok();
        if current.trim() == value || enough {
            continue;
        }
        match std::fs::write(&path, value) {
            Ok(()) => info!(name, value, "Set sysctl"),
            Err(error) => warn!(name, value, %error, "could not set sysctl"),
        }
    }
}

/// Sets this process's `oom_score_adj`.
pub fn oom_score_adj(value: i32) {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", value.to_string()) {
        warn!(value, %error, "could not set oom_score_adj");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_upstream_s() {
        let wanted = conntrack(&Conntrack::default(), 2);
        let expected = [
            ("nf_conntrack_max", "131072".to_owned()),
            ("nf_conntrack_tcp_timeout_established", "86400".to_owned()),
            ("nf_conntrack_tcp_timeout_close_wait", "3600".to_owned()),
        ];
        assert_eq!(wanted, expected);
    }

    #[test]
    fn zero_leaves_things_as_they_are() {
        let zero = Some(Duration::ZERO);
        let settings = Conntrack {
            max_per_core: Some(0),
            tcp_established_timeout: zero,
            tcp_close_wait_timeout: zero,
            ..Conntrack::default()
        };
        assert_eq!(conntrack(&settings, 64), []);
    }
}
