//! Services: a stable address in front of pods.
//!
//! Addresses, node ports and families are allocated by the server between preparation and validation; a Service that
//! reaches [`KIND`]'s validation has them.

mod addresses;
mod rules;
mod shown;

use crate::view::{View, child, each_mut, put_back, remove, same, set, set_default, set_if_empty};
use crate::{Context, Kind, Status, Table, meta, nothing};
pub use addresses::{cluster_ips, pair_addresses};
use rules::{validate, validate_status, validate_update};
use serde_json::{Value, json};
use shown::{COLUMNS, row, warnings};
use std::collections::BTreeSet;

const AFFINITY_DEFAULT: i64 = 10_800;
const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const MODE: &str = "service.kubernetes.io/topology-mode";
const FIXED: &str = "may not change once set";

pub static KINDS: &[&Kind] = &[&KIND];

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Service",
    plural: "services",
    default,
    prepare_create: |service, _| set(service, "status", json!({ "loadBalancer": {} })),
    prepare_update,
    validate: |service| validate(service, None),
    validate_update,
    warnings: |service, _| warnings(service),
    validate_name: meta::name_label,
    status: Some(Status {
        prepare: |new, old, _| put_back(new, old, "spec"),
        validate: validate_status,
    }),
    updates: &[],
    generation: false,
    create_on_update: true,
    unconditional_update: true,
    scale: None,
    grace: None,
    orphans_by_default: false,
    fields: &[
        ("spec.clusterIP", |s| s.text("/spec/clusterIP").into()),
        ("spec.type", |s| s.text("/spec/type").into()),
    ],
    table: Some(Table {
        columns: COLUMNS,
        row,
        conditions: nothing::conditions,
    }),
    example: "apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
",
};

fn kind(service: &Value) -> &str {
    service.text("/spec/type")
}

/// Whether the Service has no address on purpose.
pub fn is_headless(service: &Value) -> bool {
    matches!(service.items("/spec/clusterIPs"), [one] if one == "None")
}

/// Reached from outside: node ports, load balancers, or external addresses.
pub fn is_external(service: &Value) -> bool {
    matches!(kind(service), "LoadBalancer" | "NodePort")
        || (kind(service) == "ClusterIP" && !service.items("/spec/externalIPs").is_empty())
}

/// Whether load balancers ask each node if it has endpoints.
pub fn needs_health_check(service: &Value) -> bool {
    kind(service) == "LoadBalancer" && service.text("/spec/externalTrafficPolicy") == "Local"
}

fn default(service: &mut Value) {
    let Some(spec) = child(service, "spec") else { return };
    set_if_empty(spec, "sessionAffinity", "None");
    match spec.text("/sessionAffinity") {
        "None" => remove(spec, "sessionAffinityConfig"),
        "ClientIP" if !spec.has("/sessionAffinityConfig/clientIP/timeoutSeconds") => {
            set(
                spec,
                "sessionAffinityConfig",
                json!({ "clientIP": { "timeoutSeconds": AFFINITY_DEFAULT } }),
            );
        }
        _ => {}
    }
    set_if_empty(spec, "type", "ClusterIP");
    // It routes nothing itself. Anything but the known policies is left for validation.
    let policy = spec.text("/internalTrafficPolicy");
    if spec.text("/type") == "ExternalName" && matches!(policy, "Cluster" | "Local") {
        remove(spec, "internalTrafficPolicy");
    }
    for port in each_mut(spec, "/ports") {
        set_if_empty(port, "protocol", "TCP");
        let target = port.at("/targetPort");
        if target.is_null() || target == 0 || target == "" {
            let own = port.int("/port");
            set(port, "targetPort", own);
        }
    }
    if is_external(service) {
        if let Some(spec) = child(service, "spec") {
            set_if_empty(spec, "externalTrafficPolicy", "Cluster");
        }
    }
    let own = kind(service).to_string();
    if let Some(spec) = child(service, "spec") {
        if matches!(own.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
            set_default(spec, "internalTrafficPolicy", "Cluster");
        }
        if own == "LoadBalancer" {
            set_default(spec, "allocateLoadBalancerNodePorts", true);
        }
    }
    if own == "LoadBalancer" {
        for ingress in each_mut(service, "/status/loadBalancer/ingress") {
            if !ingress.text("/ip").is_empty() {
                set_default(ingress, "ipMode", "VIP");
            }
        }
    }
}

/// Fields that only one type has go when the type changes, unless the client changed them as well.
fn prepare_update(new: &mut Value, old: &Value, _: &Context) {
    put_back(new, old, "status");
    let (was, now) = (kind(old).to_string(), kind(new).to_string());
    let ported = |k: &str| matches!(k, "NodePort" | "LoadBalancer");
    let alike = |new: &Value, p: &str| same(new.at(p), old.at(p));
    let (mut drop, mut drop_ports) = (Vec::new(), false);
    if was != "ExternalName" && now == "ExternalName" {
        if alike(new, "/spec/clusterIP") && alike(new, "/spec/clusterIPs") {
            drop.extend(["clusterIP", "clusterIPs"]);
        }
        drop.extend(
            ["ipFamilies", "ipFamilyPolicy"]
                .iter()
                .filter(|k| alike(new, &format!("/spec/{k}"))),
        );
    }
    let node_ports = |s: &Value| -> BTreeSet<i64> {
        s.items("/spec/ports")
            .iter()
            .map(|p| p.int("/nodePort"))
            .filter(|p| *p != 0)
            .collect()
    };
    if ported(&was) && !ported(&now) && node_ports(old).is_superset(&node_ports(new)) {
        drop_ports = true;
    }
    if needs_health_check(old) && !needs_health_check(new) && alike(new, "/spec/healthCheckNodePort") {
        drop.push("healthCheckNodePort");
    }
    if was == "LoadBalancer" && now != "LoadBalancer" {
        for key in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if alike(new, &format!("/spec/{key}")) {
                drop.push(key);
            }
        }
    }
    if is_external(old) && !is_external(new) && alike(new, "/spec/externalTrafficPolicy") {
        drop.push("externalTrafficPolicy");
    }
    if let Some(spec) = new.get_mut("spec") {
        drop.iter().for_each(|key| remove(spec, key));
        if drop_ports {
            each_mut(spec, "/ports").for_each(|port| remove(port, "nodePort"));
        }
    }
    if now != "LoadBalancer" && new.has("/status/loadBalancer") {
        set(new, "status", {
            let mut status = new.at("/status").clone();
            set(&mut status, "loadBalancer", json!({}));
            status
        });
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use steersman_schema::field::FieldErrors;

    fn service(spec: Value) -> Value {
        let mut service = json!({"metadata": {"name": "s"}, "spec": spec});
        default(&mut service);
        service
    }
    fn texts(errors: &FieldErrors) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn faults_of_services_have_upstreams_words() {
        let port = json!([{"port": 80}]);
        for (spec, want) in [
            (json!({}), "spec.ports: Required value"),
            (
                json!({"ports": [{"port": 80}, {"port": 81, "name": "a"}]}),
                "spec.ports[0].name: Required value",
            ),
            (
                json!({"ports": [{"port": 80, "nodePort": 30000}]}),
                "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            ),
            (
                json!({"ports": port, "type": "X"}),
                "spec.type: Unsupported value: \"X\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ),
            (json!({"type": "ExternalName"}), "spec.externalName: Required value"),
            (
                json!({"ports": port, "clusterIP": "None", "clusterIPs": ["None"], "type": "NodePort"}),
                "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
            ),
            (
                json!({"ports": port, "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.2"]}),
                "spec.clusterIPs: Invalid value: [\"10.0.0.2\"]: first value must match `clusterIP`",
            ),
            (
                json!({"ports": port, "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}),
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and less than 86400",
            ),
            (
                json!({"ports": port, "externalTrafficPolicy": "Local"}),
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
            ),
            (
                json!({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]}),
                "spec.ports[1]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\",\"AppProtocol\":null,\"Port\":80,\"TargetPort\":0,\"NodePort\":0}",
            ),
        ] {
            assert_eq!(texts(&validate(&service(spec), None)), [want]);
        }
    }

    #[test]
    fn the_address_stays() {
        let old = service(json!({"ports": [{"port": 80}], "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}));
        let new = service(json!({"ports": [{"port": 80}], "clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.2"]}));
        assert_eq!(
            texts(&validate_update(&new, &old)),
            ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"]
        );
    }

    #[test]
    fn fields_of_the_old_type_go_with_it() {
        let old = service(
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30000}], "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}),
        );
        let mut new = old.clone();
        new["spec"]["type"] = json!("ClusterIP");
        prepare_update(&mut new, &old, &Context::default());
        assert!(new["spec"]["ports"][0].get("nodePort").is_none());
        assert!(new["spec"].get("externalTrafficPolicy").is_none());
        assert!(validate(&new, Some(&old)).is_empty());
        new["spec"]["type"] = json!("ExternalName");
        prepare_update(&mut new, &old, &Context::default());
        assert!(new["spec"].get("clusterIP").is_none());
    }

    #[test]
    fn the_row_shows_ports_and_addresses() {
        let mut s = service(
            json!({"type": "LoadBalancer", "ports": [{"port": 80, "nodePort": 30080}], "clusterIPs": ["10.0.0.1"]}),
        );
        let cells = row(&s, &Timestamp::UNIX_EPOCH);
        assert_eq!((&cells[3], &cells[4]), (&json!("<pending>"), &json!("80:30080/TCP")));
        s["status"] = json!({"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}});
        assert_eq!(row(&s, &Timestamp::UNIX_EPOCH)[3], "1.2.3.4");
    }
}
