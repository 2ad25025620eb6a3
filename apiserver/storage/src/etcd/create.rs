//! Creates that are safe against lost answers.
//!
//! A create compares the key with "does not exist", which can come true again: a copy of it that is stuck somewhere (in a
//! member that is cut off, say) would be applied after the object was deleted, long after the answer. So every create also
//! compares the revision of a fence key. Before a lost answer is replaced by another copy or by a verdict, the fence is
//! moved: from then on no earlier copy can be applied, and the key's history up to there tells whether one was.
//!
//! Updates and deletes need no fence (`super::write`): the revision that they compare with never comes again.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use tokio::time::Instant;

use super::{EtcdStore, Failure, bytes_of, members::Effort, pb, revision_of, watch::history, write};
use crate::store::{Error, Result, Revision};
use pb::{request_op::Request as Op, response_op::Response as Answer};

/// So many fence keys are shared by all servers: they are never deleted. Others' moves cost one more round.
const FENCES: u64 = 16;

/// The fence of this store.
pub(super) struct Fence {
    key: String,
    /// Revision of the key's last write, as far as we know; 0: it does not exist.
    at: AtomicI64,
}

impl Default for Fence {
    fn default() -> Self {
        let number = RandomState::new().hash_one("fence") % FENCES;
        Fence {
            key: format!("steersman_fence_{number}"),
            at: AtomicI64::new(0),
        }
    }
}

/// Creates a key that must not exist, with a value that nobody else writes (objects have a UID; the rest is signed).
pub(super) async fn create(store: &EtcdStore, key: &str, value: Bytes, lease: i64) -> Result<Revision> {
    let (value, _) = store.signer.sign(value);
    let before = store.seen.revision();
    let begun = Instant::now();
    let mut effort = Effort::new();
    loop {
        let txn = transaction(store, key, &value, lease);
        let attempt = store
            .members
            .attempt(&mut effort, |member| async move { member.kv().txn(txn).await });
        match attempt.await {
            Ok(answer) => {
                let now = revision_of(answer.header.as_ref());
                store.seen.note(now, begun);
                if answer.succeeded {
                    return Ok(now);
                }
                let (there, fence) = found(answer);
                if there.is_some() {
                    return Err(Error::AlreadyExists { key: key.into() });
                }
                // Somebody has moved the fence, or we have never seen it.
                store.fence.at.store(fence, Ordering::Release);
            }
            Err(Failure::Final(error)) => return Err(write::with_size(error, Some(value.len()))),
            Err(Failure::NotDone(_)) => {}
            Err(Failure::Unknown(why)) => {
                let unknown = |why: &dyn std::fmt::Display| Error::Unknown(format!("key {key:?}: {why}"));
                let moved = move_fence(store, &mut effort).await.map_err(|_| unknown(&why))?;
                let past = history(&store.members, key, before + 1, moved)
                    .await
                    .map_err(|error| unknown(&error))?;
                if let Some(ours) = past.iter().find(|kv| kv.value == value) {
                    return Ok(ours.mod_revision);
                }
            }
        }
        if effort.is_over() {
            return Err(Error::Unavailable(effort.why()));
        }
    }
}

/// Writes the fence key; returns the revision of that. Several copies of it do no harm.
async fn move_fence(store: &EtcdStore, effort: &mut Effort) -> Result<Revision> {
    loop {
        let put = Op::RequestPut(pb::PutRequest {
            key: bytes_of(&store.fence.key),
            ..Default::default()
        });
        let txn = pb::TxnRequest {
            success: vec![pb::RequestOp { request: Some(put) }],
            ..Default::default()
        };
        match store
            .members
            .attempt(effort, |member| async move { member.kv().txn(txn).await })
            .await
        {
            Ok(answer) => {
                let now = revision_of(answer.header.as_ref());
                store.fence.at.fetch_max(now, Ordering::AcqRel);
                return Ok(now);
            }
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::NotDone(_) | Failure::Unknown(_)) => {}
        }
        if effort.is_over() {
            return Err(Error::Unavailable(effort.why()));
        }
    }
}

fn transaction(store: &EtcdStore, key: &str, value: &Bytes, lease: i64) -> pb::TxnRequest {
    let (key, fence) = (bytes_of(key), bytes_of(&store.fence.key));
    let put = Op::RequestPut(pb::PutRequest {
        key: key.clone(),
        value: value.clone(),
        lease,
    });
    let range = |key: &Bytes| pb::RequestOp {
        request: Some(Op::RequestRange(pb::RangeRequest {
            key: key.clone(),
            ..Default::default()
        })),
    };
    pb::TxnRequest {
        compare: vec![
            write::is_at(&key, 0),
            write::is_at(&fence, store.fence.at.load(Ordering::Acquire)),
        ],
        success: vec![pb::RequestOp { request: Some(put) }],
        failure: vec![range(&key), range(&fence)],
    }
}

/// What the failed transaction found: the key, and the fence's revision (0: it does not exist).
fn found(answer: pb::TxnResponse) -> (Option<pb::KeyValue>, Revision) {
    let mut found = answer.responses.into_iter().map(|response| match response.response {
        Some(Answer::ResponseRange(range)) => range.kvs.into_iter().next(),
        _ => None,
    });
    let there = found.next().flatten();
    let fence = found.next().flatten();
    (there, fence.map_or(0, |kv| kv.mod_revision))
}
