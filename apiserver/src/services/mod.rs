//! Cluster addresses and node ports of Services, unique among all API servers of a cluster.
//!
//! An address is taken by creating an `IPAddress` object named after it; a node port by compare-and-swap of the bitmap
//! under `/registry/ranges/servicenodeports`. Both are upstream's ways, so upstream's servers and ours can share a
//! store. What was taken for a write that then failed is given back.

mod addresses;
mod ports;

use ipnet::IpNet;
use serde_json::{Value, json};
use steersman_schema::field::{FieldError, FieldErrors, Path};
use steersman_schema::status::Status;

use crate::api::Api;
use crate::flags::PortRange;

pub use addresses::{first_address, ip_address_object};

/// Addresses and ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    pub addresses: Vec<String>,
    pub ports: Vec<i64>,
}

/// The allocator.
pub struct Services {
    pub ranges: Vec<IpNet>,
    pub ports: PortRange,
    /// Key of the node ports' bitmap.
    ports_key: String,
}

impl Services {
    pub fn new(ranges: Vec<IpNet>, ports: PortRange, etcd_prefix: &str) -> Self {
        let ports_key = format!("{}/ranges/servicenodeports", etcd_prefix.trim_end_matches('/'));
        Self {
            ranges,
            ports,
            ports_key,
        }
    }

    /// Takes what a Service needs and does not have, writing it into the object. `old` is the Service as it was.
    ///
    /// # Errors
    /// 422 when what the client asks for is taken or out of range, 500 when nothing is left.
    pub async fn allocate(
        &self,
        api: &Api,
        service: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
    ) -> Result<Taken, Status> {
        let mut taken = Taken::default();
        let outcome = self.allocate_into(api, service, old, dry_run, &mut taken).await;
        if let Err(status) = outcome {
            self.release(api, taken).await;
            return Err(status);
        }
        Ok(taken)
    }

    async fn allocate_into(
        &self,
        api: &Api,
        service: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
        taken: &mut Taken,
    ) -> Result<(), Status> {
        if needs_addresses(service) {
            steersman_kinds::service::pair_addresses(service, old);
            let errors = steersman_kinds::service::cluster_ips(service, old);
            if !errors.is_empty() {
                return Err(Status::invalid("", "Service", text(service, "/metadata/name"), &errors));
            }
            self.families(service)?;
            self.take_addresses(api, service, old, dry_run, taken).await?;
        } else {
            // It may have none of them; validation says so.
            steersman_kinds::service::pair_addresses(service, old);
        }
        self.take_ports(api, service, old, dry_run, taken).await
    }

    /// Which families the Service has, and `clusterIP` and `clusterIPs` in step.
    fn families(&self, service: &mut Value) -> Result<(), Status> {
        let primary = family(self.ranges.first());
        let headless = text(service, "/spec/clusterIP") == "None";
        let selectorless = service
            .pointer("/spec/selector")
            .and_then(Value::as_object)
            .is_none_or(|s| s.is_empty());
        let spec = &mut service["spec"];
        if !spec["ipFamilyPolicy"].is_string() {
            let two = strings(&spec["clusterIPs"]).len() == 2 || strings(&spec["ipFamilies"]).len() == 2;
            // Headless without selector may have endpoints of either family.
            let policy = if two || headless && selectorless {
                "RequireDualStack"
            } else {
                "SingleStack"
            };
            spec["ipFamilyPolicy"] = policy.into();
        }
        let policy = spec["ipFamilyPolicy"].as_str().unwrap_or("SingleStack").to_owned();
        let mut families = strings(&spec["ipFamilies"]);
        if families.is_empty() {
            let given = strings(&spec["clusterIPs"]);
            families = given
                .iter()
                .filter_map(|ip| ip.parse::<std::net::IpAddr>().ok())
                .map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned())
                .collect();
            if families.is_empty() {
                families.push(primary.to_owned());
            }
        }
        let other = |of: &str| if of == "IPv4" { "IPv6" } else { "IPv4" }.to_owned();
        if policy != "SingleStack" && families.len() == 1 && (self.ranges.len() == 2 || headless && selectorless) {
            families.push(other(&families[0]));
        }
        let mut errors = FieldErrors::new();
        if !(headless && selectorless) {
            for (index, wanted) in families.iter().enumerate() {
                if !self.ranges.iter().any(|range| family(Some(range)) == wanted) {
                    let path = Path::new("spec").child("ipFamilies").index(index);
                    errors.push(FieldError::invalid(
                        &path,
                        wanted.as_str(),
                        "not configured on this cluster",
                    ));
                }
            }
            if policy == "RequireDualStack" && self.ranges.len() < 2 {
                let path = Path::new("spec").child("ipFamilyPolicy");
                errors.push(FieldError::invalid(
                    &path,
                    policy.as_str(),
                    "this cluster is not configured for dual-stack services",
                ));
            }
        }
        if !errors.is_empty() {
            return Err(Status::invalid("", "Service", text(service, "/metadata/name"), &errors));
        }
        service["spec"]["ipFamilies"] = json!(families);
        Ok(())
    }

    async fn take_addresses(
        &self,
        api: &Api,
        service: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
        taken: &mut Taken,
    ) -> Result<(), Status> {
        if text(service, "/spec/clusterIP") == "None" {
            return Ok(());
        }
        let had = old
            .filter(|old| needs_addresses(old))
            .map(|old| strings(&old["spec"]["clusterIPs"]))
            .unwrap_or_default();
        let wanted = strings(&service["spec"]["clusterIPs"]);
        let families = strings(&service["spec"]["ipFamilies"]);
        let (namespace, name) = (
            text(service, "/metadata/namespace").to_owned(),
            text(service, "/metadata/name").to_owned(),
        );
        let misshapen: FieldErrors = wanted
            .iter()
            .enumerate()
            .filter(|(_, ip)| ip.parse::<std::net::IpAddr>().is_err())
            .map(|(index, ip)| {
                let path = Path::new("spec").child("clusterIPs").index(index);
                FieldError::invalid(
                    &path,
                    ip.as_str(),
                    "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                )
            })
            .collect();
        if !misshapen.is_empty() {
            return Err(Status::invalid("", "Service", &name, &misshapen));
        }
        let mut addresses = Vec::new();
        for (index, wanted_family) in families.iter().enumerate() {
            let Some(range) = self.ranges.iter().find(|range| family(Some(range)) == wanted_family) else {
                continue;
            };
            let asked = wanted.get(index).filter(|ip| !ip.is_empty());
            // What a Service has is not taken again; whether it may change is a question of validation.
            if let Some(before) = had.get(index) {
                addresses.push(wanted.get(index).unwrap_or(before).clone());
                continue;
            }
            let got = match asked {
                Some(ip) => addresses::take_given(api, range, ip, &namespace, &name, dry_run)
                    .await
                    .map_err(|detail| {
                        let path = Path::new("spec").child("clusterIPs");
                        let shown = json!(wanted);
                        Status::invalid(
                            "",
                            "Service",
                            &name,
                            &vec![FieldError::invalid(
                                &path,
                                &shown,
                                format!("failed to allocate IP {ip}: {detail}"),
                            )],
                        )
                    })?,
                None => addresses::take_any(api, range, &namespace, &name, dry_run).await?,
            };
            if !dry_run {
                taken.addresses.push(got.clone());
            }
            addresses.push(got);
        }
        if let Some(first) = addresses.first().filter(|_| had.is_empty()) {
            service["spec"]["clusterIP"] = first.as_str().into();
        }
        service["spec"]["clusterIPs"] = json!(addresses);
        Ok(())
    }

    async fn take_ports(
        &self,
        api: &Api,
        service: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
        taken: &mut Taken,
    ) -> Result<(), Status> {
        let had = old.map(used).unwrap_or_default().ports;
        let mut wanted = wanted_ports(service);
        let followers = if old.is_none() {
            follow(service, &mut wanted)
        } else {
            Vec::new()
        };
        if let Some(old) = old {
            if let Some(port) = repeated(service) {
                return Err(Status::new(500, "", format!("duplicate nodePort: {port}")));
            }
            if needs_health_port(old) && needs_health_port(service) {
                // What it has is not taken again; whether it may change is a question of validation.
                wanted.retain(|(pointer, _)| pointer != HEALTH);
            }
        }
        let (mut given, mut missing) = (Vec::new(), 0);
        for slot in &wanted {
            match slot.1 {
                0 => missing += 1,
                port if had.contains(&port) || given.contains(&port) => {}
                port => given.push(port),
            }
        }
        if given.is_empty() && missing == 0 {
            copy(service, &followers);
            return Ok(());
        }
        let name = text(service, "/metadata/name").to_owned();
        let got = ports::take(api, &self.ports_key, self.ports, &given, missing, dry_run)
            .await
            .map_err(|fault| match fault {
                ports::Fault::Refused { port, detail } => {
                    let at = wanted.iter().position(|(_, wanted)| *wanted == port).unwrap_or(0);
                    if wanted.get(at).is_some_and(|(pointer, _)| pointer == HEALTH) {
                        return Status::internal(format!(
                            "failed to allocate requested HealthCheck NodePort {port}: {detail}"
                        ));
                    }
                    let path = Path::new("spec").child("ports").index(at).child("nodePort");
                    Status::invalid("", "Service", &name, &vec![FieldError::invalid(&path, port, detail)])
                }
                ports::Fault::Full => Status::internal("failed to allocate a nodePort: range is full"),
                ports::Fault::Store(status) => status,
            })?;
        if !dry_run {
            taken.ports.extend(given.iter().chain(&got));
        }
        let mut free = got.into_iter();
        for (pointer, _) in wanted.iter().filter(|(_, port)| *port == 0) {
            if let (Some(slot), Some(port)) = (ports::slot(service, pointer), free.next()) {
                *slot = port.into();
            }
        }
        copy(service, &followers);
        Ok(())
    }

    /// Gives back. Failures are logged: what is left over is found again by whoever repairs the ranges.
    pub async fn release(&self, api: &Api, taken: Taken) {
        for address in &taken.addresses {
            addresses::release(api, address).await;
        }
        if !taken.ports.is_empty() {
            ports::release(api, &self.ports_key, self.ports, &taken.ports).await;
        }
    }
}

fn family(range: Option<&IpNet>) -> &'static str {
    if range.is_none_or(|range| range.addr().is_ipv4()) {
        "IPv4"
    } else {
        "IPv6"
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn strings(value: &Value) -> Vec<String> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn needs_addresses(service: &Value) -> bool {
    text(service, "/spec/type") != "ExternalName"
}

fn needs_ports(service: &Value) -> bool {
    match text(service, "/spec/type") {
        "NodePort" => true,
        "LoadBalancer" => {
            service
                .pointer("/spec/allocateLoadBalancerNodePorts")
                .and_then(Value::as_bool)
                != Some(false)
        }
        _ => false,
    }
}

/// Ports of a new Service that have the number of another one (and another protocol) share its node port unless they say
/// their own: takes them out of `wanted`, and says whose they share.
fn follow(service: &Value, wanted: &mut Vec<(String, i64)>) -> Vec<(String, String)> {
    let number = |pointer: &str| {
        service
            .pointer(pointer.strip_suffix("/nodePort")?)?
            .get("port")?
            .as_i64()
    };
    let all = wanted.clone();
    let mut followers = Vec::new();
    wanted.retain(|(pointer, port)| {
        let own = number(pointer);
        let alike = || all.iter().filter(|(other, _)| own.is_some() && number(other) == own);
        let leader = alike().find(|(_, port)| *port != 0).or_else(|| alike().next());
        match leader {
            Some((leader, _)) if *port == 0 && leader != pointer => {
                followers.push((pointer.clone(), leader.clone()));
                false
            }
            _ => true,
        }
    });
    followers
}

/// Gives followers what their leaders have.
fn copy(service: &mut Value, followers: &[(String, String)]) {
    for (pointer, leader) in followers {
        let port = service.pointer(leader).cloned().unwrap_or_default();
        if let Some(slot) = ports::slot(service, pointer) {
            *slot = port;
        }
    }
}

/// Where the port stands that load balancers ask whether a node has endpoints.
const HEALTH: &str = "/spec/healthCheckNodePort";

/// A node port that two ports of the Service have with the same protocol, as upstream prints it.
fn repeated(service: &Value) -> Option<String> {
    let mut seen = Vec::new();
    let ports = service.pointer("/spec/ports").and_then(Value::as_array);
    for port in ports.into_iter().flatten().filter(|_| needs_ports(service)) {
        let number = port["nodePort"].as_i64().unwrap_or(0);
        let one = (port["protocol"].as_str().unwrap_or_default(), number);
        if number != 0 && seen.contains(&one) {
            return Some(format!("{{{} {number}}}", one.0));
        }
        seen.push(one);
    }
    None
}

/// Places for node ports and what stands there; 0 is "any".
fn wanted_ports(service: &Value) -> Vec<(String, i64)> {
    let port = |value: Option<&Value>| value.and_then(Value::as_i64).unwrap_or(0);
    let mut out = Vec::new();
    let may_keep = matches!(text(service, "/spec/type"), "NodePort" | "LoadBalancer");
    for (index, entry) in service
        .pointer("/spec/ports")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .enumerate()
    {
        let number = port(entry.get("nodePort"));
        if needs_ports(service) || (may_keep && number != 0) {
            out.push((format!("/spec/ports/{index}/nodePort"), number));
        }
    }
    if needs_health_port(service) {
        out.push((HEALTH.to_owned(), port(service.pointer(HEALTH))));
    }
    out
}

fn needs_health_port(service: &Value) -> bool {
    text(service, "/spec/type") == "LoadBalancer" && text(service, "/spec/externalTrafficPolicy") == "Local"
}

/// What a Service holds.
pub fn used(service: &Value) -> Taken {
    let mut taken = Taken::default();
    if needs_addresses(service) {
        taken.addresses = strings(&service["spec"]["clusterIPs"])
            .into_iter()
            .filter(|ip| ip != "None" && !ip.is_empty())
            .collect();
    }
    taken.ports = wanted_ports(service)
        .into_iter()
        .map(|(_, port)| port)
        .filter(|port| *port != 0)
        .collect();
    taken.ports.dedup();
    taken
}

/// What a changed Service no longer holds.
pub fn released(new: &Value, old: &Value) -> Taken {
    let (now, before) = (used(new), used(old));
    Taken {
        addresses: before
            .addresses
            .into_iter()
            .filter(|ip| !now.addresses.contains(ip))
            .collect(),
        ports: before
            .ports
            .into_iter()
            .filter(|port| !now.ports.contains(port))
            .collect(),
    }
}

/// An update that leaves allocated values out keeps them (upstream: `patchAllocatedValues`).
pub fn patch_allocated_values(new: &mut Value, old: &Value) {
    if !needs_addresses(new)
        && needs_addresses(old)
        && let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut)
    {
        spec.remove("internalTrafficPolicy");
    }
    if needs_addresses(new) && needs_addresses(old) {
        let spec = &mut new["spec"];
        if spec["clusterIP"].as_str().unwrap_or_default().is_empty() {
            spec["clusterIP"] = old["spec"]["clusterIP"].clone();
        }
        if strings(&spec["clusterIPs"]).is_empty() {
            spec["clusterIPs"] = old["spec"]["clusterIPs"].clone();
        }
        for key in ["ipFamilies", "ipFamilyPolicy"] {
            if spec.get(key).is_none_or(Value::is_null)
                && let Some(kept) = old["spec"].get(key)
            {
                spec[key] = kept.clone();
            }
        }
    }
    if needs_ports(new) && needs_ports(old) {
        // Ports are known by name; of several without one the last counts, as upstream has it.
        let same =
            |a: &Value, b: &Value| a["name"].as_str().unwrap_or_default() == b["name"].as_str().unwrap_or_default();
        let before = old["spec"]["ports"].as_array().cloned().unwrap_or_default();
        let mut used: Vec<i64> = new["spec"]["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|p| p["nodePort"].as_i64())
            .filter(|p| *p != 0)
            .collect();
        for port in new["spec"]["ports"].as_array_mut().into_iter().flatten() {
            if port["nodePort"].as_i64().unwrap_or(0) != 0 {
                continue;
            }
            let kept = before
                .iter()
                .rfind(|b| same(b, port))
                .and_then(|b| b["nodePort"].as_i64())
                .filter(|p| *p != 0 && !used.contains(p));
            if let Some(kept) = kept {
                port["nodePort"] = kept.into();
                used.push(kept);
            }
        }
    }
    if needs_health_port(new) && needs_health_port(old) {
        let given = new.pointer(HEALTH).and_then(Value::as_i64).unwrap_or(0);
        if given == 0
            && let Some(kept) = old["spec"].get("healthCheckNodePort")
        {
            new["spec"]["healthCheckNodePort"] = kept.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_keeps_what_it_does_not_mention() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.5", "clusterIPs": ["10.0.0.5"],
            "ports": [{"name": "a", "port": 80, "protocol": "TCP", "nodePort": 30001}]}});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [{"name": "a", "port": 80, "protocol": "TCP"}, {"name": "b", "port": 81, "protocol": "TCP"}]}});
        patch_allocated_values(&mut new, &old);
        assert_eq!(new["spec"]["clusterIP"], "10.0.0.5");
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30001);
        assert!(new["spec"]["ports"][1].get("nodePort").is_none_or(Value::is_null));
    }

    #[test]
    fn ports_of_one_number_share_a_node_port() {
        let service = json!({"spec": {"type": "NodePort", "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP", "nodePort": 30053},
            {"name": "web", "port": 80, "protocol": "TCP"}]}});
        let mut wanted = wanted_ports(&service);
        let followers = follow(&service, &mut wanted);
        assert_eq!(
            followers,
            [("/spec/ports/0/nodePort".into(), "/spec/ports/1/nodePort".into())]
        );
        let left: Vec<i64> = wanted.into_iter().map(|(_, port)| port).collect();
        assert_eq!(left, [30053, 0]);
    }

    #[test]
    fn a_service_that_becomes_external_gives_everything_back() {
        let old = json!({"spec": {"type": "NodePort", "clusterIPs": ["10.0.0.5"], "ports": [{"port": 80, "nodePort": 30001}]}});
        let new = json!({"spec": {"type": "ExternalName", "externalName": "a.b"}});
        assert_eq!(
            released(&new, &old),
            Taken {
                addresses: vec!["10.0.0.5".into()],
                ports: vec![30001]
            }
        );
    }
}
