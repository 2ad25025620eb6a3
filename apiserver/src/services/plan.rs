//! Which node ports a Service asks for, in upstream's order: a refusal names the first that is not to be had. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{needs_health_port, needs_ports, text};

/// Where the port stands that load balancers ask whether a node has endpoints.
pub const HEALTH: &str = "/spec/healthCheckNodePort";

/// One port to take: `port` itself, or with `None` any free one. It goes to `slot`, a JSON pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub slot: String,
    pub port: Option<i64>,
}

/// What to do, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub asks: Vec<Ask>,
    /// Slots that get what another slot has: `(to, from)`.
    pub copies: Vec<(String, String)>,
    /// After these asks upstream refuses, with this text.
    pub refused: Option<String>,
}

impl Plan {
    fn ask(&mut self, slot: &str, port: i64) {
        self.asks.push(Ask {
            slot: slot.to_owned(),
            port: (port != 0).then_some(port),
        });
    }
}

struct Port<'a> {
    slot: String,
    number: i64,
    node_port: i64,
    protocol: &'a str,
}

/// The ports of a Service whose kind has node ports: those that say one, and those that may be given one.
fn ports(service: &Value) -> Vec<Port<'_>> {
    let all = service.pointer("/spec/ports").and_then(Value::as_array);
    let number = |entry: &Value, key: &str| entry.get(key).and_then(Value::as_i64).unwrap_or(0);
    let kind = matches!(text(service, "/spec/type"), "NodePort" | "LoadBalancer");
    let all = all.into_iter().flatten().enumerate().map(|(i, entry)| Port {
        slot: format!("/spec/ports/{i}/nodePort"),
        number: number(entry, "port"),
        node_port: number(entry, "nodePort"),
        protocol: text(entry, "/protocol"),
    });
    all.filter(|p| kind && (p.node_port != 0 || needs_ports(service)))
        .collect()
}

fn health(service: &Value) -> i64 {
    service.pointer(HEALTH).and_then(Value::as_i64).unwrap_or(0)
}

/// For a new Service. Ports of one number (and different protocols) share a node port unless they say their own.
pub fn for_new(service: &Value) -> Plan {
    let mut plan = Plan::default();
    let ports = ports(service);
    // By number: the slot that was served first, and what it asked for.
    let mut first: BTreeMap<i64, (String, i64)> = BTreeMap::new();
    for port in &ports {
        match first.get(&port.number) {
            None => {
                let said = ports.iter().find(|p| p.number == port.number && p.node_port != 0);
                let wanted = said.map_or(0, |p| p.node_port);
                plan.ask(&port.slot, wanted);
                first.insert(port.number, (port.slot.clone(), wanted));
            }
            Some((slot, _)) if port.node_port == 0 => plan.copies.push((port.slot.clone(), slot.clone())),
            Some((_, wanted)) if *wanted == port.node_port => {}
            Some(_) => plan.ask(&port.slot, port.node_port),
        }
    }
    if needs_health_port(service) {
        plan.ask(HEALTH, health(service));
    }
    plan
}

/// For a changed Service: what it has is not taken again.
pub fn for_changed(service: &Value, old: &Value) -> Plan {
    let mut plan = Plan::default();
    let all = old.pointer("/spec/ports").and_then(Value::as_array);
    let had: Vec<i64> = all
        .into_iter()
        .flatten()
        .filter_map(|p| p["nodePort"].as_i64())
        .collect();
    let mut seen = Vec::new();
    for port in ports(service) {
        let known = had.contains(&port.node_port) || plan.asks.iter().any(|a| a.port == Some(port.node_port));
        if port.node_port == 0 || !known {
            plan.ask(&port.slot, port.node_port);
        }
        let one = (port.protocol, port.node_port);
        if port.node_port != 0 && seen.contains(&one) {
            plan.refused = Some(format!("duplicate nodePort: {{{} {}}}", one.0, one.1));
            return plan;
        }
        seen.push(one);
    }
    // Whether the one that it has may change is a question of validation.
    if needs_health_port(service) && !needs_health_port(old) {
        plan.ask(HEALTH, health(service));
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asked(plan: &Plan) -> Vec<(&str, Option<i64>)> {
        plan.asks.iter().map(|a| (a.slot.as_str(), a.port)).collect()
    }

    #[test]
    fn ports_of_one_number_share_a_node_port() {
        let service = json!({"spec": {"type": "NodePort", "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP", "nodePort": 30053},
            {"name": "web", "port": 80, "protocol": "TCP"}, {"name": "http3", "port": 80, "protocol": "UDP"}]}});
        let plan = for_new(&service);
        assert_eq!(
            asked(&plan),
            [
                ("/spec/ports/0/nodePort", Some(30053)),
                ("/spec/ports/2/nodePort", None)
            ]
        );
        assert_eq!(
            plan.copies,
            [("/spec/ports/3/nodePort".to_owned(), "/spec/ports/2/nodePort".to_owned())]
        );
    }

    #[test]
    fn a_balancer_without_node_ports_still_takes_what_it_names_and_its_health_port() {
        let service = json!({"spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "externalTrafficPolicy": "Local",
            "ports": [{"port": 80}, {"port": 81, "nodePort": 30081}]}});
        assert_eq!(
            asked(&for_new(&service)),
            [("/spec/ports/1/nodePort", Some(30081)), (HEALTH, None)]
        );
        assert_eq!(
            for_new(&json!({"spec": {"type": "ClusterIP", "ports": [{"port": 1}]}})),
            Plan::default()
        );
    }

    #[test]
    fn a_change_takes_only_what_is_new_and_refuses_what_is_twice() {
        let old = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]}});
        let mut new = old.clone();
        new["spec"]["ports"] =
            json!([{"port": 80, "protocol": "TCP", "nodePort": 30080}, {"port": 81, "protocol": "TCP"}]);
        assert_eq!(asked(&for_changed(&new, &old)), [("/spec/ports/1/nodePort", None)]);
        new["spec"]["ports"][1]["nodePort"] = json!(30080);
        let plan = for_changed(&new, &old);
        assert_eq!(plan.refused.as_deref(), Some("duplicate nodePort: {TCP 30080}"));
    }
}
