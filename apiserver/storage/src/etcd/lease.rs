//! Leases for keys with a time to live, shared as upstream does: granting is expensive, and a burst of events lives equally long.

use std::{collections::HashMap, time::Duration};

use tokio::{sync::Mutex, time::Instant};

use super::{Members, pb};
use crate::store::{Error, Result};

/// A lease lives longer than asked by this share of the TTL ...
const SPARE_SHARE: f64 = 0.05;
/// ... but at most by so many seconds; for so long it is handed out again.
const SPARE_SECONDS: i64 = 60;
/// Keys per lease: etcd deletes them in one transaction when it ends.
const KEYS: u32 = 1000;
/// Different TTLs to remember leases for. Upstream remembers one; we know two (events, masterleases).
const TTLS: usize = 8;

#[derive(Default)]
pub(super) struct Leases {
    by_ttl: Mutex<HashMap<i64, Held>>,
}

struct Held {
    id: i64,
    ends: Instant,
    keys: u32,
}

impl Leases {
    /// A lease that lives at least `ttl` (whole seconds, at least one) and not much longer.
    pub async fn get(&self, members: &Members, ttl: Duration) -> Result<i64> {
        let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX).max(1);
        // Held while granting: the others wait for this lease instead of granting their own.
        let mut by_ttl = self.by_ttl.lock().await;
        let now = Instant::now();
        let wanted = Duration::from_secs(ttl.unsigned_abs());
        if let Some(held) = by_ttl.get_mut(&ttl)
            && held.ends > now + wanted
            && held.keys < KEYS
        {
            held.keys += 1;
            return Ok(held.id);
        }
        // The product is small and positive.
        #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
        let spare = ((ttl as f64 * SPARE_SHARE) as i64).min(SPARE_SECONDS);
        let granted = ttl.saturating_add(spare);
        let answer = members
            .read(|member| async move {
                member
                    .lease()
                    .lease_grant(pb::LeaseGrantRequest { ttl: granted, id: 0 })
                    .await
            })
            .await?;
        if !answer.error.is_empty() {
            return Err(Error::Internal(format!("lease of {granted} s: {}", answer.error)));
        }
        if by_ttl.len() >= TTLS {
            by_ttl.retain(|_, held| held.ends > now);
            if by_ttl.len() >= TTLS {
                by_ttl.clear();
            }
        }
        let ends = now + Duration::from_secs(granted.unsigned_abs());
        by_ttl.insert(
            ttl,
            Held {
                id: answer.id,
                ends,
                keys: 1,
            },
        );
        Ok(answer.id)
    }

    /// The lease turned out to be gone.
    pub fn forget(&self, lease: i64) {
        // Busy means that somebody is granting a new one.
        if let Ok(mut by_ttl) = self.by_ttl.try_lock() {
            by_ttl.retain(|_, held| held.id != lease);
        }
    }
}
