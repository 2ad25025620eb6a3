//! The newest revision that the store has shown, and when: what tells what was there before a write began.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::store::Revision;

/// What was heard so lately counts as now. A store that is in use is heard from more often, so that deletes cost no
/// read of their own.
const LATELY: Duration = Duration::from_millis(50);

/// The newest revision, with the time when what showed it was asked.
#[derive(Default)]
pub(super) struct Seen(Mutex<Option<(Revision, Instant)>>);

impl Seen {
    /// An answer to what was asked at a time has shown this revision.
    pub fn note(&self, revision: Revision, asked: Instant) {
        let mut newest = self.0.lock();
        if newest.is_none_or(|(known, _)| known <= revision) {
            *newest = Some((revision, asked));
        }
    }

    /// The newest revision; 0 if none was heard of.
    pub fn revision(&self) -> Revision {
        self.0.lock().map_or(0, |(revision, _)| revision)
    }

    /// The newest revision, if it was heard lately.
    pub fn lately(&self) -> Option<Revision> {
        let (revision, when) = (*self.0.lock())?;
        (when.elapsed() <= LATELY).then_some(revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_heard_is_kept_and_grows_old() {
        let seen = Seen::default();
        assert_eq!((seen.revision(), seen.lately()), (0, None));
        seen.note(7, Instant::now());
        seen.note(5, Instant::now());
        assert_eq!((seen.revision(), seen.lately()), (7, Some(7)));
        tokio::time::advance(LATELY * 2).await;
        assert_eq!((seen.revision(), seen.lately()), (7, None));
    }
}
