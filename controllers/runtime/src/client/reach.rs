//! Whether the server can be reached, as far as the last requests show.
//!
//! Callers: [`super::Client`] reports every request's fate; informers whose watches failed wait with growing back-off, and
//! are woken here as soon as anybody's request is answered again (a lease is renewed every few seconds). Without it a node
//! that was cut off for a minute would learn of its pods up to another minute late.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

#[derive(Default)]
pub(super) struct Reach {
    lost: AtomicBool,
    again: Notify,
}

impl Reach {
    /// A request was answered, or was not.
    pub(super) fn saw(&self, answer: bool) {
        if !answer {
            self.lost.store(true, Ordering::Relaxed);
        } else if self.lost.swap(false, Ordering::Relaxed) {
            self.again.notify_waiters();
        }
    }

    /// Until an answer comes after a request that had none.
    pub(super) async fn again(&self) {
        self.again.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn only_an_answer_after_a_failure_wakes() {
        let reach = Reach::default();
        let mut waiting = Box::pin(reach.again());
        assert!(waiting.as_mut().now_or_never().is_none());
        reach.saw(true);
        assert!(waiting.as_mut().now_or_never().is_none());
        reach.saw(false);
        assert!(waiting.as_mut().now_or_never().is_none());
        reach.saw(true);
        assert!(waiting.as_mut().now_or_never().is_some());
    }
}
