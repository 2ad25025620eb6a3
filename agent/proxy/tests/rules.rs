//! What a Service becomes, as text.
#![allow(clippy::unwrap_used)]

mod common;

use std::fmt::Write;

use common::{node, service, settings, slice};
use serde_json::json;
use steersman_proxy::family::Family;
use steersman_proxy::rules::{Fragment, fragment};
use steersman_types::api::core::v1::Service;

fn text(fragment: &Fragment) -> String {
    let mut out = String::new();
    for (name, definition) in &fragment.sets {
        writeln!(out, "set {name} {{ {definition} }}").unwrap();
    }
    for (name, rules) in &fragment.chains {
        writeln!(out, "chain {name}").unwrap();
        for rule in rules {
            writeln!(out, "  {rule}").unwrap();
        }
    }
    for ((map, key), value) in &fragment.elements {
        writeln!(
            out,
            "{} {{ {key}{}{value} }}",
            map.name(),
            if value.is_empty() { "" } else { " : " }
        )
        .unwrap();
    }
    out
}

type Ready<'a> = (&'a str, &'a str, bool, bool, bool);
const HERE: Ready = ("10.231.1.2", "node-1", true, true, false);
const THERE: Ready = ("10.231.2.2", "node-2", true, true, false);
const ENDING_HERE: Ready = ("10.231.1.9", "node-1", false, true, true);
const UNREADY: Ready = ("10.231.1.8", "node-1", false, false, false);

fn of(service: &Service, endpoints: &[Ready]) -> String {
    let name = service.metadata.name.clone().unwrap();
    let slices = [slice(
        &name,
        json!({"name": "", "port": 8080, "protocol": "TCP"}),
        endpoints,
    )];
    text(&fragment(service, &slices, Family::V4, &node(), &settings()))
}

fn cluster_ip() -> Service {
    service(
        "web",
        json!({"clusterIP": "10.232.0.5", "ports": [{"port": 80, "protocol": "TCP"}]}),
    )
}

#[test]
fn a_cluster_ip_spreads_over_its_ready_endpoints() {
    let expected = "\
chain cluster/ns/web/tcp/80
  meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.231.1.2 . 8080, 1 : 10.231.2.2 . 8080 }
service-ips { 10.232.0.5 . tcp . 80 : goto cluster/ns/web/tcp/80 }
cluster-ips { 10.232.0.5 }
hairpin-connections { 10.231.1.2 . 10.231.1.2 . tcp . 8080 }
";
    assert_eq!(of(&cluster_ip(), &[HERE, THERE, UNREADY]), expected);
}

#[test]
fn without_any_endpoint_connections_are_refused() {
    let expected = "\
no-endpoint-services { 10.232.0.5 . tcp . 80 : goto reject-chain }
cluster-ips { 10.232.0.5 }
";
    assert_eq!(of(&cluster_ip(), &[]), expected);
    assert_eq!(of(&cluster_ip(), &[UNREADY]), expected);
}

#[test]
fn endpoints_that_terminate_but_serve_are_the_last_resort() {
    assert!(of(&cluster_ip(), &[ENDING_HERE, UNREADY]).contains("dnat to 10.231.1.9:8080"));
    assert!(!of(&cluster_ip(), &[ENDING_HERE, THERE]).contains("10.231.1.9"));
}

#[test]
fn session_affinity_gives_each_endpoint_a_chain_and_a_set() {
    let mut sticky = cluster_ip();
    sticky.spec.as_mut().unwrap().session_affinity = Some("ClientIP".into());
    let expected = "\
set endpoint/ns/web/tcp/80/10.231.1.2.8080/10800 { type ipv4_addr; flags dynamic,timeout; timeout 10800s; }
set endpoint/ns/web/tcp/80/10.231.2.2.8080/10800 { type ipv4_addr; flags dynamic,timeout; timeout 10800s; }
chain cluster/ns/web/tcp/80
  ip saddr @endpoint/ns/web/tcp/80/10.231.1.2.8080/10800 goto endpoint/ns/web/tcp/80/10.231.1.2.8080/10800
  ip saddr @endpoint/ns/web/tcp/80/10.231.2.2.8080/10800 goto endpoint/ns/web/tcp/80/10.231.2.2.8080/10800
  numgen random mod 2 vmap { 0 : goto endpoint/ns/web/tcp/80/10.231.1.2.8080/10800, 1 : goto endpoint/ns/web/tcp/80/10.231.2.2.8080/10800 }
chain endpoint/ns/web/tcp/80/10.231.1.2.8080/10800
  update @endpoint/ns/web/tcp/80/10.231.1.2.8080/10800 { ip saddr }
  meta l4proto tcp dnat to 10.231.1.2:8080
chain endpoint/ns/web/tcp/80/10.231.2.2.8080/10800
  update @endpoint/ns/web/tcp/80/10.231.2.2.8080/10800 { ip saddr }
  meta l4proto tcp dnat to 10.231.2.2:8080
service-ips { 10.232.0.5 . tcp . 80 : goto cluster/ns/web/tcp/80 }
cluster-ips { 10.232.0.5 }
hairpin-connections { 10.231.1.2 . 10.231.1.2 . tcp . 8080 }
";
    assert_eq!(of(&sticky, &[HERE, THERE]), expected);
}

#[test]
fn sctp_has_rules_of_its_own_beside_a_tcp_port_of_the_same_number() {
    let service = service(
        "core",
        json!({"type": "LoadBalancer", "clusterIP": "10.232.0.9", "externalIPs": ["192.0.2.9"],
            "externalTrafficPolicy": "Cluster", "loadBalancerSourceRanges": ["203.0.113.0/24"],
            "ports": [{"name": "s", "port": 38412, "nodePort": 30412, "protocol": "SCTP"},
                {"name": "t", "port": 38412, "nodePort": 30412, "protocol": "TCP"}]}),
    );
    let mut balanced = service.clone();
    balanced.status =
        serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.10"}]}})).expect("a status");
    let slices = [
        slice("core", json!({"name": "s", "port": 5000, "protocol": "SCTP"}), &[HERE]),
        slice("core", json!({"name": "t", "port": 6000, "protocol": "TCP"}), &[]),
    ];
    let expected = "\
chain cluster/ns/core/sctp/38412
  meta l4proto sctp dnat to 10.231.1.2:5000
chain external/ns/core/sctp/38412
  meta mark set meta mark or 0x00004000
  goto cluster/ns/core/sctp/38412
chain firewall/ns/core/sctp/38412
  ip saddr != { 203.0.113.0/24 } drop
chain firewall/ns/core/tcp/38412
  ip saddr != { 203.0.113.0/24 } drop
service-ips { 10.232.0.9 . sctp . 38412 : goto cluster/ns/core/sctp/38412 }
service-ips { 192.0.2.10 . sctp . 38412 : goto external/ns/core/sctp/38412 }
service-ips { 192.0.2.9 . sctp . 38412 : goto external/ns/core/sctp/38412 }
service-nodeports { sctp . 30412 : goto external/ns/core/sctp/38412 }
no-endpoint-services { 10.232.0.9 . tcp . 38412 : goto reject-chain }
no-endpoint-services { 192.0.2.10 . tcp . 38412 : goto reject-chain }
no-endpoint-services { 192.0.2.9 . tcp . 38412 : goto reject-chain }
no-endpoint-nodeports { tcp . 30412 : goto reject-chain }
firewall-ips { 192.0.2.10 . sctp . 38412 : goto firewall/ns/core/sctp/38412 }
firewall-ips { 192.0.2.10 . tcp . 38412 : goto firewall/ns/core/tcp/38412 }
cluster-ips { 10.232.0.9 }
hairpin-connections { 10.231.1.2 . 10.231.1.2 . sctp . 5000 }
";
    assert_eq!(
        text(&fragment(&balanced, &slices, Family::V4, &node(), &settings())),
        expected
    );
}

fn node_port(policy: &str) -> Service {
    service(
        "np",
        json!({"type": "NodePort", "clusterIP": "10.232.0.6", "externalTrafficPolicy": policy,
            "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]}),
    )
}

#[test]
fn a_node_port_under_cluster_policy_is_masqueraded() {
    let expected = "\
chain cluster/ns/np/tcp/80
  meta l4proto tcp dnat to 10.231.2.2:8080
chain external/ns/np/tcp/80
  meta mark set meta mark or 0x00004000
  goto cluster/ns/np/tcp/80
service-ips { 10.232.0.6 . tcp . 80 : goto cluster/ns/np/tcp/80 }
service-nodeports { tcp . 30080 : goto external/ns/np/tcp/80 }
cluster-ips { 10.232.0.6 }
";
    assert_eq!(of(&node_port("Cluster"), &[THERE]), expected);
}

#[test]
fn under_local_policy_outside_traffic_stays_on_the_node_and_keeps_its_source() {
    let rules = of(&node_port("Local"), &[HERE, THERE]);
    let expected = "\
chain external/ns/np/tcp/80
  ip saddr 10.231.0.0/16 goto cluster/ns/np/tcp/80
  fib saddr type local meta mark set meta mark or 0x00004000
  fib saddr type local goto cluster/ns/np/tcp/80
  goto local/ns/np/tcp/80
";
    assert!(rules.contains(expected), "{rules}");
    assert!(!rules.contains("no-endpoint"));
}

#[test]
fn under_local_policy_a_node_without_endpoints_drops_outside_traffic_but_serves_its_own() {
    let rules = of(&node_port("Local"), &[THERE]);
    assert!(
        rules.contains("no-endpoint-nodeports { tcp . 30080 : drop }"),
        "{rules}"
    );
    assert!(
        rules.contains("service-nodeports { tcp . 30080 : goto external/ns/np/tcp/80 }"),
        "{rules}"
    );
    assert!(!rules.contains("local/ns"), "{rules}");
}

#[test]
fn an_internal_local_service_uses_only_this_node_s_endpoints() {
    let mut local = cluster_ip();
    local.spec.as_mut().unwrap().internal_traffic_policy = Some("Local".into());
    let rules = of(&local, &[HERE, THERE]);
    assert!(
        rules.contains("service-ips { 10.232.0.5 . tcp . 80 : goto local/ns/web/tcp/80 }"),
        "{rules}"
    );
    let rules = of(&local, &[THERE]);
    assert!(
        rules.contains("no-endpoint-services { 10.232.0.5 . tcp . 80 : drop }"),
        "{rules}"
    );
}

#[test]
fn a_load_balancer_has_its_address_and_its_firewall() {
    let mut balancer = service(
        "lb",
        json!({"type": "LoadBalancer", "clusterIP": "10.232.0.7", "externalIPs": ["192.0.2.9"],
            "loadBalancerSourceRanges": ["203.0.113.0/24", "203.0.113.128/25"], "ports": [{"port": 80, "protocol": "TCP"}]}),
    );
    balancer.status = serde_json::from_value(
        json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "192.0.2.2", "ipMode": "Proxy"}]}}),
    )
    .unwrap();
    let rules = of(&balancer, &[THERE]);
    assert!(
        rules.contains("service-ips { 192.0.2.1 . tcp . 80 : goto external/ns/lb/tcp/80 }"),
        "{rules}"
    );
    assert!(
        rules.contains("service-ips { 192.0.2.9 . tcp . 80 : goto external/ns/lb/tcp/80 }"),
        "{rules}"
    );
    assert!(!rules.contains("192.0.2.2"), "{rules}");
    assert!(rules.contains("  ip saddr != { 203.0.113.0/24 } drop\n"), "{rules}");
    assert!(
        rules.contains("firewall-ips { 192.0.2.1 . tcp . 80 : goto firewall/ns/lb/tcp/80 }"),
        "{rules}"
    );
}

#[test]
fn headless_external_name_and_foreign_services_have_no_rules() {
    let headless = service("h", json!({"clusterIP": "None", "ports": [{"port": 80}]}));
    let named = service("e", json!({"type": "ExternalName", "externalName": "example.org"}));
    let mut foreign = cluster_ip();
    foreign.metadata.labels = Some(
        [(
            "service.kubernetes.io/service-proxy-name".to_owned(),
            "other".to_owned(),
        )]
        .into(),
    );
    for service in [headless, named, foreign] {
        assert_eq!(of(&service, &[HERE]), "");
    }
}

#[test]
fn ports_are_matched_by_name_and_protocol() {
    let service = service(
        "dns",
        json!({"clusterIP": "10.232.0.10", "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]}),
    );
    let slices = [
        slice("dns", json!({"name": "dns", "port": 5353, "protocol": "UDP"}), &[HERE]),
        slice(
            "dns",
            json!({"name": "dns-tcp", "port": 5354, "protocol": "TCP"}),
            &[THERE],
        ),
    ];
    let rules = text(&fragment(&service, &slices, Family::V4, &node(), &settings()));
    assert!(rules.contains("meta l4proto udp dnat to 10.231.1.2:5353"), "{rules}");
    assert!(rules.contains("meta l4proto tcp dnat to 10.231.2.2:5354"), "{rules}");
}

#[test]
fn zone_hints_count_only_when_every_endpoint_has_them() {
    let mut hinted = slice("web", json!({"name": "", "port": 8080}), &[HERE, THERE]);
    let zones = |zone: &str| serde_json::from_value(json!({"forZones": [{"name": zone}]})).unwrap();
    {
        let endpoints = std::sync::Arc::make_mut(&mut hinted).endpoints.as_mut().unwrap();
        endpoints[0].hints = Some(zones("a"));
        endpoints[1].hints = Some(zones("b"));
    }
    let rules = text(&fragment(
        &cluster_ip(),
        &[hinted.clone()],
        Family::V4,
        &node(),
        &settings(),
    ));
    assert!(rules.contains("dnat to 10.231.1.2:8080"), "{rules}");
    std::sync::Arc::make_mut(&mut hinted).endpoints.as_mut().unwrap()[1].hints = None;
    let rules = text(&fragment(&cluster_ip(), &[hinted], Family::V4, &node(), &settings()));
    assert!(rules.contains("mod 2"), "{rules}");
}

#[test]
fn node_hints_win_over_zone_hints_where_there_is_one_for_us() {
    let mut hinted = slice("web", json!({"name": "", "port": 8080}), &[HERE, THERE]);
    let hint = |zone: &str, node: &str| {
        serde_json::from_value(json!({"forZones": [{"name": zone}], "forNodes": [{"name": node}]})).unwrap()
    };
    {
        let endpoints = std::sync::Arc::make_mut(&mut hinted).endpoints.as_mut().unwrap();
        endpoints[0].hints = Some(hint("a", "node-1"));
        endpoints[1].hints = Some(hint("a", "node-2"));
    }
    let at = |name: &str| {
        let mut node = node();
        node.name = name.to_owned();
        text(&fragment(
            &cluster_ip(),
            &[hinted.clone()],
            Family::V4,
            &node,
            &settings(),
        ))
    };
    assert!(at("node-1").contains("dnat to 10.231.1.2:8080"), "{}", at("node-1"));
    assert!(at("node-2").contains("dnat to 10.231.2.2:8080"), "{}", at("node-2"));
    // Nothing for this node, but both for its zone.
    assert!(at("node-3").contains("mod 2"), "{}", at("node-3"));
}

#[test]
fn a_new_pod_is_preferred_to_a_terminating_one_with_the_same_address() {
    let gone = ("10.231.1.2", "node-1", false, true, true);
    let coming = ("10.231.1.2", "node-1", false, false, false);
    for endpoints in [[gone, coming], [coming, gone]] {
        let rules = of(&cluster_ip(), &endpoints);
        assert!(rules.contains("no-endpoint-services"), "{rules}");
    }
}

fn balancer(ranges: serde_json::Value) -> Service {
    let mut balancer = service(
        "lb",
        json!({"type": "LoadBalancer", "clusterIP": "10.232.0.7", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30999,
            "loadBalancerSourceRanges": ranges, "ports": [{"name": "a", "port": 80, "protocol": "TCP"}, {"name": "b", "port": 81, "protocol": "TCP"}]}),
    );
    balancer.status = serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}})).unwrap();
    balancer
}

#[test]
fn a_firewall_that_lets_the_node_in_lets_the_balancer_s_address_in() {
    let rules = |ranges| text(&fragment(&balancer(ranges), &[], Family::V4, &node(), &settings()));
    let allowed = rules(json!(["198.18.30.0/24"]));
    assert!(
        allowed.contains("ip saddr != { 192.0.2.1, 198.18.30.0/24 } drop"),
        "{allowed}"
    );
    let everybody = rules(json!(["198.51.100.0/24", " 0.0.0.0/0 "]));
    assert!(!everybody.contains("firewall"), "{everybody}");
    // The other family's ranges say nothing about this one.
    assert!(!rules(json!(["2001:db8::/32"])).contains("firewall"));
}

#[test]
fn load_balancers_learn_how_many_ready_endpoints_this_node_has() {
    let check = |endpoints: &[Ready]| {
        let slices = [
            slice("lb", json!({"name": "a", "port": 8080, "protocol": "TCP"}), endpoints),
            slice("lb", json!({"name": "b", "port": 8081, "protocol": "TCP"}), endpoints),
        ];
        let fragment = fragment(&balancer(json!([])), &slices, Family::V4, &node(), &settings());
        fragment.health_check.map(|check| (check.port, check.local.len()))
    };
    assert_eq!(check(&[HERE, THERE, UNREADY, ENDING_HERE]), Some((30999, 1)));
    assert_eq!(check(&[THERE]), Some((30999, 0)));
    let slices = [slice(
        "np",
        json!({"name": "", "port": 8080, "protocol": "TCP"}),
        &[HERE],
    )];
    let none = fragment(&node_port("Local"), &slices, Family::V4, &node(), &settings());
    assert_eq!(none.health_check, None);
}

#[test]
fn udp_remembers_everybody_who_serves_whatever_the_policy() {
    let service = service(
        "u",
        json!({"type": "NodePort", "clusterIP": "10.232.0.8", "externalIPs": ["192.0.2.9"], "internalTrafficPolicy": "Local",
            "ports": [{"port": 53, "nodePort": 30053, "protocol": "UDP"}]}),
    );
    let slices = [slice(
        "u",
        json!({"name": "", "port": 5353, "protocol": "UDP"}),
        &[HERE, THERE, ENDING_HERE, UNREADY],
    )];
    let found = fragment(&service, &slices, Family::V4, &node(), &settings()).udp;
    let serving: Vec<String> = found.values().next().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(serving, ["10.231.1.2:5353", "10.231.1.9:5353", "10.231.2.2:5353"]);
    let fronts: Vec<String> = found.keys().map(|front| format!("{front:?}")).collect();
    assert_eq!(
        fronts,
        ["Address(10.232.0.8:53)", "Address(192.0.2.9:53)", "NodePort(30053)"]
    );
    assert!(found.values().all(|s| s.len() == 3));
}

#[test]
fn the_common_part_masquerades_strangers_and_drops_addresses_of_nobody() {
    let ranges = ["10.232.0.0/16".parse().unwrap(), "fd01::/112".parse().unwrap()];
    let commands = steersman_proxy::base::commands(Family::V4, &node(), &settings(), &ranges);
    let script = steersman_proxy::table::script(Family::V4, &commands);
    for line in [
        "services ip daddr @cluster-ips ip saddr != 10.231.0.0/16 meta mark set meta mark or 0x00004000",
        "cluster-ips-check ip daddr @cluster-ips reject",
        "cluster-ips-check ip daddr { 10.232.0.0/16 } drop",
    ] {
        assert!(script.contains(&format!("add rule ip kube-proxy {line}\n")), "{script}");
    }
    let refused = script.find("@cluster-ips reject").unwrap();
    assert!(
        refused < script.find("} drop").unwrap(),
        "a used address is refused, an unused one is silent"
    );
}
