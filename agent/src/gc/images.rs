//! Which images may go, and which of them first. Pure.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use steersman_cri::v1;
use steersman_types::jiff::{SignedDuration, Timestamp};

/// From the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Per cent of the file system: from here on, images are removed until it is down to `low`.
    pub high: i64,
    pub low: i64,
    /// Younger images stay: a container may be about to use them.
    pub min_age: Duration,
    /// Unused for longer, they go even if there is space.
    pub max_age: Option<Duration>,
}

/// An image that nothing uses now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub id: String,
    pub size: i64,
    first_seen: Timestamp,
    /// The epoch if it was not seen in use.
    last_used: Timestamp,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    first_seen: Timestamp,
    last_used: Timestamp,
}

/// What is remembered of images.
#[derive(Debug, Default)]
pub struct Records {
    known: HashMap<String, Record>,
    /// Images that are there at the first look have been there for ever.
    begun: bool,
}

impl Records {
    /// Takes a look; gives the images that are neither used nor pinned, longest unused first.
    pub fn unused(&mut self, images: &[v1::Image], used: &HashSet<String>, now: Timestamp) -> Vec<Wanted> {
        let ids: HashSet<&str> = images.iter().map(|i| i.id.as_str()).collect();
        self.known.retain(|id, _| ids.contains(id.as_str()));
        let first_seen = if self.begun { now } else { Timestamp::UNIX_EPOCH };
        self.begun = true;
        let mut free = Vec::new();
        for image in images {
            let record = self.known.entry(image.id.clone()).or_insert(Record {
                first_seen,
                last_used: Timestamp::UNIX_EPOCH,
            });
            let mut names = image.repo_tags.iter().chain(&image.repo_digests).chain([&image.id]);
            if names.any(|n| used.contains(n)) {
                record.last_used = now;
            } else if !image.pinned {
                free.push(Wanted {
                    id: image.id.clone(),
                    size: i64::try_from(image.size).unwrap_or(i64::MAX),
                    first_seen: record.first_seen,
                    last_used: record.last_used,
                });
            }
        }
        free.sort_by(|a, b| (a.last_used, a.first_seen, &a.id).cmp(&(b.last_used, b.first_seen, &b.id)));
        free
    }
}

fn age(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since).max(SignedDuration::ZERO)).unwrap_or_default()
}

/// Those that may go to make space.
#[must_use]
pub fn removable(unused: &[Wanted], policy: &Policy, now: Timestamp) -> Vec<Wanted> {
    let old = |i: &&Wanted| age(i.first_seen, now) >= policy.min_age;
    unused.iter().filter(old).cloned().collect()
}

/// Those that go because nobody used them for too long; nothing is known of the time before the agent began.
#[must_use]
pub fn too_old(unused: &[Wanted], policy: &Policy, began: Timestamp, now: Timestamp) -> Vec<Wanted> {
    let Some(max) = policy.max_age.filter(|max| age(began, now) > *max) else {
        return Vec::new();
    };
    unused.iter().filter(|i| age(i.last_used, now) > max).cloned().collect()
}

/// How many bytes to free, when the file system is above the high threshold.
#[must_use]
pub fn shortage(capacity: i64, available: i64, policy: &Policy) -> Option<i64> {
    let short = capacity / 100 * (100 - policy.low) + capacity % 100 * (100 - policy.low) / 100 - available;
    (used_percent(capacity, available) >= policy.high).then_some(short)
}

fn used_percent(capacity: i64, available: i64) -> i64 {
    100 - i64::try_from(i128::from(available.min(capacity)) * 100 / i128::from(capacity.max(1))).unwrap_or(0)
}

/// Upstream's message when that did not suffice.
#[must_use]
pub fn insufficient(capacity: i64, available: i64, freed: i64) -> String {
    format!(
        "Insufficient free disk space on the node's image filesystem ({}% of {} used). Failed to free sufficient space by \
         deleting unused images (freed {freed} bytes). Investigate disk usage, as it could be used by active images, logs, \
         volumes, or other data.",
        used_percent(capacity, available),
        size(capacity)
    )
}

/// `1.5 GiB`.
fn size(bytes: i64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    let mut rest = bytes;
    while rest >= 1024 * 1024 && unit + 1 < UNITS.len() {
        rest /= 1024;
        unit += 1;
    }
    #[allow(clippy::cast_precision_loss)]
    let number = rest as f64 / 1024.0;
    format!("{number:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn image(id: &str, size: u64) -> v1::Image {
        v1::Image {
            id: id.into(),
            repo_tags: vec![format!("{id}:1")],
            size,
            ..Default::default()
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    const POLICY: Policy = Policy {
        high: 85,
        low: 80,
        min_age: Duration::from_secs(120),
        max_age: None,
    };

    fn ids(images: &[Wanted]) -> Vec<&str> {
        images.iter().map(|i| i.id.as_str()).collect()
    }

    #[test]
    fn the_longest_unused_go_first_and_young_used_and_pinned_ones_never() {
        let mut records = Records::default();
        let used = |names: &[&str]| names.iter().map(|n| format!("{n}:1")).collect::<HashSet<_>>();
        let mut all = vec![image("a", 1), image("b", 1)];
        assert_eq!(ids(&records.unused(&all, &used(&["a", "b"]), at(1000))), [""; 0]);
        let mut pinned = image("pause", 1);
        pinned.pinned = true;
        all.extend([image("new", 1), pinned]);
        assert_eq!(ids(&records.unused(&all, &used(&["b"]), at(1010))), ["new", "a"]);
        let unused = records.unused(&all, &used(&[]), at(1020));
        assert_eq!(ids(&unused), ["new", "a", "b"]);
        assert_eq!(
            ids(&removable(&unused, &POLICY, at(1020))),
            ["a", "b"],
            "new is ten seconds old"
        );
        assert_eq!(ids(&removable(&unused, &POLICY, at(1130))), ["new", "a", "b"]);
        let aging = Policy {
            max_age: Some(Duration::from_secs(100)),
            ..POLICY
        };
        assert_eq!(
            ids(&too_old(&unused, &aging, at(1000), at(1100))),
            [""; 0],
            "too soon to say"
        );
        assert_eq!(ids(&too_old(&unused, &aging, at(1000), at(1105))), ["new", "a"]);
    }

    #[test]
    fn space_is_freed_only_above_the_high_and_down_to_the_low_threshold() {
        assert_eq!(shortage(1000, 160, &POLICY), None);
        assert_eq!(shortage(1000, 150, &POLICY), Some(50));
        assert_eq!(shortage(1000, 0, &POLICY), Some(200));
        let text = insufficient(3 << 30, 100 << 20, 7);
        assert!(
            text.contains("(97% of 3.0 GiB used)") && text.contains("(freed 7 bytes)"),
            "{text}"
        );
    }

    proptest! {
        #[test]
        fn nothing_that_is_used_or_pinned_is_ever_offered(
            looks in proptest::collection::vec(proptest::collection::vec((0u8..6, any::<bool>(), any::<bool>()), 0..6), 1..5),
        ) {
            let mut records = Records::default();
            for (i, look) in looks.iter().enumerate() {
                let mut images: Vec<v1::Image> = Vec::new();
                let mut used = HashSet::new();
                for (id, in_use, pinned) in look {
                    if images.iter().any(|i| i.id == id.to_string()) { continue; }
                    let mut image = image(&id.to_string(), 1);
                    image.pinned = *pinned;
                    if *in_use { used.insert(image.repo_tags[0].clone()); }
                    images.push(image);
                }
                for free in records.unused(&images, &used, at(i64::try_from(i).unwrap())) {
                    let image = images.iter().find(|i| i.id == free.id);
                    prop_assert!(image.is_some_and(|i| !i.pinned && !used.contains(&i.repo_tags[0])));
                }
            }
        }
    }
}
