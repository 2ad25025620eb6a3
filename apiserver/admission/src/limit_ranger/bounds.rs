//! The bounds of a LimitRange, and upstream's sentences for what lies outside.

use std::collections::BTreeMap;

use serde_json::Value;
use steersman_auth::lister::{items, text};
use steersman_quota::amounts::{Amounts, of as amounts};
use steersman_quota::sums::of_pod as sums_of_pod;
use steersman_schema::quantity::Quantity;

/// Every bound that a pod breaks.
pub(super) fn of_pod(range: &Value, pod: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    for limit in items(range, "/spec/limits") {
        match text(limit, "/type") {
            "Container" => {
                for list in ["/spec/containers", "/spec/initContainers"] {
                    for container in items(pod, list) {
                        let [requests, limits] =
                            ["/resources/requests", "/resources/limits"].map(|at| amounts(container.pointer(at)));
                        check(&mut faults, "Container", limit, &requests, &limits);
                    }
                }
            }
            "Pod" => {
                let [requests, limits] = ["requests", "limits"].map(|list| sums_of_pod(pod, list));
                check(&mut faults, "Pod", limit, &requests, &limits);
            }
            _ => {}
        }
    }
    faults
}

/// Every bound that a claim breaks. Only its request counts; claims know no limits here.
pub(super) fn of_claim(range: &Value, claim: &Value) -> Vec<String> {
    let kind = "PersistentVolumeClaim";
    let requests = amounts(claim.pointer("/spec/resources/requests"));
    let mut faults = Vec::new();
    for limit in items(range, "/spec/limits").iter().filter(|l| text(l, "/type") == kind) {
        for (name, bound) in amounts(limit.get("min")) {
            faults.extend(minimum(kind, &name, &bound, &requests, &BTreeMap::new()));
        }
        for (name, bound) in amounts(limit.get("max")) {
            let what = format!("maximum {name} usage per {kind} is {bound}");
            match requests.get(&name) {
                None => faults.push(format!("{what}.  No request is specified")),
                Some(request) if *request > bound => faults.push(format!("{what}, but request is {request}")),
                Some(_) => {}
            }
        }
    }
    faults
}

fn check(faults: &mut Vec<String>, kind: &str, limit: &Value, requests: &Amounts, limits: &Amounts) {
    for (name, bound) in amounts(limit.get("min")) {
        faults.extend(minimum(kind, &name, &bound, requests, limits));
    }
    for (name, bound) in amounts(limit.get("max")) {
        faults.extend(maximum(kind, &name, &bound, requests, limits));
    }
    for (name, bound) in amounts(limit.get("maxLimitRequestRatio")) {
        faults.extend(ratio(kind, &name, &bound, requests, limits));
    }
}

fn minimum(kind: &str, name: &str, bound: &Quantity, requests: &Amounts, limits: &Amounts) -> Option<String> {
    let what = format!("minimum {name} usage per {kind} is {bound}");
    let Some(request) = requests.get(name) else {
        return Some(format!("{what}.  No request is specified"));
    };
    if request < bound {
        return Some(format!("{what}, but request is {request}"));
    }
    let limit = limits.get(name).filter(|limit| *limit < bound)?;
    Some(format!("{what}, but limit is {limit}"))
}

fn maximum(kind: &str, name: &str, bound: &Quantity, requests: &Amounts, limits: &Amounts) -> Option<String> {
    let what = format!("maximum {name} usage per {kind} is {bound}");
    let Some(limit) = limits.get(name) else {
        return Some(format!("{what}.  No limit is specified"));
    };
    if limit > bound {
        return Some(format!("{what}, but limit is {limit}"));
    }
    let request = requests.get(name).filter(|request| *request > bound)?;
    Some(format!("{what}, but request is {request}"))
}

fn ratio(kind: &str, name: &str, bound: &Quantity, requests: &Amounts, limits: &Amounts) -> Option<String> {
    let what = format!("{name} max limit to request ratio per {kind} is {bound}");
    let Some(request) = requests.get(name).filter(|r| !r.is_zero()) else {
        return Some(format!("{what}, but no request is specified or request is 0"));
    };
    let Some(limit) = limits.get(name).filter(|l| !l.is_zero()) else {
        return Some(format!("{what}, but no limit is specified or limit is 0"));
    };
    #[allow(
        clippy::cast_precision_loss,
        reason = "upstream compares ratios as floating point, too"
    )]
    let [limit, request, bound] = [limit, request, bound].map(|quantity| quantity.milli_value() as f64);
    let observed = limit / request;
    (observed * 1000.0 > bound).then(|| format!("{what}, but provided ratio is {observed:.6}"))
}
