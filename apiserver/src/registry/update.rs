//! PUT, and the loop that every change of an existing object runs in.
//!
//! [`change`] is compare-and-swap with a retry: what the caller's closure makes of the *live* object (applying a patch
//! included) goes through mutating admission, preparation, validation and validating admission, and is written only
//! if the object is still the one that was looked at. Everything between reading and writing is inside the loop.

use std::future::Future;
use std::sync::Arc;

use http::Response;
use serde_json::Value;
use steersman_admission::Operation;
use steersman_kinds::{again, meta};
use steersman_schema::facts::Gvk;
use steersman_schema::field::quote;
use steersman_schema::status::Status;
use steersman_storage::store;

use super::admit::{Admission, Admitted};
use super::create::{context, dedup_owners, strip};
use super::{create, decode, delete, managed, object, store_refusal, transform};
use crate::api::Api;
use crate::body::Body;
use crate::call::{Authorized, Target};
use crate::options::WriteOptions;
use crate::{hooks, negotiate, request, respond};

/// Rounds of compare-and-swap before the client is told of the conflict. Each lost round means that somebody else's
/// write went through.
const ROUNDS: usize = 20;

/// What a change is made of.
pub struct Change<'a> {
    pub api: &'a Api,
    pub ticket: &'a Authorized,
    pub target: &'a Target,
    pub options: &'a WriteOptions,
    /// Kind of the body, for admission.
    pub gvk: &'a Gvk,
    /// `UpdateOptions` or `PatchOptions`.
    pub options_kind: &'a str,
    /// Whether a missing object may be created (PUT of certain kinds, apply).
    pub may_create: bool,
    /// Whether what is made of the live object says already who owns its fields.
    pub applies: bool,
}

/// How a change ended.
pub struct Changed {
    pub object: Value,
    pub created: bool,
}

/// The live object of one round.
struct Live {
    /// In the served version, defaulted, with resourceVersion.
    value: Arc<Value>,
    revision: i64,
    /// Read from the store in this very round, not from the cache.
    certain: bool,
}

/// Answers a PUT.
///
/// # Errors
/// 400, 404, 409, 422 and what admission and the store refuse.
pub async fn update(api: &Api, ticket: &Authorized, target: &Target) -> Result<Response<Body>, Status> {
    let call = ticket.call();
    let resource = &target.resource;
    let output = negotiate::output(&call.headers, &call.query, false)?;
    let options = WriteOptions::read(&call.query, "UpdateOptions")?;
    let media = negotiate::input(&call.headers)?;
    call.stage("decode");
    let body = call.read_body().await?;
    let sent = decode::resource_object(call, media, &body, resource, options.field_validation)?;
    check_identity(&sent, target)?;
    let change = Change {
        api,
        ticket,
        target,
        options: &options,
        gvk: &resource.gvk,
        options_kind: "UpdateOptions",
        may_create: resource.kind.create_on_update && target.subresource.is_empty(),
        applies: false,
    };
    let wanted_uid = sent
        .pointer("/metadata/uid")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let changed = change
        .run(|old: Option<Arc<Value>>| {
            let outcome = match &old {
                Some(old) => uid_precondition(target, &wanted_uid, old).map(|()| sent.clone()),
                None => Ok(sent.clone()),
            };
            async move { outcome }
        })
        .await?;
    let code = if changed.created { 201 } else { 200 };
    let value = transform::object(resource, changed.object, &output, &call.query, call.now)?;
    respond::object(&output, code, &value)
}

/// The object's name and namespace must be the URL's.
///
/// # Errors
/// 400 with upstream's texts.
pub fn check_identity(object: &Value, target: &Target) -> Result<(), Status> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let namespace = text("/metadata/namespace");
    if target.resource.facts.namespaced && !namespace.is_empty() && namespace != target.namespace {
        return Err(Status::bad_request(meta::NamespaceMismatch.to_string()));
    }
    let name = text("/metadata/name");
    if name.is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({} based on URL) was undeterminable: name must be provided",
            target.name
        )));
    }
    if name != target.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    Ok(())
}

fn uid_precondition(target: &Target, wanted: &str, old: &Value) -> Result<(), Status> {
    let found = old.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
    if wanted.is_empty() || wanted == found {
        return Ok(());
    }
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}",
        target.key()
    );
    Err(Status::conflict(
        target.resource.group(),
        target.resource.plural(),
        &target.name,
        &why,
    ))
}

impl Change<'_> {
    /// Runs the loop. `make` turns the live object (`None`: there is none) into the one that is wanted.
    ///
    /// # Errors
    /// Whatever stops the change for good.
    pub async fn run<F, Fut>(&self, make: F) -> Result<Changed, Status>
    where
        F: Fn(Option<Arc<Value>>) -> Fut,
        Fut: Future<Output = Result<Value, Status>>,
    {
        let target = self.target;
        super::get::check_name(&target.name)?;
        let key = target.key();
        let mut live = self.first_look(&key).await?;
        for _ in 0..ROUNDS {
            let outcome = self.round(&key, live.as_ref(), &make).await;
            live = match outcome {
                Ok(Round::Done(mut changed)) => {
                    object::as_stored(&target.resource, &mut changed.object);
                    return Ok(changed);
                }
                Ok(Round::Lost(newer)) => newer,
                // Judged by an old copy: look at the store before telling the client.
                Err(status) if status.code < 500 && live.as_ref().is_some_and(|live| !live.certain) => {
                    let newer = self.certain_look(&key).await?;
                    if newer.as_ref().map(|n| n.revision) == live.as_ref().map(|l| l.revision) {
                        return Err(status);
                    }
                    newer
                }
                Err(status) => return Err(status),
            };
        }
        Err(Status::modified(
            target.resource.group(),
            target.resource.plural(),
            &target.name,
        ))
    }

    async fn first_look(&self, key: &str) -> Result<Option<Live>, Status> {
        if let Some(found) = self.api.cache.get(key) {
            let value = Arc::new(object::value(&self.target.resource, &found)?);
            return Ok(Some(Live {
                value,
                revision: found.mod_revision(),
                certain: false,
            }));
        }
        self.certain_look(key).await
    }

    async fn certain_look(&self, key: &str) -> Result<Option<Live>, Status> {
        let target = self.target;
        let got = self
            .api
            .store
            .get(key)
            .await
            .map_err(|error| store_refusal(error, &target.resource, &target.name, "update"))?;
        got.kv
            .map(|kv| self.live_of(kv.value.as_ref(), kv.mod_revision, key))
            .transpose()
    }

    fn live_of(&self, stored: &[u8], revision: i64, key: &str) -> Result<Live, Status> {
        let mut value = object::value_of(&self.target.resource, stored, key)?;
        object::set_version(&mut value, revision);
        Ok(Live {
            value: Arc::new(value),
            revision,
            certain: true,
        })
    }

    async fn round<F, Fut>(&self, key: &str, live: Option<&Live>, make: &F) -> Result<Round, Status>
    where
        F: Fn(Option<Arc<Value>>) -> Fut,
        Fut: Future<Output = Result<Value, Status>>,
    {
        let Some(live) = live else {
            return self.round_without(make).await;
        };
        let (api, target, call) = (self.api, self.target, self.ticket.call());
        let old = &live.value;
        let mut new = make(Some(old.clone())).await?;
        self.track(Some(old), &mut new);
        dedup_owners(call, &mut new, false);
        let admission = self.admission(Operation::Update);
        let mut new = admission.mutate(new, Some(old.clone())).await?;
        dedup_owners(call, &mut new, true);
        managed::keep_times(&mut new, old);
        self.check_version(&mut new, live)?;
        call.stage("prepare");
        let reservation = hooks::before_update(api, self.ticket, target, &mut new, old, self.options.dry_run).await?;
        let outcome = self.finish(new, live, &admission).await;
        let admitted = match outcome {
            Ok(admitted) => admitted,
            Err(status) => {
                hooks::release(api, reservation).await;
                return Err(status);
            }
        };
        let outcome = self.write(key, live, admitted).await;
        match &outcome {
            Ok(Round::Done(_)) if !self.options.dry_run => hooks::updated(api, reservation).await,
            _ => hooks::release(api, reservation).await,
        }
        outcome
    }

    async fn round_without<F, Fut>(&self, make: &F) -> Result<Round, Status>
    where
        F: Fn(Option<Arc<Value>>) -> Fut,
        Fut: Future<Output = Result<Value, Status>>,
    {
        let target = self.target;
        if !self.may_create {
            return Err(target.not_found());
        }
        let mut new = make(None).await?;
        self.track(None, &mut new);
        // A write that creates is a create: it is authorized again as such.
        request::authorize_create(self.api, self.ticket, target)?;
        match create::object_of(self.api, self.ticket, target, new, self.options).await {
            Ok(object) => Ok(Round::Done(Changed { object, created: true })),
            Err(status) if status.reason == "AlreadyExists" => Ok(Round::Lost(self.certain_look(&target.key()).await?)),
            Err(status) => Err(status),
        }
    }

    fn track(&self, live: Option<&Value>, new: &mut Value) {
        if !self.applies {
            managed::track(self.api, self.ticket, self.target, self.options, live, new);
        }
    }

    fn admission(&self, operation: Operation) -> Admission<'_> {
        Admission {
            api: self.api,
            ticket: self.ticket,
            target: self.target,
            gvk: self.gvk,
            operation,
            options: self.options.to_value(self.options_kind),
            dry_run: self.options.dry_run,
        }
    }

    /// The resourceVersion that the client sent must be the live one; none means "whatever is there" where the kind
    /// allows that.
    fn check_version(&self, new: &mut Value, live: &Live) -> Result<(), Status> {
        let resource = &self.target.resource;
        let sent = new
            .pointer("/metadata/resourceVersion")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let unset = matches!(sent, "" | "0");
        if unset && resource.kind.unconditional_update {
            object::set_version(new, live.revision);
            return Ok(());
        }
        if unset {
            let errors = vec![meta::version_required()];
            return Err(Status::invalid(
                resource.group(),
                resource.plural(),
                &self.target.name,
                &errors,
            ));
        }
        if sent.parse::<u64>().is_err() {
            // Upstream has no status for this.
            let why = format!("strconv.ParseUint: parsing {}: invalid syntax", quote(sent));
            return Err(Status::new(500, "", why));
        }
        if sent.parse::<i64>() != Ok(live.revision) {
            return Err(Status::modified(resource.group(), resource.plural(), &self.target.name));
        }
        Ok(())
    }

    /// Preparation, validation and validating admission of a change.
    async fn finish(&self, mut new: Value, live: &Live, admission: &Admission<'_>) -> Result<Admitted, Status> {
        let (target, call) = (self.target, self.ticket.call());
        let resource = &target.resource;
        let (kind, old) = (resource.kind, live.value.as_ref());
        let namespace = resource.facts.namespaced.then_some(target.namespace.as_str());
        let context = context(self.ticket);
        strip(&mut new);
        let other = kind
            .updates
            .iter()
            .find(|(name, _)| *name == target.subresource)
            .map(|(_, update)| update);
        let update = if target.subresource == "status" {
            kind.status.as_ref()
        } else {
            other
        };
        if let Some(update) = update {
            if target.subresource == "status" {
                keep_all_but_status(&mut new, old);
            }
            (update.prepare)(&mut new, old, &context);
        } else if kind.status.is_some() {
            put_back(&mut new, old, "status");
        }
        meta::prepare_update(&mut new, old, namespace).map_err(|error| Status::bad_request(error.to_string()))?;
        if update.is_none() {
            (kind.prepare_update)(&mut new, old, &context);
        }
        if target.subresource != "status" {
            meta::bump_generation(kind, &mut new, old);
        }
        call.stage("validate");
        let mut errors = again::validate_update(kind, &new, old, resource.facts.namespaced, &target.subresource);
        errors.extend(match update {
            Some(update) => (update.validate)(&new, old),
            None => (kind.validate_update)(&new, old),
        });
        if !errors.is_empty() {
            return Err(Status::invalid(
                &resource.stored_gvk.group,
                &resource.gvk.kind,
                &target.name,
                &errors,
            ));
        }
        if target.subresource.is_empty() {
            (kind.warnings)(&new, Some(old)).iter().for_each(|text| call.warn(text));
        }
        admission.validate(new, Some(live.value.clone())).await
    }

    async fn write(&self, key: &str, live: &Live, admitted: Admitted) -> Result<Round, Status> {
        let (api, target, call) = (self.api, self.target, self.ticket.call());
        let resource = &target.resource;
        let new = admitted.object();
        if delete::emptied_finalizers(new, &live.value) && hooks::may_go(resource, new) {
            if self.options.dry_run {
                return Ok(Round::Done(Changed {
                    object: admitted.into_object(),
                    created: false,
                }));
            }
            call.stage("store");
            return match api.store.delete(key, live.revision).await {
                Ok(_) => {
                    hooks::deleted(api, resource, &live.value).await;
                    Ok(Round::Done(Changed {
                        object: admitted.into_object(),
                        created: false,
                    }))
                }
                Err(store::Error::Conflict { current, .. }) => self.lost(current, key),
                Err(error) => Err(store_refusal(error, resource, &target.name, "update")),
            };
        }
        if object::unchanged(resource, new, live.value.as_ref()) {
            // Nothing changes: no write, same resourceVersion; but only if that is still the newest.
            if !live.certain && !self.options.dry_run {
                let newer = self.certain_look(key).await?;
                if newer.as_ref().map(|newer| newer.revision) != Some(live.revision) {
                    return Ok(Round::Lost(newer));
                }
            }
            return Ok(Round::Done(Changed {
                object: admitted.into_object(),
                created: false,
            }));
        }
        if self.options.dry_run {
            return Ok(Round::Done(Changed {
                object: admitted.into_object(),
                created: false,
            }));
        }
        call.stage("store");
        let bytes = object::to_stored(resource, new)?;
        match api
            .store
            .update(key, bytes, live.revision, hooks::ttl(api, resource))
            .await
        {
            Ok(revision) => {
                let mut object = admitted.into_object();
                object::set_version(&mut object, revision);
                Ok(Round::Done(Changed { object, created: false }))
            }
            Err(store::Error::Conflict { current, .. }) => self.lost(current, key),
            Err(error) => Err(store_refusal(error, resource, &target.name, "update")),
        }
    }

    fn lost(&self, current: Option<Box<store::KeyValue>>, key: &str) -> Result<Round, Status> {
        Ok(Round::Lost(
            current
                .map(|kv| self.live_of(&kv.value, kv.mod_revision, key))
                .transpose()?,
        ))
    }
}

enum Round {
    Done(Changed),
    /// Somebody else was faster: what is there now.
    Lost(Option<Live>),
}

/// A status write changes nothing but status and metadata.
fn keep_all_but_status(new: &mut Value, old: &Value) {
    let (Some(new), Some(old)) = (new.as_object_mut(), old.as_object()) else {
        return;
    };
    new.retain(|key, _| matches!(key.as_str(), "metadata" | "status" | "apiVersion" | "kind"));
    for (key, value) in old {
        if !matches!(key.as_str(), "metadata" | "status") {
            new.insert(key.clone(), value.clone());
        }
    }
}

fn put_back(new: &mut Value, old: &Value, key: &str) {
    let Some(new) = new.as_object_mut() else { return };
    match old.get(key) {
        Some(value) => new.insert(key.to_owned(), value.clone()),
        None => new.remove(key),
    };
}
