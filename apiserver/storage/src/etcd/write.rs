//! Updates and deletes that are safe against lost answers (for creates see [`super::create`]).
//!
//! Each is one transaction that compares the key's `mod_revision`, which never comes again. When an answer is lost, the same transaction is
//! sent again: at most one of the copies can apply. If a copy then finds the key changed, what stands there (and, if
//! needed, the key's history) tells whether the change is ours, by the value's [`super::signature`]. So there is no false conflict,
//! no double apply, and nobody takes another's write for his own.

use bytes::Bytes;
use tokio::time::Instant;

use super::{EtcdStore, Failure, bytes_of, members::Effort, pb, revision_of, watch::first_change};
use crate::store::{Error, Result, Revision};
use pb::{
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request as Op,
    response_op::Response as Answer,
};

/// Writes `put` (value and lease), or deletes for `None`, if the key is at `expected`.
pub(super) async fn write(
    store: &EtcdStore,
    key: &str,
    expected: Revision,
    put: Option<(Bytes, i64)>,
) -> Result<Revision> {
    let mut signed = false;
    let put = put.map(|(value, lease)| {
        let (value, is) = store.signer.sign(value);
        signed = is;
        (value, lease)
    });
    let txn = transaction(key, expected, put.as_ref());
    // Deletions look all alike: what was deleted before this one began must be known, or it would be taken for ours.
    let before = if put.is_some() {
        store.seen.revision()
    } else {
        store.floor().await?
    };
    let begun = Instant::now();
    let mut effort = Effort::new();
    let mut lost = false;
    loop {
        let attempt = store.members.attempt(&mut effort, |member| {
            let txn = txn.clone();
            async move { member.kv().txn(txn).await }
        });
        match attempt.await {
            Ok(answer) if answer.succeeded => {
                let now = revision_of(answer.header.as_ref());
                store.seen.note(now, begun);
                return Ok(now);
            }
            Ok(answer) => {
                let now = revision_of(answer.header.as_ref());
                store.seen.note(now, begun);
                let current = current_of(answer);
                if lost {
                    let ours = put.map(|(value, _)| Ours { value, certain: signed });
                    return resolve(store, key, expected, ours, current, (before, now)).await;
                }
                return Err(refusal(key, current));
            }
            Err(Failure::Final(error)) => {
                return Err(with_size(error, put.as_ref().map(|(value, _)| value.len())));
            }
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
        compare: vec![is_at(&key, expected)],
        success: vec![pb::RequestOp { request: Some(op) }],
        failure: vec![pb::RequestOp {
            request: Some(Op::RequestRange(pb::RangeRequest {
                key,
                ..Default::default()
            })),
        }],
    }
}

/// Compares a key's revision; 0: it does not exist.
pub(super) fn is_at(key: &Bytes, revision: Revision) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::ModRevision(revision)),
    }
}

/// What the failed transaction found under the key.
fn current_of(answer: pb::TxnResponse) -> Option<pb::KeyValue> {
    match answer.responses.into_iter().next()?.response? {
        Answer::ResponseRange(range) => range.kvs.into_iter().next(),
        Answer::ResponsePut(_) | Answer::ResponseDeleteRange(_) => None,
    }
}

fn refusal(key: &str, current: Option<pb::KeyValue>) -> Error {
    Error::Conflict {
        key: key.into(),
        current: current.map(|kv| Box::new(kv.into())),
    }
}

/// Names the size of what was too large.
pub(super) fn with_size(error: Error, size: Option<usize>) -> Error {
    match error {
        Error::TooLarge { limit, .. } => Error::TooLarge {
            size: size.unwrap_or_default(),
            limit,
        },
        other => other,
    }
}

/// What we wanted to write.
struct Ours {
    /// As sent, with signature.
    value: Bytes,
    /// Nobody else writes such bytes.
    certain: bool,
}

/// The key is not at `expected`, and an earlier copy of our write may be the reason: what is there now tells, or else
/// the first change after `expected`. `before` is a revision that there was when the write began, `now` the one at which
/// `current` was read.
async fn resolve(
    store: &EtcdStore,
    key: &str,
    expected: Revision,
    ours: Option<Ours>,
    current: Option<pb::KeyValue>,
    (before, now): (Revision, Revision),
) -> Result<Revision> {
    let unknown = |why: &dyn std::fmt::Display| Error::Unknown(format!("key {key:?}: {why}"));
    if let (Some(ours), Some(current)) = (&ours, &current)
        && ours.certain
        && ours.value == current.value
    {
        return Ok(current.mod_revision);
    }
    if let (None, Some(current)) = (&ours, &current)
        && current.create_revision <= expected
    {
        // Changed and never deleted: not our doing.
        let current = Some(current.clone());
        return Err(refusal(key, current));
    }
    let successor = match first_change(&store.members, key, expected + 1).await {
        Ok(change) => change,
        // Nobody remembers who did it, but it is as we wanted.
        Err(Error::Compacted { .. }) if ours.is_none() && current.is_none() => return Ok(now),
        Err(error) => return Err(unknown(&error)),
    };
    match (ours, successor) {
        (Some(ours), Some(kv)) if kv.value == ours.value => {
            if ours.certain {
                Ok(kv.mod_revision)
            } else {
                Err(unknown(
                    &"the value is as wanted, but somebody else may have written it",
                ))
            }
        }
        (Some(_), _) => Err(refusal(key, current)),
        // Deleted, as we wanted. If somebody else had the same wish at the same time, nobody can tell.
        (None, Some(deletion)) if deletion.version == 0 && deletion.mod_revision > before => Ok(deletion.mod_revision),
        (None, _) => Err(refusal(key, current)),
    }
}
