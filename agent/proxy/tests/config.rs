//! The configuration file is read as upstream's, and what is not understood is said in one line.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use steersman_proxy::config::{Configuration, NodeView};
use steersman_proxy::family::Family;

fn parse(text: &str) -> Result<Configuration, String> {
    Configuration::parse(&format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{text}"
    ))
}

#[test]
fn a_full_file_is_understood() {
    let configuration = parse(
        "mode: nftables\nclusterCIDR: 10.231.0.0/16\nhostnameOverride: node-1\nclientConnection: {kubeconfig: \"/a/b\"}\noomScoreAdj: 0\n\
         conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 1h}\n\
         nftables: {minSyncPeriod: 1s, syncPeriod: 30s, masqueradeBit: 15}\nportRange: \"\"\n",
    )
    .unwrap();
    assert_eq!(configuration.validate(), Ok(()));
    assert_eq!(configuration.nftables.min_sync_period, Some(Duration::from_secs(1)));
    assert_eq!(
        configuration.conntrack.tcp_close_wait_timeout,
        Some(Duration::from_secs(3600))
    );
    let settings = configuration.settings(&NodeView::default()).unwrap();
    assert_eq!(settings.mark_value(), "0x00008000");
    assert_eq!(
        settings.local_condition(Family::V4).as_deref(),
        Some("ip saddr 10.231.0.0/16")
    );
    assert_eq!(settings.local_condition(Family::V6), None);
}

#[test]
fn what_is_not_understood_is_one_line() {
    for (text, part) in [
        ("nonsense: 1\n", "nonsense"),
        ("mode: [\n", ""),
        ("conntrack: {min: x}\n", ""),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(part) && !error.contains('\n'), "{error}");
    }
    for (text, part) in [
        ("mode: ipvs\n", "KubeProxyConfiguration.Mode"),
        ("clusterCIDR: 10.0.0.0/99\n", "KubeProxyConfiguration.ClusterCIDR"),
        ("detectLocalMode: Guess\n", "KubeProxyConfiguration.DetectLocalMode"),
        (
            "detectLocalMode: BridgeInterface\n",
            "KubeProxyConfiguration.DetectLocal.BridgeInterface",
        ),
        (
            "healthzBindAddress: here\n",
            "KubeProxyConfiguration.HealthzBindAddress",
        ),
    ] {
        let error = parse(text).unwrap().validate().unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn another_kind_is_refused() {
    let error = Configuration::parse("apiVersion: v1\nkind: Pod\n").unwrap_err();
    assert!(error.contains("Pod"), "{error}");
}
