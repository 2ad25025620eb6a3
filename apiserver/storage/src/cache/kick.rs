//! How readers tell the feed that it looks stuck.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;

/// Wishes of readers, the stronger one wins.
#[derive(Default)]
pub(crate) struct Kick {
    wish: AtomicU8,
    notify: Notify,
}

const WATCH: u8 = 1;
const LOAD: u8 = 2;

impl Kick {
    /// The watch does not deliver what the store has: start it anew.
    pub fn watch(&self) {
        self.wish.fetch_max(WATCH, Ordering::AcqRel);
        self.notify.notify_one();
    }

    /// The store is behind the cache (it was restored from a backup): load again.
    pub fn load(&self) {
        self.wish.fetch_max(LOAD, Ordering::AcqRel);
        self.notify.notify_one();
    }

    /// Waits for a wish; true: load again.
    pub async fn kicked(&self) -> bool {
        loop {
            match self.wish.swap(0, Ordering::AcqRel) {
                0 => self.notify.notified().await,
                wish => return wish == LOAD,
            }
        }
    }
}
