//! Waiting for conditions.

use std::fmt::Debug;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(100);

/// Waits until `condition` gives a value, at most `seconds`, and returns it.
///
/// # Panics
/// When the time is over, with what the condition said last.
pub fn eventually<T, E: Debug>(what: &str, seconds: u64, mut condition: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        match condition() {
            Ok(value) => return value,
            Err(seen) => {
                assert!(
                    Instant::now() < deadline,
                    "{what}: not within {seconds} s; last seen: {seen:?}"
                );
                std::thread::sleep(PAUSE);
            }
        }
    }
}

/// [`eventually`], for a value that must come to equal another.
///
/// # Panics
/// When it does not.
pub fn eventually_eq<T: Debug + PartialEq>(what: &str, seconds: u64, expected: T, mut value: impl FnMut() -> T) {
    eventually(what, seconds, || {
        let seen = value();
        if seen == expected { Ok(()) } else { Err(seen) }
    });
}
