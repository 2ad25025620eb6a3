//! The merged log: what happened at each revision, put together from everything that anybody was told.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;

use super::report::Report;
use super::{History, Watch};
use crate::record::{Answer, At, Begin, Call, Item, Kind, Request, Rv, Scope, Version};

/// The history of the collection after its first list.
///
/// When every server has lost its past at the same time (history is compacted under them), no watch tells what happened
/// until they have loaded again. The log then has a dark part, between two lit ones: nothing is held against anybody there,
/// and the state is taken from a list again.
#[derive(Debug, Default)]
pub struct Log<'a> {
    /// The lit parts, in order. The last one has no end if nothing is known to have happened after it.
    parts: Vec<Part<'a>>,
    /// Per key, sorted: the state from a revision on, `None` for absent. What is not here at all was never there.
    chains: HashMap<&'a str, Vec<Point<'a>>>,
    /// Every change in a lit part, by revision.
    pub changes: Vec<Change<'a>>,
    /// The write of each operation's name, and the revisions at which it took effect.
    pub effects: HashMap<&'a str, Vec<Rv>>,
}

/// A part in which every change is known.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    /// Revision of the list that it begins with.
    pub base: Rv,
    pub end: Rv,
    /// The state at `base`.
    pub state: Vec<(&'a str, &'a Version)>,
}

/// Whether, and where, something was the case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    At(Rv),
    Never,
    /// Not where it is known what happened.
    Dark,
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
        let mut log = Self {
            parts: parts(history, &versions),
            ..Self::default()
        };
        let Some(base) = log.parts.first().map(|part| part.base) else {
            report.trouble("the history has no first list");
            return log;
        };
        let told = told(history, base, report);
        let mut all = told.clone();
        let mut reported = HashSet::new();
        for (rv, said, call) in answered(history).filter(|(rv, ..)| *rv > base) {
            let other = *all.entry(rv).or_insert(said);
            if other == said && told.contains_key(&rv) {
                continue;
            }
            let by = format!("an answer to client {} from server {}", call.client, call.server);
            if other != said {
                report.violated(
                    "C5",
                    format!("revision {rv}: {by} shows {said:?}, a watch told {other:?}"),
                );
            }
            if log.has_change(rv) && !told.contains_key(&rv) && reported.insert(rv) {
                report.violated(
                    "C5",
                    format!("revision {rv} of {}: {by} shows it, no watch told it", said.key),
                );
            }
        }
        log.merge(&all, &versions, report);
        log.check_links(history, report);
        log.check_light(history, report);
        log
    }

    fn merge(&mut self, all: &BTreeMap<Rv, Said<'a>>, versions: &HashMap<Rv, &'a Version>, report: &mut Report) {
        for (rv, said) in all {
            let after = versions.get(rv).filter(|after| said.put && !after.op.is_empty());
            if let Some(after) = after {
                self.effects.entry(&after.op).or_default().push(*rv);
            }
        }
        for part in self.parts.clone() {
            for chain in self.chains.values_mut() {
                chain.push(Point {
                    rv: part.base,
                    state: None,
                });
            }
            for (key, version) in part.state {
                let chain = self.chains.entry(key).or_default();
                chain.retain(|point| point.rv < part.base);
                chain.push(Point {
                    rv: part.base,
                    state: Some(version),
                });
            }
            for (rv, said) in all.range((Bound::Excluded(part.base), Bound::Included(part.end))) {
                self.add(*rv, *said, versions, report);
            }
        }
        let last = all.last_key_value().map_or(0, |(rv, _)| *rv);
        if let Some(part) = self.parts.last_mut().filter(|part| part.end >= last) {
            part.end = Rv::MAX;
        }
    }

    fn check_light(&self, history: &History, report: &mut Report) {
        if let Some(end) = history.end.as_ref().filter(|end| !self.is_lit(end.last)) {
            report.trouble(format!("no watch covers the last write, at revision {}", end.last));
        }
        if let (Some(first), Some(last)) = (self.parts.first(), self.changes.last()) {
            report.lit(last.rv - first.base);
        }
        report.dark(self.parts.windows(2).map(|pair| pair[1].base - pair[0].end).sum());
    }

    /// The part that a revision is in.
    fn part(&self, rv: Rv) -> Option<&Part<'a>> {
        let next = self.parts.partition_point(|part| part.base <= rv);
        next.checked_sub(1)
            .map(|i| &self.parts[i])
            .filter(|part| rv <= part.end)
    }

    /// Whether it is known what happened at a revision (before the first list the state after it counts).
    #[must_use]
    pub fn is_lit(&self, rv: Rv) -> bool {
        self.part(rv).is_some()
    }

    /// Whether what happened at a revision must be in the log: of the write that a part's first list shows as its newest,
    /// only the result is known.
    #[must_use]
    pub fn has_change(&self, rv: Rv) -> bool {
        self.part(rv).is_some_and(|part| part.base < rv)
    }

    /// Whether it is known what happened from one revision to another.
    #[must_use]
    pub fn is_lit_through(&self, low: Rv, high: Rv) -> bool {
        self.part(low.max(self.base())).is_some_and(|part| high <= part.end)
    }

    /// The first list's revision.
    #[must_use]
    pub fn base(&self) -> Rv {
        self.parts.first().map_or(0, |part| part.base)
    }

    #[must_use]
    pub fn parts(&self) -> &[Part<'a>] {
        &self.parts
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
        for change in &self.changes {
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

    /// The state of a key at a revision in a lit part.
    fn at(&self, key: &str, rv: Rv) -> Option<&'a Version> {
        let chain = self.chains.get(key)?;
        let next = chain.partition_point(|point| point.rv <= rv);
        next.checked_sub(1).and_then(|i| chain[i].state)
    }

    /// The earliest revision from `low` to `high` at which the state of a key is as wanted.
    pub fn earliest(&self, key: &str, low: Rv, high: Rv, wanted: impl Fn(Option<&Version>) -> bool) -> Place {
        let low = low.max(self.base());
        if low > high {
            return Place::Never;
        }
        let Some(part) = self.part(low) else { return Place::Dark };
        if wanted(self.at(key, low)) {
            return Place::At(low);
        }
        let otherwise = if high > part.end { Place::Dark } else { Place::Never };
        let Some(chain) = self.chains.get(key) else {
            return otherwise;
        };
        let next = chain.partition_point(|point| point.rv <= low);
        let mut later = chain[next..].iter().take_while(|point| point.rv <= high.min(part.end));
        later
            .find(|point| wanted(point.state))
            .map_or(otherwise, |point| Place::At(point.rv))
    }

    /// Whether the state of a key was as wanted at some time before a revision.
    pub fn was_before(&self, key: &str, rv: Rv, wanted: impl Fn(Option<&Version>) -> bool) -> bool {
        let chain = self.chains.get(key).map_or(&[][..], Vec::as_slice);
        let born = chain.first().is_some_and(|point| point.rv <= self.base());
        (!born && wanted(None)) || chain.iter().any(|point| point.rv < rv && wanted(point.state))
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

/// The lit parts: each begins with a list of everything, and reaches as far as watches of everything do from there.
fn parts<'a>(history: &'a History, versions: &HashMap<Rv, &'a Version>) -> Vec<Part<'a>> {
    let mut lists: Vec<(Rv, &[Item])> = history.calls.iter().filter_map(whole_list).collect();
    let first = lists.first().map_or(0, |(rv, _)| *rv);
    lists.retain(|(rv, _)| *rv >= first);
    lists.sort_by_key(|(rv, _)| *rv);
    let of_all = history.watches.iter().filter(|watch| watch.opened.scope.is_all());
    let mut reaches: Vec<_> = of_all.filter_map(reach).collect();
    reaches.sort_unstable();
    let mut parts: Vec<Part> = Vec::new();
    for (base, items) in lists {
        if parts.last().is_some_and(|part| base <= part.end) {
            continue;
        }
        let mut end = base;
        for (from, to) in &reaches {
            if *from <= end {
                end = end.max(*to);
            }
        }
        // A list that no watch goes on from is only worth something where nothing else is.
        if end > base || parts.is_empty() {
            let state = items
                .iter()
                .filter_map(|item| Some((&*item.key, *versions.get(&item.rv)?)));
            parts.push(Part {
                base,
                end,
                state: state.collect(),
            });
        }
    }
    parts
}

/// A list of everything that claims to be the newest, and whose contents are known.
fn whole_list(call: &Call) -> Option<(Rv, &[Item])> {
    match (&call.request, &call.answer) {
        (
            Request::List {
                scope,
                at: At::Latest,
                limit: 0,
            },
            Answer::Listed { rv, items, hash },
        ) if scope.is_all() && *hash != 0 => Some((*rv, items)),
        _ => None,
    }
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
