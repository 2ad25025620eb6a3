//! The [`Store`] in an etcd cluster.
//!
//! A thin client over own stubs: `members` holds one channel per member with quick fail-over, `write` makes writes safe
//! against lost answers, `watch` resumes, `lease` shares leases. Values are slices of the received frames.

mod create;
mod failure;
mod lease;
mod members;
mod seen;
mod signature;
mod watch;
mod write;

/// Generated from `proto/etcd.proto`.
#[allow(clippy::all, clippy::unwrap_used, missing_docs)]
mod pb {
    tonic::include_proto!("etcdserverpb");
}

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use self::{create::Fence, failure::Failure, lease::Leases, members::Members, seen::Seen, signature::Signer};
use crate::store::{Error, Got, KeyValue, MAX_VALUE_BYTES, Page, RangeRequest, Result, Revision, Store, WatchStream};

/// Largest answer that is accepted, in bytes. A page of 10,000 objects of 100 KiB would be 1 GiB.
const MAX_MESSAGE: usize = 1 << 30;

/// Where etcd is and how to prove who we are.
#[derive(Clone, Default)]
pub struct EtcdOptions {
    /// `https://host:port`, one per member (`--etcd-servers`).
    pub endpoints: Vec<String>,
    /// PEM contents of `--etcd-cafile`.
    pub ca: Vec<u8>,
    /// PEM contents of `--etcd-certfile`.
    pub cert: Vec<u8>,
    /// PEM contents of `--etcd-keyfile`.
    pub key: Vec<u8>,
}

/// State of one member, see [`EtcdStore::members`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    pub endpoint: String,
    pub version: String,
    /// Size of the member's database file, in bytes.
    pub db_size: i64,
    pub db_size_in_use: i64,
    pub is_leader: bool,
}

/// The store in etcd. Clones share connections.
#[derive(Clone)]
pub struct EtcdStore {
    members: Arc<Members>,
    leases: Arc<Leases>,
    signer: Arc<Signer>,
    seen: Arc<Seen>,
    fence: Arc<Fence>,
}

impl EtcdStore {
    /// Checks the options and prepares connections, which are made when needed: succeeds also when no member answers yet.
    ///
    /// Errors: [`Error::Internal`] for a bad endpoint or unusable PEM.
    pub fn connect(options: EtcdOptions) -> Result<Self> {
        let members = Arc::new(Members::new(&options)?);
        Ok(EtcdStore {
            members,
            leases: Arc::default(),
            signer: Arc::default(),
            seen: Arc::default(),
            fence: Arc::default(),
        })
    }

    /// Asks every member for its state. An error per member that does not answer.
    pub async fn members(&self) -> Vec<Result<MemberStatus>> {
        let asked = self.members.each().map(|member| async move {
            let answer = member.status().await?;
            let id = answer.header.as_ref().map_or(0, |h| h.member_id);
            Ok(MemberStatus {
                endpoint: member.endpoint.clone(),
                version: answer.version,
                db_size: answer.db_size,
                db_size_in_use: answer.db_size_in_use,
                is_leader: id != 0 && id == answer.leader,
            })
        });
        futures::future::join_all(asked).await
    }

    async fn read(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse> {
        self.members
            .read(|member| {
                let request = request.clone();
                async move { member.kv().range(request).await }
            })
            .await
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &str) -> Result<Got> {
        let answer = self
            .read(pb::RangeRequest {
                key: bytes_of(key),
                ..Default::default()
            })
            .await?;
        let revision = revision_of(answer.header.as_ref());
        Ok(Got {
            kv: answer.kvs.into_iter().next().map(KeyValue::from),
            revision,
        })
    }

    async fn range(&self, request: RangeRequest) -> Result<Page> {
        let (from, end) = range_of(&request.prefix);
        let wire = pb::RangeRequest {
            key: request
                .after
                .as_ref()
                .map_or(from, |after| Bytes::from([after.as_bytes(), b"\0"].concat())),
            range_end: end,
            limit: i64::try_from(request.limit).unwrap_or(i64::MAX),
            keys_only: request.keys_only,
            revision: request.revision,
            ..Default::default()
        };
        let answer = self
            .read(wire)
            .await
            .map_err(|error| error.with_requested(request.revision))?;
        let now = revision_of(answer.header.as_ref());
        Ok(Page {
            revision: if request.revision == 0 { now } else { request.revision },
            more: answer.more,
            count: answer.count,
            kvs: answer.kvs.into_iter().map(KeyValue::from).collect(),
        })
    }

    async fn create(&self, key: &str, value: Bytes, ttl: Option<Duration>) -> Result<Revision> {
        self.put(key, value, 0, ttl).await
    }

    async fn update(&self, key: &str, value: Bytes, expected: Revision, ttl: Option<Duration>) -> Result<Revision> {
        if expected == 0 {
            return Err(Error::Internal("update needs the expected revision".into()));
        }
        self.put(key, value, expected, ttl).await
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<Revision> {
        if expected == 0 {
            return Err(Error::Internal("delete needs the expected revision".into()));
        }
        write::write(self, key, expected, None).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream> {
        Ok(watch::start(self.members.clone(), prefix, from.max(1)))
    }

    async fn current_revision(&self) -> Result<Revision> {
        // Any linearizable read will do: the answer's header has the revision.
        let wire = pb::RangeRequest {
            key: bytes_of("compact_rev_key"),
            count_only: true,
            ..Default::default()
        };
        let begun = Instant::now();
        let now = revision_of(self.read(wire).await?.header.as_ref());
        self.seen.note(now, begun);
        Ok(now)
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        let answer = self
            .members
            .read(|member| async move { member.kv().compact(pb::CompactionRequest { revision }).await })
            .await;
        match answer {
            Ok(_) | Err(Error::Compacted { .. }) => Ok(()),
            Err(error) => Err(error.with_requested(revision)),
        }
    }
}

impl EtcdStore {
    /// A revision that there was when this was called, or at most a moment before. Asks the store only if nothing was
    /// heard from it for that long.
    async fn floor(&self) -> Result<Revision> {
        match self.seen.lately() {
            Some(revision) => Ok(revision),
            None => self.current_revision().await,
        }
    }

    async fn put(&self, key: &str, value: Bytes, expected: Revision, ttl: Option<Duration>) -> Result<Revision> {
        if value.len() + key.len() > MAX_VALUE_BYTES {
            return Err(Error::TooLarge {
                size: value.len(),
                limit: MAX_VALUE_BYTES,
            });
        }
        let Some(ttl) = ttl else {
            return self.put_with(key, value, expected, 0).await;
        };
        let lease = self.leases.get(&self.members, ttl).await?;
        match self.put_with(key, value.clone(), expected, lease).await {
            Err(Error::Internal(why)) if why.contains(failure::LEASE_NOT_FOUND) => {
                // It ended earlier than we thought (the store was restored, or somebody revoked it).
                self.leases.forget(lease);
                let lease = self.leases.get(&self.members, ttl).await?;
                self.put_with(key, value, expected, lease).await
            }
            result => result,
        }
    }

    async fn put_with(&self, key: &str, value: Bytes, expected: Revision, lease: i64) -> Result<Revision> {
        if expected == 0 {
            create::create(self, key, value, lease).await
        } else {
            write::write(self, key, expected, Some((value, lease))).await
        }
    }
}

impl Error {
    /// etcd's errors do not say which revision was asked for.
    fn with_requested(self, revision: Revision) -> Self {
        match self {
            Error::Compacted { oldest, .. } => Error::Compacted {
                requested: revision,
                oldest,
            },
            Error::FutureRevision { .. } => Error::FutureRevision { requested: revision },
            other => other,
        }
    }
}

impl From<pb::KeyValue> for KeyValue {
    fn from(mut kv: pb::KeyValue) -> Self {
        signature::cut(&mut kv.value);
        KeyValue {
            key: key_of(&kv.key),
            value: kv.value,
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            lease: kv.lease,
        }
    }
}

/// Our keys are UTF-8; a stranger's key in the same etcd need not be, and only has to look strange.
fn key_of(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

fn bytes_of(key: &str) -> Bytes {
    Bytes::copy_from_slice(key.as_bytes())
}

fn revision_of(header: Option<&pb::ResponseHeader>) -> Revision {
    header.map_or(0, |h| h.revision)
}

/// `key` and `range_end` of a prefix, as etcd wants them.
fn range_of(prefix: &str) -> (Bytes, Bytes) {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return (bytes_of(prefix), end.into());
        }
    }
    // The whole keyspace: from the smallest key there can be, without end.
    (Bytes::from_static(b"\0"), Bytes::from_static(b"\0"))
}
