//! Variables that tell a container where the services of its namespace are.

use std::collections::BTreeMap;
use std::sync::Arc;

use steersman_types::api::core::v1::Service;

/// All service variables for a pod. `kubernetes` in `default` is always there; others only with `links`.
#[must_use]
pub fn variables(namespace: &str, links: bool, services: &[Arc<Service>]) -> BTreeMap<String, String> {
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let (name, ns) = (service.metadata.name.as_deref(), service.metadata.namespace.as_deref());
        let (name, ns) = (name.unwrap_or_default(), ns.unwrap_or_default());
        if ns == "default" && name == "kubernetes" {
            chosen.entry(name).or_insert(service);
        } else if ns == namespace && links {
            chosen.insert(name, service);
        }
    }
    let mut all = BTreeMap::new();
    for (name, service) in chosen {
        one(name, service, &mut all);
    }
    all
}

fn variable_name(text: &str) -> String {
    text.replace('-', "_").to_uppercase()
}

fn one(name: &str, service: &Service, all: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else {
        return;
    };
    let prefix = variable_name(name);
    all.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    for (i, port) in spec.ports.iter().flatten().enumerate() {
        if i == 0 {
            all.insert(format!("{prefix}_SERVICE_PORT"), port.port.to_string());
        }
        if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            all.insert(
                format!("{prefix}_SERVICE_PORT_{}", variable_name(name)),
                port.port.to_string(),
            );
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let lower = protocol.to_lowercase();
        let address = if ip.contains(':') {
            format!("[{ip}]:{}", port.port)
        } else {
            format!("{ip}:{}", port.port)
        };
        let url = format!("{lower}://{address}");
        if i == 0 {
            all.insert(format!("{prefix}_PORT"), url.clone());
        }
        let of_port = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        all.insert(format!("{of_port}_PROTO"), lower);
        all.insert(format!("{of_port}_PORT"), port.port.to_string());
        all.insert(format!("{of_port}_ADDR"), ip.to_owned());
        all.insert(of_port, url);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use steersman_types::Typed;

    fn service(namespace: &str, name: &str, ip: &str) -> Arc<Service> {
        let value = serde_json::json!({"metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": ip, "ports": [{"name": "http-x", "port": 80}, {"port": 53, "protocol": "UDP"}]}});
        Arc::new(Service::from_value(&value).unwrap())
    }

    #[test]
    fn services_of_the_namespace_and_the_api_server_are_described() {
        let services = [
            service("default", "kubernetes", "10.0.0.1"),
            service("ns", "my-db", "10.0.0.2"),
            service("ns", "headless", "None"),
        ];
        let all = variables("ns", true, &services);
        for (name, value) in [
            ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
            ("MY_DB_SERVICE_HOST", "10.0.0.2"),
            ("MY_DB_SERVICE_PORT", "80"),
            ("MY_DB_SERVICE_PORT_HTTP_X", "80"),
            ("MY_DB_PORT", "tcp://10.0.0.2:80"),
            ("MY_DB_PORT_80_TCP", "tcp://10.0.0.2:80"),
            ("MY_DB_PORT_53_UDP_PROTO", "udp"),
            ("MY_DB_PORT_53_UDP_ADDR", "10.0.0.2"),
        ] {
            assert_eq!(all.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!all.keys().any(|k| k.starts_with("HEADLESS")));
        assert!(
            variables("ns", false, &services)
                .keys()
                .all(|k| k.starts_with("KUBERNETES"))
        );
    }
}
