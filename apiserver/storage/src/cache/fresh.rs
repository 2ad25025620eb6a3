//! One revision read of the store for all who need to know "how new must I be".

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::store::{Error, Result, Revision, Store};

/// Shares linearizable revision reads: whoever comes while one is under way gets the *next* one's answer, because the current
/// one may have been answered before the caller's predecessor wrote.
pub(crate) struct Fresh {
    store: Arc<dyn Store>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    running: bool,
    waiting: Vec<oneshot::Sender<Result<Revision>>>,
}

impl Fresh {
    pub fn new(store: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Fresh {
            store,
            queue: Mutex::default(),
        })
    }

    /// A revision of the store that was current at some time after this call began.
    pub async fn revision(self: &Arc<Self>) -> Result<Revision> {
        let (answer, answered) = oneshot::channel();
        let start = {
            let mut queue = self.queue.lock();
            queue.waiting.push(answer);
            !std::mem::replace(&mut queue.running, true)
        };
        if start {
            // Its own task: the reads go on for the others when this caller is cancelled.
            tokio::spawn(self.clone().run());
        }
        answered
            .await
            .unwrap_or_else(|_| Err(Error::Unavailable("the reader of the store's revision ended".into())))
    }

    async fn run(self: Arc<Self>) {
        loop {
            let waiting = {
                let mut queue = self.queue.lock();
                if queue.waiting.is_empty() {
                    queue.running = false;
                    return;
                }
                std::mem::take(&mut queue.waiting)
            };
            let answer = self.store.current_revision().await;
            for waiter in waiting {
                // Who no longer waits does not need it.
                let _ = waiter.send(answer.clone());
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::MemoryStore;

    #[tokio::test]
    async fn many_callers_share_few_reads_and_see_their_own_writes() {
        let store = Arc::new(MemoryStore::new());
        let fresh = Fresh::new(store.clone());
        let mut tasks = vec![];
        for n in 0..200 {
            let (store, fresh) = (store.clone(), fresh.clone());
            tasks.push(tokio::spawn(async move {
                let written = store.create(&format!("/k/{n}"), "v".into(), None).await.unwrap();
                assert!(fresh.revision().await.unwrap() >= written);
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        assert!(!fresh.queue.lock().running || fresh.queue.lock().waiting.is_empty());
    }
}
