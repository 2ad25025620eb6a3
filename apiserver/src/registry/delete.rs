//! DELETE of one object: graceful, held by finalizers, or at once.
//!
//! [`decide`] is the whole decision, pure; [`delete`] carries it out under compare-and-swap.

use std::sync::Arc;

use http::Response;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use steersman_admission::Operation;
use steersman_kinds::Kind;
use steersman_schema::codec;
use steersman_schema::facts::Gvk;
use steersman_schema::status::Status;
use steersman_storage::store;

use super::admit::Admission;
use super::{object, store_refusal, transform};
use crate::api::Api;
use crate::body::Body;
use crate::call::{Authorized, Call, Target, seconds};
use crate::options::{DeleteOptions, Propagation};
use crate::{hooks, negotiate, respond};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// Upstream's text for a delete of a Job that says nothing about its pods.
const JOB_WARNING: &str = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning";
/// Rounds of compare-and-swap; see [`super::update`].
const ROUNDS: usize = 20;

/// What a delete does to an object as it is now.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It goes.
    Remove,
    /// It stays, so changed, until its finalizers are gone or its grace is over.
    Mark(Value),
    /// It stays, and the mark is followed by the removal at once (grace of zero and nothing holds it).
    MarkAndRemove(Value),
    /// A deletion is under way already and this one changes nothing.
    AlreadyUnderWay,
}

/// How a delete ended.
pub struct Deleted {
    /// The object as it was at last.
    pub object: Value,
    /// It is gone.
    pub gone: bool,
}

/// Answers a DELETE.
///
/// # Errors
/// 400, 404, 409, 422 and what admission and the store refuse.
pub async fn delete(api: &Api, ticket: &Authorized, target: &Target) -> Result<Response<Body>, Status> {
    let call = ticket.call();
    let resource = &target.resource;
    let output = negotiate::output(&call.headers, &call.query, false)?;
    let options = read_options(call).await?;
    let silent = options.propagation.is_none() && options.orphan_dependents.is_none();
    if silent && resource.is("batch", "jobs") {
        call.warn(JOB_WARNING);
    }
    let deleted = object_of(api, ticket, target, &options).await?;
    let accepted = !deleted.gone && options.orphan_dependents == Some(false);
    let code = if accepted { 202 } else { 200 };
    if !deleted.gone || hooks::returns_object(resource) {
        let value = transform::object(resource, deleted.object, &output, &call.query, call.now)?;
        return respond::object(&output, code, &value);
    }
    let uid = deleted
        .object
        .pointer("/metadata/uid")
        .and_then(Value::as_str)
        .unwrap_or_default();
    Ok(respond::status(
        &output,
        &Status::deleted(resource.group(), resource.plural(), &target.name, uid),
    ))
}

/// Reads the options from the body, or from the query when there is none.
///
/// # Errors
/// 400 for a body that is no DeleteOptions, 422 for options that make no sense.
pub async fn read_options(call: &Call) -> Result<DeleteOptions, Status> {
    call.stage("decode");
    let body = call.read_body().await?;
    if body.is_empty() {
        return DeleteOptions::read(None, &call.query);
    }
    let media = negotiate::input(&call.headers)?;
    let gvk = Gvk::new("meta.k8s.io", "v1", "DeleteOptions");
    let decoded = codec::decode(media, &body, Some(&gvk)).map_err(|error| Status::bad_request(error.to_string()))?;
    if decoded.value.get("kind").and_then(Value::as_str) != Some("DeleteOptions") {
        let text = |key: &str| {
            decoded
                .value
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let (kind, version) = (text("kind"), text("apiVersion"));
        let scheme = "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27";
        let why = format!("no kind {kind:?} is registered for version {version:?} in scheme {scheme:?}");
        return Err(Status::bad_request(why));
    }
    DeleteOptions::read(Some(&decoded.value), &call.query)
}

/// Deletes an object.
///
/// # Errors
/// 404, 409 and what admission and the store refuse.
pub async fn object_of(
    api: &Api,
    ticket: &Authorized,
    target: &Target,
    options: &DeleteOptions,
) -> Result<Deleted, Status> {
    super::get::check_name(&target.name)?;
    let resource = &target.resource;
    let call = ticket.call();
    let key = target.key();
    let refuse = |error| store_refusal(error, resource, &target.name, "delete");
    let admission = Admission {
        api,
        ticket,
        target,
        gvk: &resource.gvk,
        operation: Operation::Delete,
        options: options.value.clone(),
        dry_run: options.dry_run,
    };
    let read = |stored: &[u8], revision: i64| -> Result<(Value, i64), Status> {
        let mut value = object::value_of(resource, stored, &key)?;
        object::set_version(&mut value, revision);
        Ok((value, revision))
    };
    let mut live = match api.cache.get(&key) {
        Some(found) => Some((object::value(resource, &found)?, found.mod_revision())),
        None => match api.store.get(&key).await.map_err(refuse)?.kv {
            Some(kv) => Some(read(&kv.value, kv.mod_revision)?),
            None => None,
        },
    };
    // What a removal by somebody else in between is answered with.
    let mut marked: Option<Value> = None;
    for _ in 0..ROUNDS {
        let Some((value, revision)) = live else {
            return match marked {
                Some(object) => Ok(Deleted { object, gone: true }),
                None => Err(target.not_found()),
            };
        };
        if marked.is_none() {
            if let Err(status) = preconditions(target, options, &value) {
                // The cache may be late: only the store's word counts.
                let got = api.store.get(&key).await.map_err(refuse)?.kv;
                if got.as_ref().map(|kv| kv.mod_revision) == Some(revision) {
                    return Err(status);
                }
                live = got.map(|kv| read(&kv.value, kv.mod_revision)).transpose()?;
                continue;
            }
            admission.delete(Arc::new(value.clone())).await?;
        }
        let verdict = if marked.is_some() {
            Verdict::Remove
        } else {
            decide(resource.kind, &value, options, call.now)
        };
        let (change, then_remove) = match verdict {
            Verdict::AlreadyUnderWay => {
                return Ok(Deleted {
                    object: value,
                    gone: false,
                });
            }
            Verdict::Remove => (None, true),
            Verdict::Mark(change) => (Some(change), false),
            Verdict::MarkAndRemove(change) => (Some(change), true),
        };
        if options.dry_run {
            return Ok(Deleted {
                object: change.unwrap_or(value),
                gone: then_remove,
            });
        }
        call.stage("store");
        let outcome = match &change {
            Some(change) => {
                api.store
                    .update(&key, object::to_stored(resource, change)?, revision, None)
                    .await
            }
            None => api.store.delete(&key, revision).await,
        };
        match (outcome, change) {
            (Ok(revision), Some(mut change)) => {
                object::set_version(&mut change, revision);
                if !then_remove {
                    return Ok(Deleted {
                        object: change,
                        gone: false,
                    });
                }
                marked = Some(change.clone());
                live = Some((change, revision));
            }
            (Ok(revision), None) => {
                hooks::deleted(api, resource, &value).await;
                let mut object = value;
                object::set_version(&mut object, revision);
                return Ok(Deleted { object, gone: true });
            }
            (Err(store::Error::Conflict { current, .. }), _) => {
                live = current.map(|kv| read(&kv.value, kv.mod_revision)).transpose()?;
            }
            (Err(error), _) => return Err(refuse(error)),
        }
    }
    Err(Status::modified(resource.group(), resource.plural(), &target.name))
}

fn preconditions(target: &Target, options: &DeleteOptions, object: &Value) -> Result<(), Status> {
    let resource = &target.resource;
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    // Upstream names the kind here where every other conflict names the resource.
    let conflict = |why: String| {
        Err(Status::conflict(
            resource.group(),
            &resource.gvk.kind,
            &target.name,
            &why,
        ))
    };
    let (uid, version) = (text("/metadata/uid"), text("/metadata/resourceVersion"));
    if let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != uid) {
        return conflict(format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
        ));
    }
    if let Some(wanted) = options.resource_version.as_deref().filter(|wanted| *wanted != version) {
        return conflict(format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). The object might have been modified"
        ));
    }
    Ok(())
}

/// What a delete does to `object`, which is live. Pure.
pub fn decide(kind: &Kind, object: &Value, options: &DeleteOptions, now: Timestamp) -> Verdict {
    let metadata = |key: &str| object.get("metadata").and_then(|metadata| metadata.get(key));
    let grace_now = metadata("deletionGracePeriodSeconds").and_then(Value::as_i64);
    let dying = metadata("deletionTimestamp").and_then(Value::as_str);
    let mut new = object.clone();
    let mut graceful = None;
    match (kind.grace, dying) {
        (Some(_), Some(when)) if grace_now.unwrap_or(0) != 0 => {
            let Some(shorter) = shortened(when, grace_now.unwrap_or(0), options.grace_period_seconds, now) else {
                return Verdict::AlreadyUnderWay;
            };
            graceful = Some(shorter.0);
            set(&mut new, "deletionTimestamp", shorter.1.into());
            set(&mut new, "deletionGracePeriodSeconds", shorter.0.into());
        }
        (Some(grace), None) => {
            let period = grace(object, options.grace_period_seconds);
            let period = if period < 0 { 1 } else { period };
            graceful = Some(period);
            let when = now.saturating_add(SignedDuration::from_secs(period)).unwrap_or(now);
            set(&mut new, "deletionTimestamp", seconds(when).into());
            set(&mut new, "deletionGracePeriodSeconds", period.into());
            raise_generation(&mut new);
        }
        _ => {}
    }
    let finalizers = finalizers_after(kind, object, options);
    let held = !finalizers.is_empty() || hooks::holds_itself(kind, object);
    set_finalizers(&mut new, finalizers);
    match graceful {
        Some(period) if period > 0 || held => Verdict::Mark(new),
        Some(_) => Verdict::MarkAndRemove(new),
        None if held => {
            if dying.is_none() {
                raise_generation(&mut new);
            }
            let later = dying
                .and_then(|when| when.parse::<Timestamp>().ok())
                .is_none_or(|when| when > now);
            if later {
                set(&mut new, "deletionTimestamp", seconds(now).into());
            }
            set(&mut new, "deletionGracePeriodSeconds", 0.into());
            hooks::mark_dying(kind, &mut new);
            if new == *object {
                Verdict::AlreadyUnderWay
            } else {
                Verdict::Mark(new)
            }
        }
        None => Verdict::Remove,
    }
}

/// A shorter grace for an object that is dying already, if the request asks for one: the period and the new time.
fn shortened(when: &str, current: i64, asked: Option<i64>, now: Timestamp) -> Option<(i64, String)> {
    let asked = asked.filter(|asked| *asked < current)?;
    let when = when.parse::<Timestamp>().ok()?;
    let moved = when
        .saturating_sub(SignedDuration::from_secs(current))
        .ok()?
        .saturating_add(SignedDuration::from_secs(asked))
        .ok()?;
    if moved < now {
        // The wait is over already; but only a request for zero removes without the node's word.
        return Some((if asked == 0 { 0 } else { 1 }, seconds(now)));
    }
    Some((asked, seconds(moved)))
}

/// The object's finalizers with those of the garbage collector as the request wants them.
fn finalizers_after(kind: &Kind, object: &Value, options: &DeleteOptions) -> Vec<Value> {
    let now: Vec<&Value> = object
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .collect();
    let has = |name: &str| now.iter().any(|f| f.as_str() == Some(name));
    // Events are never collected: the finalizers would stay forever.
    let collected = kind.plural != "events";
    let (orphan, foreground) = match (options.orphan_dependents, options.propagation) {
        _ if !collected => (false, false),
        (Some(orphan), _) => (orphan, false),
        (None, Some(Propagation::Orphan)) => (true, false),
        (None, Some(Propagation::Foreground)) => (false, true),
        (None, Some(Propagation::Background)) => (false, false),
        (None, None) if has(ORPHAN) => (true, false),
        (None, None) if has(FOREGROUND) => (false, true),
        (None, None) => (kind.orphans_by_default, false),
    };
    let mut out: Vec<Value> = now
        .into_iter()
        .filter(|f| !matches!(f.as_str(), Some(ORPHAN | FOREGROUND)))
        .cloned()
        .collect();
    if orphan {
        out.push(ORPHAN.into());
    }
    if foreground {
        out.push(FOREGROUND.into());
    }
    out
}

fn set(object: &mut Value, key: &str, value: Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert(key.to_owned(), value);
    }
}

fn set_finalizers(object: &mut Value, finalizers: Vec<Value>) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        if finalizers.is_empty() {
            metadata.remove("finalizers");
        } else {
            metadata.insert("finalizers".to_owned(), finalizers.into());
        }
    }
}

fn raise_generation(object: &mut Value) {
    let generation = object
        .pointer("/metadata/generation")
        .and_then(Value::as_i64)
        .unwrap_or(0);
    if generation > 0 {
        set(object, "generation", (generation + 1).into());
    }
}

/// Whether an update took the last finalizer of a dying object whose grace is over: then it goes instead of being
/// written (upstream: `ShouldDeleteDuringUpdate`).
pub fn emptied_finalizers(new: &Value, old: &Value) -> bool {
    let finalizers = new.pointer("/metadata/finalizers").and_then(Value::as_array);
    let grace = old
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64);
    finalizers.is_none_or(Vec::is_empty)
        && old.pointer("/metadata/deletionTimestamp").is_some()
        && grace.unwrap_or(0) == 0
}

#[cfg(test)]
mod tests;
