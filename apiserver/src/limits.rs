//! How many requests run at once: the two counters of upstream's max-in-flight filter.

use std::sync::Arc;

use steersman_schema::status::Status;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The two counters.
pub struct Limits {
    mutating: Arc<Semaphore>,
    reading: Arc<Semaphore>,
}

/// Held while a request runs; `None` for those that are not counted.
pub type Seat = Option<OwnedSemaphorePermit>;

impl Limits {
    /// `--max-mutating-requests-inflight` and `--max-requests-inflight`; 0 is no limit.
    pub fn new(mutating: usize, reading: usize) -> Self {
        let make = |n: usize| {
            Arc::new(Semaphore::new(if n == 0 {
                Semaphore::MAX_PERMITS
            } else {
                n.min(Semaphore::MAX_PERMITS)
            }))
        };
        Self {
            mutating: make(mutating),
            reading: make(reading),
        }
    }

    /// Takes a seat. Members of `system:masters` always get in, as upstream's do.
    ///
    /// # Errors
    /// 429 when all seats are taken.
    pub fn enter(&self, verb: &str, privileged: bool) -> Result<Seat, Status> {
        let reads = matches!(verb, "get" | "list" | "watch" | "head" | "options");
        let seats = if reads { &self.reading } else { &self.mutating };
        match seats.clone().try_acquire_owned() {
            Ok(seat) => Ok(Some(seat)),
            Err(_) if privileged => Ok(None),
            Err(_) => Err(Status::too_many_requests(
                "Too many requests, please try again later.",
                1,
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_house_turns_away_all_but_masters() {
        let limits = Limits::new(1, 0);
        let seat = limits.enter("create", false).expect("first");
        assert_eq!(limits.enter("create", false).map(|_| ()).map_err(|s| s.code), Err(429));
        assert!(limits.enter("create", true).is_ok());
        assert!(limits.enter("get", false).is_ok());
        drop(seat);
        assert!(limits.enter("create", false).is_ok());
    }
}
