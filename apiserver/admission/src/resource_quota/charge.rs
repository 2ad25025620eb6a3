//! Whether a write fits into the quotas of its namespace, and what they say afterwards. Pure.

use std::collections::BTreeSet;

use serde_json::Value;
use steersman_auth::lister::text;
use steersman_quota::amounts::{self, Amounts};
use steersman_quota::{Evaluator, evaluator};

use crate::{Operation, Request};

/// Whether the write can change what is used at all.
pub(super) fn concerns(request: &Request) -> bool {
    let change = |pointer: &str| {
        let at = |object: Option<&Value>| object.and_then(|o| o.pointer(pointer)).cloned().unwrap_or_default();
        at(request.object.as_ref()) != at(request.old.as_deref())
    };
    let (create, update) = (
        request.operation == Operation::Create,
        request.operation == Operation::Update,
    );
    match (
        evaluator(&request.group, &request.resource),
        request.subresource.as_str(),
    ) {
        // A pod's requests are fixed, except by resizing; its deadline moves it from one scope to another.
        (Evaluator::Pods, "") => create || (update && change("/spec/activeDeadlineSeconds")),
        (Evaluator::Pods, "resize") => update,
        (Evaluator::Services | Evaluator::Claims, "") => create || update,
        (Evaluator::Claims, "status") => update && change("/status/allocatedResources"),
        (Evaluator::Count(_), "") => create,
        _ => false,
    }
}

/// The quotas that say something else afterwards.
///
/// # Errors
/// Which quota refuses, in upstream's words.
pub(super) fn charge(quotas: &[Value], request: &Request) -> Result<Vec<Value>, String> {
    let Some(object) = &request.object else {
        return Ok(Vec::new());
    };
    let measure = evaluator(&request.group, &request.resource);
    let mut interested = Vec::new();
    for quota in quotas.iter().filter(|quota| measure.matches(quota, object)) {
        let name = text(quota, "/metadata/name");
        let hard = amounts::of(quota.pointer("/status/hard"));
        let used = amounts::of(quota.pointer("/status/used"));
        let measured: Vec<String> = hard.into_keys().filter(|r| measure.measures(r)).collect();
        measure
            .constraints(&measured, object)
            .map_err(|why| format!("failed quota: {name}: {why}"))?;
        if measured.iter().any(|r| !used.contains_key(r)) {
            return Err(format!(
                "status unknown for quota: {name}, resources: {}",
                measured.join(",")
            ));
        }
        interested.push(quota);
    }
    let usage = measure.usage(object, request.now);
    let negative: Vec<&str> = usage
        .iter()
        .filter(|(_, q)| q.sign() < 0)
        .map(|(n, _)| n.as_str())
        .collect();
    if !negative.is_empty() {
        return Err(format!(
            "quota usage is negative for resource(s): {}",
            negative.join(",")
        ));
    }
    let mut changed = Vec::new();
    for quota in interested {
        // What this very object used before, if the quota was about it already.
        let before = request
            .old
            .as_deref()
            .filter(|old| request.operation == Operation::Update && measure.matches(quota, old));
        let more = match before {
            Some(old) => amounts::increase(&usage, &measure.usage(old, request.now)),
            None => usage.clone(),
        };
        changed.extend(add(quota, more, request.subresource == "status")?);
    }
    Ok(changed)
}

/// The quota with `more` used; `None` when that changes nothing.
fn add(quota: &Value, more: Amounts, whatever_the_limit: bool) -> Result<Option<Value>, String> {
    let hard = amounts::of(quota.pointer("/status/hard"));
    let used = amounts::of(quota.pointer("/status/used"));
    let more: Amounts = more
        .into_iter()
        .filter(|(name, q)| !q.is_zero() && hard.contains_key(name))
        .collect();
    if more.is_empty() {
        return Ok(None);
    }
    let mut sum = used.clone();
    amounts::add(&mut sum, &more);
    let exceeded: BTreeSet<&String> = more.keys().filter(|n| sum.get(*n) > hard.get(*n)).collect();
    if !exceeded.is_empty() && !whatever_the_limit {
        let only = |all: &Amounts| {
            let some = all.iter().filter(|(name, _)| exceeded.contains(name));
            amounts::shown(&some.map(|(name, q)| (name.clone(), *q)).collect())
        };
        return Err(format!(
            "exceeded quota: {}, requested: {}, used: {}, limited: {}",
            text(quota, "/metadata/name"),
            only(&more),
            only(&used),
            only(&hard)
        ));
    }
    let mut changed = quota.clone();
    changed["status"]["used"] = amounts::to_value(&sum);
    Ok(Some(changed))
}
