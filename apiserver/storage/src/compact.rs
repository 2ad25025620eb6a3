//! Regular compaction of the store's history, agreed between all API servers as upstream's do.
//!
//! The key `compact_rev_key` holds the last compacted revision; its `version` is a logical clock. Who finds the clock where he left it,
//! moves it on and compacts to the revision that he learned one round before. So history lasts at least one interval.

use std::{sync::Arc, time::Duration};

use crate::store::{Change, Error, Result, Revision, Store};

const KEY: &str = "compact_rev_key";

/// The revision to which some API server compacts the store, if the change says that.
pub(crate) fn compacted_to(change: &Change) -> Option<Revision> {
    match change {
        Change::Put(kv) if kv.key == KEY => std::str::from_utf8(&kv.value).ok()?.parse().ok(),
        _ => None,
    }
}

/// What one API server remembers between rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compactor {
    /// The clock (`version` of the key) as we know it.
    time: i64,
    /// Revision of the last round, to which the next one compacts. 0: none yet.
    revision: Revision,
}

impl Compactor {
    /// One round. Returns the revision that was compacted to, if it was this server's turn.
    pub async fn round(&mut self, store: &dyn Store) -> Result<Option<Revision>> {
        let got = store.get(KEY).await?;
        let (time, at) = got.kv.as_ref().map_or((0, 0), |kv| (kv.version, kv.mod_revision));
        if time != self.time {
            // Another server compacted, or this is our first look.
            *self = Compactor {
                time,
                revision: got.revision,
            };
            return Ok(None);
        }
        let value = self.revision.to_string().into();
        let written = match at {
            0 => store.create(KEY, value, None).await,
            at => store.update(KEY, value, at, None).await,
        };
        match written {
            Ok(revision) => {
                let compacted = std::mem::replace(
                    self,
                    Compactor {
                        time: time + 1,
                        revision,
                    },
                )
                .revision;
                if compacted == 0 {
                    return Ok(None);
                }
                store.compact(compacted).await?;
                Ok(Some(compacted))
            }
            Err(Error::AlreadyExists { .. } | Error::Conflict { .. }) => {
                // Somebody was faster: take over his clock.
                let got = store.get(KEY).await?;
                *self = Compactor {
                    time: got.kv.map_or(0, |kv| kv.version),
                    revision: got.revision,
                };
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Runs a [`Compactor`] round every `interval` (upstream's `--etcd-compaction-interval`, 5 min) until dropped. The first
/// one comes after one interval.
pub async fn compact_regularly(store: Arc<dyn Store>, interval: Duration) {
    let mut compactor = Compactor::default();
    loop {
        tokio::time::sleep(interval).await;
        match compactor.round(&*store).await {
            Ok(Some(revision)) => tracing::info!(revision, "compacted the history of the store"),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "cannot compact the history of the store"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{MemoryStore, RangeRequest};

    #[tokio::test]
    async fn one_server_of_two_compacts_and_history_lasts_one_interval() {
        let store = MemoryStore::new();
        let (mut a, mut b) = (Compactor::default(), Compactor::default());
        assert_eq!(
            a.round(&store).await,
            Ok(None),
            "nothing to compact to in the first round"
        );
        assert_eq!(b.round(&store).await, Ok(None));
        let between = store.create("/k", "v".into(), None).await.unwrap();
        let compacted = a.round(&store).await.unwrap().unwrap();
        assert!(
            compacted < between,
            "what came after the round before is still readable"
        );
        assert_eq!(
            b.round(&store).await,
            Ok(None),
            "the other server sees that it was done"
        );
        assert!(a.round(&store).await.unwrap().is_some() || b.round(&store).await.unwrap().is_some());
        let read = store
            .range(RangeRequest {
                revision: 1,
                ..RangeRequest::default()
            })
            .await;
        assert!(matches!(read, Err(Error::Compacted { .. })));
    }
}
