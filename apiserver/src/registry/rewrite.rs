//! A change of an object by the server's own hand, on behalf of a request about something else (a Binding, an
//! Eviction): compare-and-swap without the kind's update rules, which would not let a client do this.

use serde_json::Value;
use steersman_schema::status::Status;
use steersman_storage::store;

use super::admit::Admitted;
use super::{object, store_refusal};
use crate::api::Api;
use crate::call::{Authorized, Target};

/// Rounds of compare-and-swap; see [`super::update`].
const ROUNDS: usize = 20;

/// Replaces an object by what `make` makes of it. The admitted object is what this is done for: without it there is
/// no way in.
///
/// # Errors
/// 404, what `make` refuses, what the store refuses.
pub async fn rewrite(
    api: &Api,
    ticket: &Authorized,
    target: &Target,
    _because_of: &Admitted,
    dry_run: bool,
    make: impl Fn(&Value) -> Result<Value, Status>,
) -> Result<Value, Status> {
    super::get::check_name(&target.name)?;
    let resource = &target.resource;
    let key = target.key();
    let refuse = |error| store_refusal(error, resource, &target.name, "update");
    let read = |stored: &[u8], revision: i64| -> Result<(Value, i64), Status> {
        let mut value = object::value_of(resource, stored, &key)?;
        object::set_version(&mut value, revision);
        Ok((value, revision))
    };
    let cached = api.cache.get(&key);
    let mut certain = cached.is_none();
    let mut live = match cached {
        Some(found) => Some((object::value(resource, &found)?, found.mod_revision())),
        None => api
            .store
            .get(&key)
            .await
            .map_err(refuse)?
            .kv
            .map(|kv| read(&kv.value, kv.mod_revision))
            .transpose()?,
    };
    for _ in 0..ROUNDS {
        let Some((old, revision)) = live else {
            return Err(target.not_found());
        };
        let made = match make(&old) {
            Ok(made) => made,
            Err(status) if certain => return Err(status),
            Err(status) => {
                // Judged by an old copy, perhaps.
                let newer = api.store.get(&key).await.map_err(refuse)?.kv;
                if newer.as_ref().map(|kv| kv.mod_revision) == Some(revision) {
                    return Err(status);
                }
                certain = true;
                live = newer.map(|kv| read(&kv.value, kv.mod_revision)).transpose()?;
                continue;
            }
        };
        if dry_run {
            return Ok(made);
        }
        ticket.call().stage("store");
        match api
            .store
            .update(&key, object::to_stored(resource, &made)?, revision, None)
            .await
        {
            Ok(revision) => {
                let mut made = made;
                object::set_version(&mut made, revision);
                return Ok(made);
            }
            Err(store::Error::Conflict { current, .. }) => {
                certain = true;
                live = current.map(|kv| read(&kv.value, kv.mod_revision)).transpose()?;
            }
            Err(error) => return Err(refuse(error)),
        }
    }
    Err(Status::modified(resource.group(), resource.plural(), &target.name))
}
