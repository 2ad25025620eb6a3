//! Comparing the cache with the store: the same keys at the same revisions, or something is broken.
//!
//! Nothing here should ever find anything. Upstream does the same every five minutes (DetectCacheInconsistency).

use std::{sync::Arc, time::Duration};

use super::{Cache, Error};
use crate::store::{RangeRequest, Revision};

/// Result of [`Cache::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Consistent {
        objects: usize,
        revision: Revision,
    },
    /// The cache is being loaded again; all watches end.
    Inconsistent {
        revision: Revision,
        /// First key that differs.
        key: String,
    },
}

impl Cache {
    /// Compares one resource with the store at one revision: keys and revisions, in order. If they differ, the cache is loaded
    /// anew.
    ///
    /// Errors: what the store says, for instance that the revision was compacted meanwhile.
    pub async fn verify(&self, resource: &str) -> Result<Verdict, Error> {
        self.fresh().await?;
        let snapshot = self.snapshot(resource);
        let revision = snapshot.revision();
        let mut ours = snapshot.range(resource, None);
        let mut objects = 0;
        let mut request = RangeRequest {
            prefix: resource.into(),
            limit: self.inner.options.page,
            revision,
            keys_only: true,
            after: None,
        };
        loop {
            let page = self.inner.store.range(request.clone()).await?;
            for kv in &page.kvs {
                objects += 1;
                let same = ours.next().map(|o| (o.key(), o.mod_revision()));
                if same != Some((kv.key.as_str(), kv.mod_revision)) {
                    return Ok(self.differs(revision, &kv.key));
                }
            }
            request.after = page.kvs.last().map(|kv| kv.key.clone());
            if !page.more || request.after.is_none() {
                break;
            }
        }
        if let Some(extra) = ours.next() {
            return Ok(self.differs(revision, extra.key()));
        }
        Ok(Verdict::Consistent { objects, revision })
    }

    fn differs(&self, revision: Revision, key: &str) -> Verdict {
        tracing::error!(revision, key, "the cache differs from the store; loading it again");
        self.inner.kick.load();
        Verdict::Inconsistent {
            revision,
            key: key.into(),
        }
    }

    /// Verifies every resource, one after the other, each `every` (upstream: 5 min); tells `report` what came out. Runs until
    /// dropped.
    pub async fn verify_regularly(
        self: Arc<Self>,
        every: Duration,
        mut report: impl FnMut(&str, &Result<Verdict, Error>) + Send,
    ) {
        loop {
            tokio::time::sleep(every).await;
            for resource in self.resources() {
                let verdict = self.verify(&resource).await;
                report(&resource, &verdict);
                if matches!(verdict, Ok(Verdict::Inconsistent { .. })) {
                    // The load settles the others.
                    break;
                }
            }
        }
    }

    /// Prefixes of all resources that have, or had, objects.
    pub fn resources(&self) -> Vec<Arc<str>> {
        self.inner.state.read().resources()
    }
}
