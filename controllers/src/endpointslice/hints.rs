//! Which nodes and zones each endpoint is meant for. Pure.
//!
//! Two ways lead to hints. `spec.trafficDistribution` keeps each endpoint for its own zone (or node, too). The older
//! annotation `service.kubernetes.io/topology-mode: Auto` spreads endpoints over zones in proportion to the zones'
//! processors, and gives up, with an event that says why, when that cannot be done without overloading one of them.
//! Callers: [`super::decide`]. What stays true: only ready endpoints have hints; a slice is written only when its hints
//! become others; either all ready endpoints of a family are hinted by the annotation, or none is.

use std::collections::BTreeMap;
use std::sync::Arc;

use steersman_schema::quantity::Quantity;
use steersman_types::api::core::v1::{Node, Service};
use steersman_types::api::discovery::v1::{Endpoint, EndpointHints, EndpointSlice, ForNode, ForZone};

const MODE: &str = "service.kubernetes.io/topology-mode";
/// The annotation's name before it was called so; it has precedence.
const OLD_MODE: &str = "service.kubernetes.io/topology-aware-hints";
/// How much more than its share an endpoint may have to carry.
const OVERLOAD: f64 = 0.2;

pub const ENABLED: &str = "Topology Aware Hints has been enabled";
pub const DISABLED: &str = "Topology Aware Hints has been disabled";
const NO_ZONE: &str = "One or more endpoints do not have a zone specified";
const NO_HINTS: &str = "No hints allocated for zones";
const NO_NODES: &str = "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes";
const TOO_FEW: &str = "Insufficient number of endpoints";
const OVERLOADED: &str =
    "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold";

/// What a Service wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Endpoints are for everybody.
    Everybody,
    /// Each is for its own zone, and with `nodes` for its own node as well.
    Close { nodes: bool },
    /// By the zones' size.
    Proportional,
}

/// Reads the annotations first, as they win over the field.
#[must_use]
pub fn mode(service: &Service) -> Mode {
    let annotations = service.metadata.annotations.as_ref();
    let annotated = annotations.and_then(|a| a.get(OLD_MODE).or_else(|| a.get(MODE)));
    if annotated.is_some_and(|value| value == "Auto" || value == "auto") {
        return Mode::Proportional;
    }
    let spec = service.spec.as_ref();
    match spec.and_then(|s| s.traffic_distribution.as_deref()) {
        Some("PreferClose" | "PreferSameZone") => Mode::Close { nodes: false },
        Some("PreferSameNode") => Mode::Close { nodes: true },
        _ => Mode::Everybody,
    }
}

/// Each zone's share of the cluster's processors; at least two zones.
#[derive(Clone, Debug, PartialEq)]
pub struct Shares(BTreeMap<String, f64>);

/// `None` when the ready nodes do not say enough, or are in fewer than two zones.
#[must_use]
pub fn shares(nodes: &[Arc<Node>]) -> Option<Shares> {
    let mut by_zone: BTreeMap<String, i64> = BTreeMap::new();
    for node in nodes.iter().filter(|node| counts(node)) {
        let zone = super::decide::zone(node)?;
        let cpu = processors(node).filter(|cpu| *cpu > 0)?;
        let sum = by_zone.entry(zone).or_default();
        *sum = sum.saturating_add(cpu);
    }
    if by_zone.len() < 2 {
        return None;
    }
    // Thousandths of processors: far from where a double loses whole numbers.
    #[allow(clippy::cast_precision_loss)]
    let float = |n: i64| n as f64;
    let total = float(by_zone.values().sum());
    Some(Shares(
        by_zone
            .into_iter()
            .map(|(zone, cpu)| (zone, float(cpu) / total))
            .collect(),
    ))
}

/// Thousandths of processors.
fn processors(node: &Node) -> Option<i64> {
    let allocatable = node.status.as_ref()?.allocatable.as_ref()?;
    Some(Quantity::parse(&allocatable.get("cpu")?.0).ok()?.milli_value())
}

/// Whether a node's change can change [`shares`].
#[must_use]
pub fn matters(old: &Node, new: &Node) -> bool {
    let facts = |node| (counts(node), super::decide::zone(node), processors(node));
    facts(old) != facts(new)
}

/// Nodes of the control plane run nobody's clients, and nodes that are not ready run none.
fn counts(node: &Node) -> bool {
    let roles = [
        "node-role.kubernetes.io/control-plane",
        "node-role.kubernetes.io/master",
    ];
    let labels = node.metadata.labels.as_ref();
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    !labels.is_some_and(|l| roles.iter().any(|role| l.contains_key(*role)))
        && conditions
            .into_iter()
            .flatten()
            .any(|c| c.type_ == "Ready" && c.status == "True")
}

/// All slices of one Service and family, by what is going to happen to them.
#[derive(Debug, Default)]
pub struct Slices {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<EndpointSlice>,
    pub unchanged: Vec<EndpointSlice>,
}

/// Puts hints on endpoints; slices whose hints become others move from `unchanged` to `update`. For
/// [`Mode::Proportional`] it says what there is to say of it: [`ENABLED`], or why not.
pub fn apply(mode: Mode, shares: Option<&Shares>, slices: &mut Slices) -> Option<String> {
    match mode {
        Mode::Everybody => {
            set_all(slices, &|_| None);
            None
        }
        Mode::Close { nodes } => {
            set_all(slices, &|endpoint| close(endpoint, nodes));
            None
        }
        Mode::Proportional => Some(match proportional(shares, slices) {
            Ok(()) => ENABLED.to_owned(),
            Err(why) => {
                set_all(slices, &|_| None);
                why
            }
        }),
    }
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|c| c.ready) == Some(true)
}

fn zone_of(endpoint: &Endpoint) -> Option<&str> {
    endpoint.zone.as_deref().filter(|zone| !zone.is_empty())
}

fn for_zone(name: &str) -> EndpointHints {
    EndpointHints {
        for_zones: Some(vec![ForZone { name: name.to_owned() }]),
        ..EndpointHints::default()
    }
}

fn close(endpoint: &Endpoint, nodes: bool) -> Option<EndpointHints> {
    let zone = zone_of(endpoint);
    let node = endpoint.node_name.as_ref().filter(|_| nodes);
    if !is_ready(endpoint) || (zone.is_none() && node.is_none()) {
        return None;
    }
    Some(EndpointHints {
        for_zones: zone.map(|name| vec![ForZone { name: name.to_owned() }]),
        for_nodes: node.map(|name| vec![ForNode { name: name.clone() }]),
    })
}

fn set_all(slices: &mut Slices, wanted: &dyn Fn(&Endpoint) -> Option<EndpointHints>) {
    let stays = |slice: &EndpointSlice| slice.endpoints.iter().flatten().all(|e| e.hints == wanted(e));
    let (unchanged, differing): (Vec<_>, Vec<_>) = std::mem::take(&mut slices.unchanged).into_iter().partition(stays);
    slices.unchanged = unchanged;
    slices.update.extend(differing);
    for slice in slices.create.iter_mut().chain(&mut slices.update) {
        for endpoint in slice.endpoints.iter_mut().flatten() {
            endpoint.hints = wanted(endpoint);
        }
    }
}

/// How many endpoints a zone should have.
struct Allocation {
    maximum: usize,
    desired: f64,
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)] // numbers of endpoints
fn allocations(shares: Option<&Shares>, endpoints: usize) -> Result<BTreeMap<String, Allocation>, String> {
    let shares = &shares.ok_or_else(|| NO_NODES.to_owned())?.0;
    let counted = |why: &str| format!("{why} ({endpoints} endpoints, {} zones)", shares.len());
    if shares.len() > endpoints {
        return Err(counted(TOO_FEW));
    }
    let mut minima = 0;
    let mut found = BTreeMap::new();
    for (zone, share) in shares {
        let desired = share * endpoints as f64;
        let minimum = (desired * (1.0 / (1.0 + OVERLOAD))).ceil();
        minima += minimum as usize;
        found.insert(zone.clone(), (minimum, desired.max(minimum)));
    }
    let spare = endpoints.checked_sub(minima).ok_or_else(|| counted(OVERLOADED))?;
    Ok(found
        .into_iter()
        .map(|(zone, (minimum, desired))| {
            let maximum = minimum as usize + spare;
            (zone, Allocation { maximum, desired })
        })
        .collect())
}

fn proportional(shares: Option<&Shares>, slices: &mut Slices) -> Result<(), String> {
    let every = slices.create.iter().chain(&slices.update).chain(&slices.unchanged);
    let total = every
        .flat_map(|s| s.endpoints.iter().flatten())
        .filter(|e| is_ready(e))
        .count();
    let allocations = allocations(shares, total)?;

    // What slices that stay as they are have given already. Those whose hints no longer fit are written, too.
    let mut given: BTreeMap<String, usize> = BTreeMap::new();
    let (mut stay, mut before) = (Vec::new(), BTreeMap::new());
    for slice in std::mem::take(&mut slices.unchanged) {
        match hinted(&slice, &given, &allocations) {
            Some(hints) => {
                hints
                    .into_iter()
                    .for_each(|(zone, n)| *given.entry(zone).or_default() += n);
                stay.push(slice);
            }
            None => {
                before.insert(slice.metadata.name.clone(), slice.clone());
                slices.update.push(slice);
            }
        }
    }
    slices.unchanged = stay;

    // First everybody's own zone, then some are given away.
    for endpoint in written(slices) {
        endpoint.hints = None;
        if is_ready(endpoint) {
            let zone = zone_of(endpoint).ok_or_else(|| NO_ZONE.to_owned())?.to_owned();
            endpoint.hints = Some(for_zone(&zone));
            *given.entry(zone).or_default() += 1;
        }
    }
    if given.is_empty() {
        return Err(NO_HINTS.to_owned());
    }
    let (mut giving, mut receiving) = exchange(&allocations, &given);
    for endpoint in written(slices).filter(|e| is_ready(e)) {
        let Some(left) = zone_of(endpoint)
            .and_then(|zone| giving.get_mut(zone))
            .filter(|n| **n > 0)
        else {
            continue;
        };
        let Some((zone, wanted)) = receiving.iter_mut().find(|(_, wanted)| **wanted > 0) else {
            break;
        };
        endpoint.hints = Some(for_zone(zone));
        *left -= 1;
        *wanted -= 1;
    }
    // Zones without nodes make their slices be looked at each time; what comes out the same is not written.
    let (same, differing) = std::mem::take(&mut slices.update)
        .into_iter()
        .partition::<Vec<_>, _>(|slice| before.get(&slice.metadata.name) == Some(slice));
    slices.unchanged.extend(same);
    slices.update = differing;
    Ok(())
}

fn written(slices: &mut Slices) -> impl Iterator<Item = &mut Endpoint> {
    let all = slices.create.iter_mut().chain(&mut slices.update);
    all.flat_map(|slice| slice.endpoints.iter_mut().flatten())
}

/// The zones that a slice's hints name; `None` if they no longer fit.
fn hinted(
    slice: &EndpointSlice,
    given: &BTreeMap<String, usize>,
    allocations: &BTreeMap<String, Allocation>,
) -> Option<BTreeMap<String, usize>> {
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for endpoint in slice.endpoints.iter().flatten() {
        let zones = endpoint
            .hints
            .as_ref()
            .and_then(|h| h.for_zones.as_deref())
            .unwrap_or_default();
        if !is_ready(endpoint) {
            continue;
        }
        if zones.is_empty() {
            return None;
        }
        for zone in zones {
            *found.entry(zone.name.clone()).or_default() += 1;
        }
    }
    let fits = found.iter().all(|(zone, n)| {
        let already = given.get(zone).copied().unwrap_or(0);
        allocations.get(zone).is_some_and(|a| n + already <= a.maximum)
    });
    fits.then_some(found)
}

/// How many endpoints each zone gives to others, and how many each gets.
#[allow(clippy::cast_precision_loss)] // numbers of endpoints
fn exchange(
    allocations: &BTreeMap<String, Allocation>,
    given: &BTreeMap<String, usize>,
) -> (BTreeMap<String, usize>, BTreeMap<String, usize>) {
    let (mut over, mut under) = (BTreeMap::new(), BTreeMap::new());
    for (zone, allocation) in allocations {
        let has = given.get(zone).copied().unwrap_or(0) as f64;
        if has > allocation.desired {
            over.insert(zone.clone(), has - allocation.desired);
        } else if has < allocation.desired {
            under.insert(zone.clone(), allocation.desired - has);
        }
    }
    let most = |zones: &BTreeMap<String, f64>| {
        let mut best: Option<(String, f64)> = None;
        for (zone, n) in zones.iter().filter(|(_, n)| **n > 0.0) {
            if best.as_ref().is_none_or(|(_, known)| n > known) {
                best = Some((zone.clone(), *n));
            }
        }
        best
    };
    let (mut giving, mut receiving): (BTreeMap<String, usize>, BTreeMap<String, usize>) = Default::default();
    while let (Some((giver, gives)), Some((taker, takes))) = (most(&over), most(&under)) {
        // Less than half an endpoint is not worth one.
        if (gives < 1.0 && takes < 1.0) || gives < 0.5 || takes < 0.5 {
            break;
        }
        *giving.entry(giver.clone()).or_default() += 1;
        *receiving.entry(taker.clone()).or_default() += 1;
        over.entry(giver).and_modify(|n| *n -= 1.0);
        under.entry(taker).and_modify(|n| *n -= 1.0);
    }
    (giving, receiving)
}
