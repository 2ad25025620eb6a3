//! Cluster addresses and node ports of Services, unique among all API servers of a cluster.
//!
//! An address is taken by creating an `IPAddress` object named after it; a node port by compare-and-swap of the bitmap
//! under `/registry/ranges/servicenodeports`. Both are upstream's ways, so upstream's servers and ours can share a
//! store. What was taken for a write that then failed is given back.

mod addresses;
mod families;
mod plan;
mod ports;

use ipnet::IpNet;
use serde_json::{Value, json};
use steersman_schema::field::{FieldError, Path};
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
            let kept = families::kept(service, old);
            let errors = families::settle(service, old, &self.families());
            if !errors.is_empty() {
                return Err(Status::invalid("", "Service", text(service, "/metadata/name"), &errors));
            }
            if !kept {
                self.take_addresses(api, service, old, dry_run, taken).await?;
            }
        } else {
            // It may have none of them; validation says so.
            steersman_kinds::service::pair_addresses(service, old);
        }
        self.take_ports(api, service, old, dry_run, taken).await
    }

    fn families(&self) -> Vec<&'static str> {
        let mut all: Vec<&str> = Vec::new();
        for range in &self.ranges {
            let family = family(range);
            if !all.contains(&family) {
                all.push(family);
            }
        }
        all
    }

    /// Addresses for families that have none. What a Service has is not taken again; whether it may change is a question
    /// of validation.
    async fn take_addresses(
        &self,
        api: &Api,
        service: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
        taken: &mut Taken,
    ) -> Result<(), Status> {
        let families = strings(&service["spec"]["ipFamilies"]);
        let headless = |s: &Value| strings(&s["spec"]["clusterIPs"]).first().is_some_and(|ip| ip == "None");
        let from = match old.filter(|old| needs_addresses(old)) {
            None if headless(service) => return Ok(()),
            None => 0,
            Some(old) if headless(old) || strings(&old["spec"]["ipFamilies"]).len() != 1 => return Ok(()),
            Some(_) => 1,
        };
        let mut addresses = strings(&service["spec"]["clusterIPs"]);
        if from >= families.len() {
            return Ok(());
        }
        if addresses.len() < families.len() {
            addresses.resize(families.len(), String::new());
        }
        let name = text(service, "/metadata/name").to_owned();
        let owner = (text(service, "/metadata/namespace").to_owned(), name.clone());
        let shown = json!(addresses);
        for (index, wanted) in families.iter().enumerate().skip(from) {
            let Some(range) = self.ranges.iter().find(|range| family(range) == wanted) else {
                continue;
            };
            let got = if addresses[index].is_empty() {
                addresses::take_any(api, range, &owner, dry_run).await?
            } else {
                let ip = &addresses[index];
                let refused = |detail: String| {
                    let path = Path::new("spec").child("clusterIPs");
                    let why = format!("failed to allocate IP {ip}: {detail}");
                    Status::invalid("", "Service", &name, &vec![FieldError::invalid(&path, &shown, why)])
                };
                addresses::take_given(api, range, ip, &owner, dry_run)
                    .await
                    .map_err(refused)?
            };
            if !dry_run {
                taken.addresses.push(got.clone());
            }
            addresses[index] = got;
        }
        if let Some(first) = addresses.first().filter(|_| from == 0) {
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
        let plan = match old {
            None => plan::for_new(service),
            Some(old) => plan::for_changed(service, old),
        };
        let name = text(service, "/metadata/name").to_owned();
        let got = ports::take(api, &self.ports_key, self.ports, &plan.asks, dry_run)
            .await
            .map_err(|fault| refusal(fault, &name))?;
        if !dry_run {
            taken.ports.extend(&got);
        }
        if let Some(why) = plan.refused {
            return Err(Status::new(500, "", why));
        }
        for (ask, port) in plan.asks.iter().zip(got) {
            put(service, &ask.slot, port.into());
        }
        for (to, from) in &plan.copies {
            let port = service.pointer(from).cloned().unwrap_or_default();
            put(service, to, port);
        }
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

fn family(range: &IpNet) -> &'static str {
    if range.addr().is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The family of a well-formed address.
fn family_of(ip: &str) -> &'static str {
    if ip.contains(':') { "IPv6" } else { "IPv4" }
}

/// What a client is told of a port that is not to be had.
fn refusal(fault: ports::Fault, name: &str) -> Status {
    match fault {
        ports::Fault::Refused { slot, port, detail } if slot == plan::HEALTH => Status::internal(format!(
            "failed to allocate requested HealthCheck NodePort {port}: {detail}"
        )),
        ports::Fault::Refused { slot, port, detail } => {
            let index = slot.split('/').nth(3).and_then(|i| i.parse().ok()).unwrap_or(0);
            let path = Path::new("spec").child("ports").index(index).child("nodePort");
            Status::invalid("", "Service", name, &vec![FieldError::invalid(&path, port, detail)])
        }
        ports::Fault::Full { slot } if slot == plan::HEALTH => {
            Status::internal("failed to allocate a HealthCheck NodePort 0: range is full")
        }
        ports::Fault::Full { .. } => Status::internal("failed to allocate a nodePort: range is full"),
        ports::Fault::Store(status) => status,
    }
}

/// Writes a node port to its place, made if it is not there.
fn put(service: &mut Value, pointer: &str, port: Value) {
    let Some((parent, key)) = pointer.rsplit_once('/') else {
        return;
    };
    if let Some(parent) = service.pointer_mut(parent).and_then(Value::as_object_mut) {
        parent.insert(key.to_owned(), port);
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
    let ports = service.pointer("/spec/ports").and_then(Value::as_array);
    // Another type may still have them here and loses them later.
    let kind = matches!(text(service, "/spec/type"), "NodePort" | "LoadBalancer");
    let ports = ports
        .into_iter()
        .flatten()
        .map(|entry| &entry["nodePort"])
        .filter(|_| kind);
    let health = service.pointer(plan::HEALTH).filter(|_| needs_health_port(service));
    taken.ports = ports
        .chain(health)
        .filter_map(Value::as_i64)
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
    }
    if needs_ports(new) && needs_ports(old) {
        // Ports are known by name; of several without one the last counts, as upstream has it.
        let same =
            |a: &Value, b: &Value| a["name"].as_str().unwrap_or_default() == b["name"].as_str().unwrap_or_default();
        let before = old["spec"]["ports"].as_array().cloned().unwrap_or_default();
        let used: Vec<i64> = new["spec"]["ports"]
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
            }
        }
    }
    if needs_health_port(new) && needs_health_port(old) {
        let given = new.pointer(plan::HEALTH).and_then(Value::as_i64).unwrap_or(0);
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
    fn a_service_that_becomes_external_gives_everything_back() {
        let old = json!({"spec": {"type": "NodePort", "clusterIPs": ["10.0.0.5"], "ports": [{"port": 80, "nodePort": 30001}]}});
        let new = json!({"spec": {"type": "ExternalName", "externalName": "a.b", "ports": [{"port": 80, "nodePort": 30001}]}});
        assert_eq!(
            released(&new, &old),
            Taken {
                addresses: vec!["10.0.0.5".into()],
                ports: vec![30001]
            }
        );
    }
}
