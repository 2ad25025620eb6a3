//! Waiting for conditions.
//!
//! The limits are for what never comes, not goals: `STEERSMAN_PATIENCE`, a whole number, multiplies them on a machine that
//! is busy with other things. A test whose subject is a time measures it.

use std::fmt::Debug;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(100);

/// Waits until `condition` gives a value, at most `seconds` (times the patience), and returns it.
///
/// # Panics
/// When the time is over, with what the condition said last.
pub fn eventually<T, E: Debug>(what: &str, seconds: u64, mut condition: impl FnMut() -> Result<T, E>) -> T {
    let seconds = seconds * patience();
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

fn patience() -> u64 {
    let told = std::env::var("STEERSMAN_PATIENCE").ok();
    told.and_then(|text| text.parse().ok()).unwrap_or(1).max(1)
}
