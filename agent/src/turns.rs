//! Who goes next: steps of pods that cost the node much are taken a few at a time, first come first served.
//!
//! Callers: the workers, for making sandboxes, making containers and taking sandboxes down. Hundreds of pods that all
//! advance at once share the processors evenly and are all ready as late as the last one; in turn, half of them are
//! ready after half of the time. Starting and stopping have a line each, so that neither waits for a crowd of the other.
//! What stays true: a step that hangs holds its turn for [`PATIENCE`] and no longer, then others go although it is not
//! done; a step that is given up (its future dropped), waiting or at work, gives its turn on. Nothing is decided here
//! about how long a step may take: the runtime's calls have their own time limits. Stopping containers is not among the
//! steps: that is mostly waiting for them to go by themselves, and all must be told at once.

mod queue;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use queue::{Queue, Rank};

/// How long a step counts as one of those at work. A sandbox among others takes one or two seconds on a busy machine;
/// one that takes much longer waits for something else than a processor.
const PATIENCE: Duration = Duration::from_secs(5);
/// Steps at work at a time in one line, at least: one waits for the disk or a network plugin now and then.
const FEWEST: usize = 4;

/// The lines of one node. Clones share them.
#[derive(Clone)]
pub struct Turns {
    starts: Line,
    stops: Line,
}

impl Default for Turns {
    /// As many at a time as the machine has processors, or a few more.
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self::new(processors.max(FEWEST))
    }
}

impl Turns {
    /// `at_once` steps at work at a time in each line; zero counts as one.
    #[must_use]
    pub fn new(at_once: usize) -> Self {
        let line = || Line(Arc::new(Mutex::new(Queue::new(at_once.max(1)))));
        Self {
            starts: line(),
            stops: line(),
        }
    }

    /// Makes the sandbox of a pod: after whatever pods wait for that have begun already.
    pub async fn sandbox<T>(&self, work: impl Future<Output = T>) -> T {
        self.starts.take(Rank::New, work).await
    }

    /// Makes and starts a container in a sandbox that is there.
    pub async fn container<T>(&self, work: impl Future<Output = T>) -> T {
        self.starts.take(Rank::Begun, work).await
    }

    /// Begins to take a pod down.
    pub async fn stop<T>(&self, work: impl Future<Output = T>) -> T {
        self.stops.take(Rank::New, work).await
    }

    /// Removes what has been stopped.
    pub async fn remove<T>(&self, work: impl Future<Output = T>) -> T {
        self.stops.take(Rank::Begun, work).await
    }
}

#[derive(Clone)]
struct Line(Arc<Mutex<Queue<oneshot::Sender<Place>>>>);

/// One of the places at work; given on when dropped.
struct Place(Line);

impl Drop for Place {
    fn drop(&mut self) {
        let next = self.0.0.lock().done(|waiting| !waiting.is_closed());
        if let Some(next) = next {
            // Given up at this very moment: the place comes back as an error, and its drop asks for the one after.
            drop(next.send(Place(self.0.clone())));
        }
    }
}

impl Line {
    async fn take<T>(&self, rank: Rank, work: impl Future<Output = T>) -> T {
        let mut place = self.place(rank).await;
        tokio::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = tokio::time::sleep(PATIENCE) => drop(place.take()),
        }
        work.await
    }

    /// Waits for one's turn. `None` would be one who goes without: whoever leaves the queue gets a place.
    async fn place(&self, rank: Rank) -> Option<Place> {
        let (given, turn) = oneshot::channel();
        if self.0.lock().ask(rank, given) {
            return Some(Place(self.clone()));
        }
        turn.await.ok()
    }
}

#[cfg(test)]
mod tests;
