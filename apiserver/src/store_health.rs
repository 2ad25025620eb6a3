//! Whether the store answers: asked now and then by one task, so that a health probe never waits for etcd.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use steersman_storage::Store;
use tokio_util::sync::CancellationToken;

/// How often the store is asked.
const EVERY: Duration = Duration::from_secs(1);
/// How long it may take to answer before it counts as away (upstream: `--etcd-healthcheck-timeout`, 2 s).
const PATIENCE: Duration = Duration::from_secs(2);

/// The last answer.
#[derive(Default)]
pub struct StoreHealth {
    good: AtomicBool,
}

impl StoreHealth {
    pub fn is_good(&self) -> bool {
        self.good.load(Ordering::Acquire)
    }

    /// Said by whoever has just heard from the store.
    pub fn heard(&self) {
        self.good.store(true, Ordering::Release);
    }

    /// Asks until the server stops.
    pub async fn keep_asking(self: Arc<Self>, store: Arc<dyn Store>, stop: CancellationToken) {
        loop {
            let answer = tokio::time::timeout(PATIENCE, store.current_revision()).await;
            let good = matches!(answer, Ok(Ok(_)));
            if self.good.swap(good, Ordering::AcqRel) && !good {
                tracing::warn!("the store does not answer");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }
}
