//! The part of the table that belongs to no Service: hooks, dispatch, masquerading, refusing.
//!
//! It depends on this node's addresses and the settings only, so it is made anew together with the whole table and never
//! changed in between. Callers: [`crate::sync`].

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::config::{NodeView, Settings};
use crate::family::Family;
use crate::rules::Map;
use crate::table::Command;

/// Base chains: name and hook. Filtering of sources happens before addresses are translated, refusing after.
const HOOKS: [(&str, &str); 8] = [
    (
        "filter-prerouting-pre-dnat",
        "type filter hook prerouting priority -110;",
    ),
    ("filter-output-pre-dnat", "type filter hook output priority -110;"),
    ("filter-input", "type filter hook input priority 0;"),
    ("filter-forward", "type filter hook forward priority 0;"),
    ("filter-output", "type filter hook output priority 0;"),
    ("nat-prerouting", "type nat hook prerouting priority -100;"),
    ("nat-output", "type nat hook output priority -100;"),
    ("nat-postrouting", "type nat hook postrouting priority 100;"),
];

/// From which base chain to which chain of ours, and for which packets.
const JUMPS: [(&str, &str, &str); 11] = [
    ("filter-prerouting-pre-dnat", "ct state new", "firewall-check"),
    ("filter-output-pre-dnat", "ct state new", "firewall-check"),
    ("filter-input", "ct state new", "nodeport-endpoints-check"),
    ("filter-input", "ct state new", "service-endpoints-check"),
    ("filter-forward", "ct state new", "service-endpoints-check"),
    ("filter-forward", "ct state new", "cluster-ips-check"),
    ("filter-output", "ct state new", "service-endpoints-check"),
    ("filter-output", "ct state new", "cluster-ips-check"),
    ("nat-prerouting", "", "services"),
    ("nat-output", "", "services"),
    ("nat-postrouting", "", "masquerading"),
];

/// The commands, to be run right after the table and its maps exist. `services` are the ranges of cluster IPs.
#[must_use]
pub fn commands(family: Family, node: &NodeView, settings: &Settings, services: &[IpNet]) -> Vec<Command> {
    let ip = family.ip();
    let by_address = |map: Map| format!("{ip} daddr . meta l4proto . th dport vmap @{}", map.name());
    let cluster_ip = format!("{ip} daddr @{}", Map::ClusterIps.name());
    let mut rules: Vec<(&str, String)> = Vec::new();
    // Clients outside the cluster may reach cluster IPs through any node, whose answers must then come back here.
    if let Some(condition) = settings.masquerade_condition(family) {
        rules.push(("services", format!("{cluster_ip}{condition} {}", settings.mark())));
    }
    rules.extend([
        ("services", by_address(Map::ServiceIps)),
        ("service-endpoints-check", by_address(Map::NoEndpointServices)),
        ("firewall-check", by_address(Map::FirewallIps)),
        ("cluster-ips-check", format!("{cluster_ip} reject")),
        ("reject-chain", "reject".to_owned()),
        (
            "masquerading",
            format!(
                "meta mark and {mark} != 0 meta mark set meta mark xor {mark} masquerade fully-random",
                mark = settings.mark_value()
            ),
        ),
        // A pod that reaches itself must not see its own address as the client's: the answer would not come back here.
        (
            "masquerading",
            format!(
                "ct status dnat {ip} saddr . {ip} daddr . meta l4proto . th dport @{} masquerade fully-random",
                Map::Hairpin.name()
            ),
        ),
    ]);
    // What is in the range and nobody's must not leave by the default route.
    let ours: Vec<String> = IpNet::aggregate(&services.to_vec())
        .iter()
        .filter(|range| Family::of(&range.addr()) == family)
        .map(ToString::to_string)
        .collect();
    if !ours.is_empty() {
        let unused = format!("{ip} daddr {{ {} }} drop", ours.join(", "));
        rules.push(("cluster-ips-check", unused));
    }
    let mut chains: BTreeSet<&str> = rules.iter().map(|(chain, _)| *chain).collect();
    chains.insert("nodeport-endpoints-check");
    if let Some(condition) = settings.node_port_condition(family, node) {
        let by_port = |map: Map| format!("{condition} meta l4proto . th dport vmap @{}", map.name());
        rules.push(("services", by_port(Map::ServiceNodeports)));
        rules.push(("nodeport-endpoints-check", by_port(Map::NoEndpointNodeports)));
    }

    let mut commands: Vec<Command> = HOOKS
        .map(|(name, hook)| Command::AddChain(name.to_owned(), hook))
        .to_vec();
    commands.extend(chains.into_iter().map(|name| Command::AddChain(name.to_owned(), "")));
    commands.extend(JUMPS.map(|(from, condition, to)| {
        let rule = if condition.is_empty() {
            format!("jump {to}")
        } else {
            format!("{condition} jump {to}")
        };
        Command::AddRule(from.to_owned(), rule)
    }));
    commands.extend(
        rules
            .into_iter()
            .map(|(chain, rule)| Command::AddRule(chain.to_owned(), rule)),
    );
    commands
}
