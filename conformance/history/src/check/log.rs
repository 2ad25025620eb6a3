//! The merged log: what happened at each revision, put together from everything that anybody was told.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::report::Report;
use super::{History, Watch};
use crate::record::{Answer, At, Begin, Call, Kind, Request, Rv, Scope, Version};

/// The history of the collection after its first list.
#[derive(Debug, Default)]
pub struct Log<'a> {
    /// Revision of the first list; what was before is known only as that state.
    pub base: Rv,
    /// Up to here every change is known to be in the log.
    pub covered: Rv,
    /// Per key, sorted: the state from a revision on, `None` for absent. What is not here at all was absent at `base`.
    chains: HashMap<&'a str, Vec<Point<'a>>>,
    /// Every change after `base`, by revision.
    pub changes: Vec<Change<'a>>,
    /// The write of each operation's name, and the revisions at which it took effect.
    pub effects: HashMap<&'a str, Vec<Rv>>,
}

#[derive(Clone, Copy, Debug)]
struct Point<'a> {
    rv: Rv,
    state: Option<&'a Version>,
}

/// A key's state changed.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    pub rv: Rv,
    pub key: &'a str,
    pub before: Option<&'a Version>,
    pub after: Option<&'a Version>,
}

/// What somebody said about a revision: the key, and the content's hash unless it was a deletion (then what the
/// event carried).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said<'a> {
    key: &'a str,
    put: bool,
    hash: u64,
}

impl<'a> Log<'a> {
    /// Merges, and reports what does not fit together.
    pub fn build(history: &'a History, report: &mut Report) -> Self {
        let versions = versions(history, report);
        let Some((base, items)) = first_list(history) else {
            report.trouble("the history has no first list");
            return Self::default();
        };
        let mut log = Self {
            base,
            covered: covered(history, base),
            ..Self::default()
        };
        if history.end.as_ref().is_some_and(|end| end.last > log.covered) {
            report.trouble(format!("no watch covers what happened after revision {}", log.covered));
        }
        for (key, rv) in items {
            log.chains.insert(
                key,
                vec![Point {
                    rv,
                    state: versions.get(&rv).copied(),
                }],
            );
        }
        let told = told(history, base, report);
        let mut all = told.clone();
        let mut reported = HashSet::new();
        for (rv, said, call) in answered(history).filter(|(rv, ..)| *rv > base) {
            let other = *all.entry(rv).or_insert(said);
            if other == said && (rv > log.covered || told.contains_key(&rv)) {
                continue;
            }
            let by = format!("an answer to client {} from server {}", call.client, call.server);
            if other != said {
                report.violated(
                    "C5",
                    format!("revision {rv}: {by} shows {said:?}, a watch told {other:?}"),
                );
            }
            if rv <= log.covered && !told.contains_key(&rv) && reported.insert(rv) {
                report.violated(
                    "C5",
                    format!("revision {rv} of {}: {by} shows it, no watch told it", said.key),
                );
            }
        }
        for (rv, said) in &all {
            log.add(*rv, *said, &versions, report);
        }
        log.check_links(history, report);
        log
    }

    fn add(&mut self, rv: Rv, said: Said<'a>, versions: &HashMap<Rv, &'a Version>, report: &mut Report) {
        let chain = self.chains.entry(said.key).or_default();
        let before = chain.last().and_then(|point| point.state);
        let after = if said.put { versions.get(&rv).copied() } else { None };
        if said.put {
            report.checked("C5", 1);
            if let (Some(before), Some(after)) = (before, after)
                && before.uid != after.uid
            {
                report.violated(
                    "C5",
                    format!(
                        "{} at {rv}: another object than at {}, no deletion between",
                        said.key, before.rv
                    ),
                );
            }
            if let Some(after) = after.filter(|after| !after.op.is_empty()) {
                self.effects.entry(&after.op).or_default().push(rv);
            }
        } else {
            match before {
                None => report.violated("C5", format!("{} deleted at {rv}, but it was not there", said.key)),
                Some(before) if before.hash != said.hash => {
                    report.violated(
                        "C5",
                        format!("{} deleted at {rv}: the event does not carry its last state", said.key),
                    );
                }
                Some(_) => {}
            }
        }
        chain.push(Point { rv, state: after });
        self.changes.push(Change {
            rv,
            key: said.key,
            before,
            after,
        });
    }

    /// Every write fits to what it replaced.
    fn check_links(&self, history: &'a History, report: &mut Report) {
        let requests: HashMap<&str, &Request> = history
            .calls
            .iter()
            .filter_map(|call| Some((call.request.op()?, &call.request)))
            .collect();
        for change in self.changes.iter().take_while(|change| change.rv <= self.covered) {
            let Some(after) = change.after else { continue };
            let (key, rv) = (change.key, change.rv);
            let was = change.before.map_or(0, |before| before.rv);
            if after.prev > 0 {
                report.checked("C3", 1);
                if after.prev != was {
                    let prev = after.prev;
                    report.violated(
                        "C3",
                        format!("{key} at {rv}: {} replaced {was}, but it meant {prev}", after.op),
                    );
                }
            }
            let n = change.before.map_or(0, |before| before.n);
            match requests.get(&*after.op) {
                Some(Request::Create { .. }) if change.before.is_some() => {
                    report.violated("C1", format!("{key} at {rv}: created over what was there at {was}"));
                }
                Some(Request::Update { .. } | Request::Patch { .. } | Request::Count { .. })
                    if change.before.is_none() =>
                {
                    report.violated("C1", format!("{key} at {rv}: {} changed what was not there", after.op));
                }
                Some(Request::Count { n: expected, .. }) if n != *expected || after.n != n + 1 => {
                    report.violated(
                        "C3",
                        format!("{key} at {rv}: counted from {n} to {}, meant from {expected}", after.n),
                    );
                }
                Some(Request::Update { base, .. }) if *base > 0 && after.n != n + 1 => {
                    report.violated("C3", format!("{key} at {rv}: counted from {n} to {}", after.n));
                }
                Some(Request::Patch { .. }) if after.n != n => {
                    report.violated(
                        "C3",
                        format!(
                            "{key} at {rv}: a patch of other fields lost a count, {n} to {}",
                            after.n
                        ),
                    );
                }
                _ => {}
            }
        }
        for (op, effects) in self.effects.iter().filter(|(_, effects)| effects.len() > 1) {
            report.violated(
                "C1",
                format!("{op} took effect {} times, at {effects:?}", effects.len()),
            );
        }
    }

    /// The state of a key at a revision (at `base` for earlier ones).
    #[must_use]
    pub fn at(&self, key: &str, rv: Rv) -> Option<&'a Version> {
        let chain = self.chains.get(key)?;
        let rv = rv.max(self.base);
        let next = chain.partition_point(|point| point.rv <= rv);
        next.checked_sub(1).and_then(|i| chain[i].state)
    }

    /// The earliest revision from `low` to `high` at which the state of a key is as wanted.
    pub fn earliest(&self, key: &str, low: Rv, high: Rv, wanted: impl Fn(Option<&Version>) -> bool) -> Option<Rv> {
        let low = low.max(self.base);
        if low > high {
            return None;
        }
        if wanted(self.at(key, low)) {
            return Some(low);
        }
        let chain = self.chains.get(key)?;
        let next = chain.partition_point(|point| point.rv <= low);
        let later = chain[next..].iter().take_while(|point| point.rv <= high);
        later
            .into_iter()
            .find(|point| wanted(point.state))
            .map(|point| point.rv)
    }

    /// The change at a revision.
    #[must_use]
    pub fn change(&self, rv: Rv) -> Option<&Change<'a>> {
        self.changes
            .binary_search_by_key(&rv, |change| change.rv)
            .ok()
            .map(|i| &self.changes[i])
    }

    /// The changes after a revision.
    #[must_use]
    pub fn after(&self, rv: Rv) -> &[Change<'a>] {
        &self.changes[self.changes.partition_point(|change| change.rv <= rv)..]
    }

    /// The state at `base`.
    pub fn first_state(&self) -> impl Iterator<Item = (&'a str, &'a Version)> {
        self.chains.iter().filter_map(|(key, chain)| {
            let first = chain.first().filter(|point| point.rv <= self.base)?;
            Some((*key, first.state?))
        })
    }
}

/// What each revision wrote; one revision has one content.
fn versions<'a>(history: &'a History, report: &mut Report) -> HashMap<Rv, &'a Version> {
    let mut versions: HashMap<Rv, &Version> = HashMap::new();
    for version in &history.versions {
        let known = *versions.entry(version.rv).or_insert(version);
        if known.hash != version.hash || known.key != version.key {
            let (one, other) = (&known.key, &version.key);
            report.violated(
                "C5",
                format!(
                    "revision {} was shown with two contents, of {one} and {other}",
                    version.rv
                ),
            );
        }
    }
    versions
}

fn first_list(history: &History) -> Option<(Rv, impl Iterator<Item = (&str, Rv)>)> {
    history
        .calls
        .iter()
        .find_map(|call| match (&call.request, &call.answer) {
            (
                Request::List {
                    scope,
                    at: At::Latest,
                    limit: 0,
                },
                Answer::Listed { rv, items, hash },
            ) if scope.is_all() && *hash != 0 => Some((*rv, items.iter().map(|item| (&*item.key, item.rv)))),
            _ => None,
        })
}

/// Where a watch's events begin, and up to where it told everything. `None`: it told nothing for sure.
#[must_use]
pub fn reach(watch: &Watch) -> Option<(Rv, Rv)> {
    let mut from = match watch.opened.begin {
        Begin::Rv(rv) => Some(rv),
        Begin::State(_) => None,
    };
    let mut to = from;
    for (_, event) in &watch.events {
        if event.kind == Kind::Initial {
            from = Some(event.rv);
        }
        if from.is_some() {
            to = to.max(Some(event.rv));
        }
    }
    Some((from?, to?))
}

/// How far the watches of everything reach, without a hole, from `base` on.
fn covered(history: &History, base: Rv) -> Rv {
    let mut reaches: Vec<_> = history
        .watches
        .iter()
        .filter(|watch| watch.opened.scope.is_all())
        .filter_map(reach)
        .collect();
    reaches.sort_unstable();
    let mut covered = base;
    for (from, to) in reaches {
        if from <= covered {
            covered = covered.max(to);
        }
    }
    covered
}

/// What watches without a selector told of each revision; they must agree.
fn told<'a>(history: &'a History, base: Rv, report: &mut Report) -> BTreeMap<Rv, Said<'a>> {
    let mut told: BTreeMap<Rv, Said> = BTreeMap::new();
    for watch in history
        .watches
        .iter()
        .filter(|watch| watch.opened.scope.colour.is_empty())
    {
        for (_, event) in watch.events.iter().filter(|(_, event)| event.rv > base) {
            let put = match event.kind {
                Kind::Added | Kind::Modified => true,
                Kind::Deleted => false,
                Kind::Bookmark | Kind::Initial => continue,
            };
            let said = Said {
                key: &event.key,
                put,
                hash: event.hash,
            };
            let first = *told.entry(event.rv).or_insert(said);
            if first != said {
                let watch = watch.opened.watch;
                report.violated(
                    "C5",
                    format!("revision {}: watch {watch} told {said:?}, another {first:?}", event.rv),
                );
            }
        }
    }
    told
}

/// What answers show to have been written.
fn answered(history: &History) -> impl Iterator<Item = (Rv, Said<'_>, &Call)> {
    // The content is compared by the versions' own records.
    let hashes: HashMap<(Rv, &str), u64> = history.versions.iter().map(|v| ((v.rv, &*v.key), v.hash)).collect();
    let of_calls = history
        .calls
        .iter()
        .flat_map(|call| shown(call).into_iter().map(move |(key, rv)| (key, rv, call)));
    of_calls.filter_map(move |(key, rv, call)| {
        let hash = *hashes.get(&(rv, key))?;
        Some((rv, Said { key, put: true, hash }, call))
    })
}

/// Keys and revisions that an answer shows to exist.
fn shown(call: &Call) -> Vec<(&str, Rv)> {
    match (&call.request, &call.answer) {
        (Request::Get { key, .. }, Answer::Found { rv, .. }) => vec![(key, *rv)],
        (Request::List { .. }, Answer::Listed { items, .. }) => {
            items.iter().map(|item| (&*item.key, item.rv)).collect()
        }
        (
            Request::Create { key, .. }
            | Request::Update { key, .. }
            | Request::Patch { key, .. }
            | Request::Count { key, .. },
            Answer::Wrote { rv, .. },
        ) => vec![(key, *rv)],
        _ => Vec::new(),
    }
}

/// How a scope sees a change.
#[must_use]
pub fn seen_as(scope: &Scope, change: &Change<'_>) -> Option<(Kind, u64)> {
    let before = change.before.filter(|version| scope.holds(version));
    let after = change.after.filter(|version| scope.holds(version));
    match (before, after) {
        (None, None) => None,
        (None, Some(after)) => Some((Kind::Added, after.hash)),
        (Some(_), Some(after)) => Some((Kind::Modified, after.hash)),
        (Some(before), None) => Some((Kind::Deleted, before.hash)),
    }
}
