//! The verbs, once for all kinds: this folder knows metadata and bytes, never a kind.
//!
//! Reads come from the watch cache, writes go to the store. Each verb is one file. A write's order is the same
//! everywhere: decode, default, mutating admission, prepare, validate, validating admission, store; the store takes
//! only what [`admit::Admitted`] vouches for.

pub mod admit;
pub mod collection;
pub mod convert;
pub mod create;
pub mod decode;
pub mod definition;
pub mod delete;
pub mod get;
pub mod list;
pub mod managed;
pub mod matching;
pub mod object;
pub mod patch;
pub mod rewrite;
pub mod rows;
pub mod transform;
pub mod update;
pub mod watch;

use steersman_schema::status::Status;
use steersman_storage::{cache, store};

use crate::resources::Resource;

/// What a failed read or write of the store means to the client.
pub fn store_refusal(error: store::Error, resource: &Resource, name: &str, operation: &str) -> Status {
    let (group, plural) = (resource.group(), resource.plural());
    match error {
        store::Error::AlreadyExists { .. } => Status::already_exists(group, plural, name),
        store::Error::Conflict { current: None, .. } => Status::not_found(group, plural, name),
        store::Error::Conflict { .. } => Status::modified(group, plural, name),
        store::Error::Compacted { .. } => Status::expired("The resourceVersion for the provided list is too old."),
        store::Error::FutureRevision { requested } => Status::too_large_resource_version(requested, 0),
        store::Error::TooLarge { .. } => Status::request_entity_too_large("etcdserver: request is too large"),
        other => unanswered(other, &format!("the {operation} operation against {plural}")),
    }
}

/// What a store that does not answer means to the client. `what` it was asked for.
pub fn unanswered(error: store::Error, what: &str) -> Status {
    match error {
        store::Error::Unavailable(why) | store::Error::NoSpace(why) => {
            tracing::warn!(what, error = %why, "store unavailable");
            Status::service_unavailable(format!("{what} failed: the store is unavailable")).retry_after(1)
        }
        store::Error::Timeout(why) | store::Error::Unknown(why) => {
            tracing::warn!(what, error = %why, "store did not answer");
            Status::timeout(
                "request did not complete within requested timeout - context deadline exceeded",
                0,
            )
        }
        store::Error::Internal(why) => {
            tracing::error!(what, error = %why, "store failed");
            Status::internal(why)
        }
        other => Status::internal(other),
    }
}

/// What a failed read of the cache means to the client.
pub fn cache_refusal(error: cache::Error, resource: &Resource, operation: &str) -> Status {
    match error {
        cache::Error::NotReady => Status::too_many_requests("storage is (re)initializing", 1),
        cache::Error::TooLarge { requested, current } => Status::too_large_resource_version(requested, current),
        cache::Error::Expired { requested, oldest } => {
            Status::expired(format!("too old resource version: {requested} ({oldest})"))
        }
        cache::Error::Store(error) => store_refusal(error, resource, "", operation),
    }
}
