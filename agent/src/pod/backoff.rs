//! Exponential back-off as data: when was the last step, and how long is the delay now.
//!
//! The same rules serve crashing containers and failing image pulls: 10 s, doubled up to a maximum, forgotten after
//! twice the maximum without another failure.

use steersman_types::jiff::{SignedDuration, Timestamp};

/// The first delay, upstream's.
pub const INITIAL: SignedDuration = SignedDuration::from_secs(10);
/// The usual longest delay, upstream's.
pub const MAX: SignedDuration = SignedDuration::from_secs(300);

/// One container's or image's back-off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub delay: SignedDuration,
    /// When `delay` was last raised.
    pub raised: Timestamp,
}

impl Backoff {
    /// If an attempt after a failure at `failed` must wait: until when.
    #[must_use]
    pub fn until(&self, failed: Timestamp, now: Timestamp, max: SignedDuration) -> Option<Timestamp> {
        if failed.duration_since(self.raised) > max * 2 {
            return None;
        }
        let until = failed.saturating_add(self.delay).unwrap_or(Timestamp::MAX);
        (now < until).then_some(until)
    }

    /// The back-off after one more attempt that follows a failure at `failed`.
    #[must_use]
    pub fn next(before: Option<&Self>, failed: Timestamp, now: Timestamp, max: SignedDuration) -> Self {
        let delay = match before {
            Some(b) if failed.duration_since(b.raised) <= max * 2 => (b.delay * 2).min(max),
            _ => INITIAL.min(max),
        };
        Self { delay, raised: now }
    }
}

/// A duration of whole seconds in Go's notation, as upstream's messages print it: `10s`, `1m20s`, `5m0s`.
#[must_use]
pub fn go_seconds(duration: SignedDuration) -> String {
    let total = duration.as_secs();
    let (h, m, s) = (total / 3600, total / 60 % 60, total % 60);
    match (h, m) {
        (0, 0) => format!("{s}s"),
        (0, _) => format!("{m}m{s}s"),
        _ => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn delays_double_from_ten_seconds_to_five_minutes_and_are_forgotten_after_ten() {
        let mut b = None;
        let mut now = 1000;
        let mut delays = Vec::new();
        for _ in 0..7 {
            let next = Backoff::next(b.as_ref(), at(now), at(now), MAX);
            delays.push(next.delay.as_secs());
            now += next.delay.as_secs();
            b = Some(next);
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        let much_later = at(now + 601);
        assert_eq!(
            Backoff::next(b.as_ref(), much_later, much_later, MAX).delay.as_secs(),
            10
        );
    }

    #[test]
    fn waiting_is_counted_from_the_failure() {
        let b = Backoff {
            delay: INITIAL,
            raised: at(100),
        };
        assert_eq!(b.until(at(130), at(135), MAX), Some(at(140)));
        assert_eq!(b.until(at(130), at(140), MAX), None);
    }

    #[test]
    fn durations_read_as_in_go() {
        let texts = [10, 80, 300, 3661].map(|s| go_seconds(SignedDuration::from_secs(s)));
        assert_eq!(texts, ["10s", "1m20s", "5m0s", "1h1m1s"]);
    }
}
