//! How long a job waits before it makes a pod again: 10 s after the first failure in a row, doubling to 10 min. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use steersman_types::api::core::v1::{ContainerStatus, Pod};

use crate::pods;

const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(600);

/// Failures since the last success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    pub count: u32,
    pub last: Option<Timestamp>,
}

impl Failures {
    /// With pods that ended since: when each succeeded or failed.
    #[must_use]
    pub fn after(self, succeeded: &[Timestamp], failed: &[Timestamp]) -> Self {
        let (before, since) = match succeeded.iter().max() {
            None => (self, Timestamp::MIN),
            Some(success) => (Self::default(), *success),
        };
        let newer = || failed.iter().filter(|at| **at > since);
        Self {
            count: before
                .count
                .saturating_add(u32::try_from(newer().count()).unwrap_or(u32::MAX)),
            last: newer().max().copied().or(before.last),
        }
    }

    /// How long a replacement has to wait still.
    #[must_use]
    pub fn wait(&self, now: Timestamp) -> Duration {
        let (1.., Some(last)) = (self.count, self.last) else {
            return Duration::ZERO;
        };
        let doubled = FIRST.saturating_mul(1_u32.checked_shl(self.count - 1).unwrap_or(u32::MAX));
        let over = Duration::try_from(now.duration_since(last)).unwrap_or(Duration::ZERO);
        doubled.min(LONGEST).saturating_sub(over)
    }
}

/// When the pod ended, as well as can be told: by its containers, its Ready condition, its deletion, its creation.
#[must_use]
pub fn ended(pod: &Pod) -> Timestamp {
    by_containers(pod)
        .or_else(|| {
            pods::condition(pod, "Ready")
                .filter(|c| c.status == "False")
                .and_then(|c| c.last_transition_time.as_ref())
                .map(|t| t.0)
        })
        .or_else(|| {
            let asked = pod.metadata.deletion_timestamp.as_ref()?.0;
            let grace = SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
            asked.checked_sub(grace).ok()
        })
        .or_else(|| pod.metadata.creation_timestamp.as_ref().map(|t| t.0))
        .unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The latest end among containers and sidecars; `None` while one of them has not ended.
fn by_containers(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let sidecar = |name: &str| {
        let specs = pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten());
        specs
            .into_iter()
            .any(|c| c.name == name && c.restart_policy.as_deref() == Some("Always"))
    };
    let sidecars = status
        .init_container_statuses
        .iter()
        .flatten()
        .filter(|c| sidecar(&c.name));
    let end = |c: &ContainerStatus| Some(c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0);
    let ends: Option<Vec<Timestamp>> = status
        .container_statuses
        .iter()
        .flatten()
        .chain(sidecars)
        .map(end)
        .collect();
    ends?.into_iter().max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_wait_doubles_from_ten_seconds_to_ten_minutes() {
        let wait = |count| {
            Failures {
                count,
                last: Some(at(100)),
            }
            .wait(at(101))
            .as_secs()
        };
        assert_eq!([0, 1, 2, 3, 7, 40].map(wait), [0, 9, 19, 39, 599, 599]);
        let over = Failures {
            count: 1,
            last: Some(at(100)),
        };
        assert_eq!(over.wait(at(200)), Duration::ZERO);
    }

    #[test]
    fn a_success_forgets_the_failures_before_it() {
        let before = Failures {
            count: 3,
            last: Some(at(10)),
        };
        assert_eq!(
            before.after(&[], &[at(20)]),
            Failures {
                count: 4,
                last: Some(at(20))
            }
        );
        assert_eq!(before.after(&[at(30)], &[at(20)]), Failures::default());
        assert_eq!(
            before.after(&[at(30)], &[at(20), at(40)]),
            Failures {
                count: 1,
                last: Some(at(40))
            }
        );
    }
}
