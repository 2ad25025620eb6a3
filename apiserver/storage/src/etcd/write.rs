//! Writes that are safe against lost answers.
//!
//! Each write is one transaction that compares the key's `mod_revision`. When an answer is lost, the same transaction is
//! sent again: at most one of the copies can apply. If a copy then finds the key changed, what stands there (and, if
//! needed, the key's history) tells whether the change is ours. So there is no false conflict and no double apply.
//!
//! Two writers who write the same bytes over the same revision could take each other's write for their own. Inside this process
//! writes of one key wait for each other, which excludes that; between servers it needs both answers to be lost at the same time.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{EtcdStore, Failure, bytes_of, members::Effort, pb, revision_of};
use crate::store::{Error, KeyValue, Result, Revision};
use pb::{
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request as Op,
    response_op::Response as Answer,
};

/// Versions to walk back in a key's history when looking for a write of ours.
const WALK: usize = 16;

/// Writes `put` (value and lease), or deletes for `None`, if the key is at `expected` (0: does not exist).
pub(super) async fn write(
    store: &EtcdStore,
    key: &str,
    expected: Revision,
    put: Option<(Bytes, i64)>,
) -> Result<Revision> {
    let lock = store.writing.of(key);
    let _alone = lock.lock().await;
    let txn = transaction(key, expected, put.as_ref());
    let mut effort = Effort::new();
    let mut lost = false;
    loop {
        let attempt = store.members.attempt(&mut effort, |member| {
            let txn = txn.clone();
            async move { member.kv().txn(txn).await }
        });
        match attempt.await {
            Ok(answer) if answer.succeeded => return Ok(revision_of(answer.header.as_ref())),
            Ok(answer) => {
                let now = revision_of(answer.header.as_ref());
                let current = current_of(answer);
                if lost {
                    return resolve(store, key, expected, put.map(|(value, _)| value), current, now).await;
                }
                return Err(refusal(key, expected, put.is_some(), current));
            }
            Err(Failure::Final(error)) => return Err(with_size(error, put.as_ref())),
            Err(Failure::NotDone(_)) => {}
            Err(Failure::Unknown(_)) => lost = true,
        }
        if effort.is_over() {
            let why = effort.why();
            return Err(if lost {
                Error::Unknown(why)
            } else {
                Error::Unavailable(why)
            });
        }
    }
}

fn transaction(key: &str, expected: Revision, put: Option<&(Bytes, i64)>) -> pb::TxnRequest {
    let key = bytes_of(key);
    let op = match put {
        Some((value, lease)) => Op::RequestPut(pb::PutRequest {
            key: key.clone(),
            value: value.clone(),
            lease: *lease,
        }),
        None => Op::RequestDeleteRange(pb::DeleteRangeRequest { key: key.clone() }),
    };
    pb::TxnRequest {
        compare: vec![pb::Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: key.clone(),
            target_union: Some(TargetUnion::ModRevision(expected)),
        }],
        success: vec![pb::RequestOp { request: Some(op) }],
        failure: vec![pb::RequestOp {
            request: Some(Op::RequestRange(pb::RangeRequest {
                key,
                ..Default::default()
            })),
        }],
    }
}

/// What the failed transaction found under the key.
fn current_of(answer: pb::TxnResponse) -> Option<KeyValue> {
    match answer.responses.into_iter().next()?.response? {
        Answer::ResponseRange(range) => range.kvs.into_iter().next().map(KeyValue::from),
        Answer::ResponsePut(_) | Answer::ResponseDeleteRange(_) => None,
    }
}

fn refusal(key: &str, expected: Revision, put: bool, current: Option<KeyValue>) -> Error {
    if expected == 0 && put {
        Error::AlreadyExists { key: key.into() }
    } else {
        Error::Conflict {
            key: key.into(),
            current: current.map(Box::new),
        }
    }
}

fn with_size(error: Error, put: Option<&(Bytes, i64)>) -> Error {
    match error {
        Error::TooLarge { limit, .. } => Error::TooLarge {
            size: put.map_or(0, |(value, _)| value.len()),
            limit,
        },
        other => other,
    }
}

/// The key is not at `expected`, and an earlier copy of our write may be the reason.
async fn resolve(
    store: &EtcdStore,
    key: &str,
    expected: Revision,
    value: Option<Bytes>,
    current: Option<KeyValue>,
    now: Revision,
) -> Result<Revision> {
    let unknown = |why: &str| Error::Unknown(format!("key {key:?}: {why}"));
    let Some(current) = current else {
        return match value {
            // Gone, as we wanted. If it was somebody else's deletion, nobody can tell.
            None => Ok(now),
            Some(_) => Err(unknown("the key was deleted meanwhile")),
        };
    };
    if current.create_revision > expected && expected != 0 {
        return Err(unknown("the key was deleted and created again meanwhile"));
    }
    let Some(value) = value else {
        // Changed and never deleted: not our doing.
        return Err(refusal(key, expected, false, Some(current)));
    };
    // Find the write that followed `expected`.
    let mut successor = current.clone();
    for _ in 0..WALK {
        let first = if expected == 0 { successor.version == 1 } else { false };
        let before = if first {
            None
        } else {
            version_before(store, key, successor.mod_revision).await?
        };
        match before {
            Some(before) if before.mod_revision > expected => successor = before,
            _ => {
                return if successor.value == value {
                    Ok(successor.mod_revision)
                } else {
                    Err(refusal(key, expected, true, Some(current)))
                };
            }
        }
    }
    Err(unknown("too many writes meanwhile"))
}

async fn version_before(store: &EtcdStore, key: &str, revision: Revision) -> Result<Option<KeyValue>> {
    let wire = pb::RangeRequest {
        key: bytes_of(key),
        revision: revision - 1,
        ..Default::default()
    };
    match store.read(wire).await {
        Ok(answer) => Ok(answer.kvs.into_iter().next().map(KeyValue::from)),
        Err(error) => Err(Error::Unknown(format!(
            "cannot read the history of key {key:?}: {error}"
        ))),
    }
}

/// One lock per key that is being written.
#[derive(Default)]
pub(super) struct KeyLocks(Mutex<HashMap<String, Weak<KeyLock>>>);

type KeyLock = tokio::sync::Mutex<()>;

/// Dead entries are swept when the table has doubled since.
const SWEEP: usize = 1024;

impl KeyLocks {
    fn of(&self, key: &str) -> Arc<KeyLock> {
        let mut locks = self.0.lock();
        if let Some(lock) = locks.get(key).and_then(Weak::upgrade) {
            return lock;
        }
        if locks.len() >= SWEEP && locks.len() == locks.capacity() {
            locks.retain(|_, lock| lock.strong_count() > 0);
        }
        let lock = Arc::new(KeyLock::default());
        locks.insert(key.to_owned(), Arc::downgrade(&lock));
        lock
    }
}
