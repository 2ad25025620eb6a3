//! Real time and revisions agree (C1, C2, C3, C4, C8): see the chapter in [`super`].

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::History;
use super::log::{Log, Place};
use super::report::Report;
use crate::record::{Answer, At, Begin, Call, ETCD, Kind, Micros, Request, Rv, Version};

/// No bound from above.
const FAR: Rv = Rv::MAX;

/// What was shown by when, to everybody or by one server.
#[derive(Default)]
struct Shown {
    pending: BinaryHeap<Reverse<(Micros, Rv)>>,
    newest: Rv,
}

impl Shown {
    fn push(&mut self, at: Micros, rv: Rv) {
        self.pending.push(Reverse((at, rv)));
    }

    /// The newest revision that was shown strictly before a time. Times must not decrease from call to call.
    fn before(&mut self, at: Micros) -> Rv {
        while let Some(Reverse((when, rv))) = self.pending.peek().copied()
            && when < at
        {
            self.pending.pop();
            self.newest = self.newest.max(rv);
        }
        self.newest
    }
}

/// A call, or a watch that began with a state, as one step in the order of asking.
enum Step<'a> {
    Call(&'a Call),
    /// Server, how fresh it had to be, the revision of its initial state.
    Watch {
        server: u32,
        at: At,
        rv: Rv,
        told: Micros,
        watch: u64,
    },
}

/// Everything that the sweep carries along.
struct Sweep<'a, 'r> {
    log: &'a Log<'a>,
    report: &'r mut Report,
    all: Shown,
    servers: HashMap<u32, Shown>,
    /// For each effective write when it was asked, sorted; with the smallest revision of it and all later ones.
    asked: Vec<(Micros, Rv)>,
    /// By uid. An object has one, unless a create took effect twice.
    deletions: HashMap<&'a str, Vec<(Rv, &'a Version)>>,
}

/// Checks the order of all calls.
pub fn check(history: &History, log: &Log<'_>, report: &mut Report) {
    let mut sweep = Sweep {
        log,
        report,
        all: Shown::default(),
        servers: HashMap::new(),
        asked: when_asked(history, log),
        deletions: deletions(log),
    };
    let mut steps: Vec<(Micros, Step)> = history
        .calls
        .iter()
        .map(|call| (call.asked, Step::Call(call)))
        .collect();
    for watch in &history.watches {
        let (server, opened) = (watch.opened.server, &watch.opened);
        for (at, event) in &watch.events {
            // Objects of an initial state are shown in no order; their revisions exist all the same.
            sweep.all.push(*at, event.rv);
            let shows = match opened.begin {
                // A bookmark at the beginning says only that the watch has begun.
                Begin::Rv(rv) => event.rv > rv,
                Begin::State(_) => event.kind == Kind::Initial,
            };
            if shows {
                sweep.servers.entry(server).or_default().push(*at, event.rv);
            }
            if let (Kind::Initial, Begin::State(fresh)) = (event.kind, opened.begin) {
                let step = Step::Watch {
                    server,
                    at: fresh,
                    rv: event.rv,
                    told: *at,
                    watch: opened.watch,
                };
                steps.push((opened.asked, step));
            }
        }
    }
    steps.sort_by_key(|(asked, _)| *asked);
    for (asked, step) in steps {
        match step {
            Step::Call(call) => sweep.call(call),
            Step::Watch {
                server,
                at,
                rv,
                told,
                watch,
            } => {
                let (low, high) = (sweep.all.before(asked), sweep.high(told));
                let shown = sweep.servers.entry(server).or_default().before(asked);
                let what = || format!("watch {watch} on server {server}: initial state at {rv}");
                sweep.listed(at, rv, (low, shown, high), &what);
            }
        }
    }
}

/// When each effective write was asked, and the smallest revision among it and all that were asked later.
fn when_asked(history: &History, log: &Log<'_>) -> Vec<(Micros, Rv)> {
    let effect = |call: &Call| Some((call.asked, *log.effects.get(call.request.op()?)?.first()?));
    let mut asked: Vec<_> = history.calls.iter().filter_map(effect).collect();
    asked.sort_unstable();
    let mut least = FAR;
    for (_, rv) in asked.iter_mut().rev() {
        least = least.min(*rv);
        *rv = least;
    }
    asked
}

fn deletions<'a>(log: &Log<'a>) -> HashMap<&'a str, Vec<(Rv, &'a Version)>> {
    let mut deletions: HashMap<&str, Vec<_>> = HashMap::new();
    for change in log.changes.iter().filter(|change| change.after.is_none()) {
        if let Some(before) = change.before {
            deletions.entry(&before.uid).or_default().push((change.rv, before));
        }
    }
    deletions
}

impl<'a> Sweep<'a, '_> {
    /// No revision after this one could be shown at a time: the next one was not even asked for.
    fn high(&self, at: Micros) -> Rv {
        let next = self.asked.partition_point(|(asked, _)| *asked <= at);
        self.asked.get(next).map_or(FAR, |(_, rv)| rv - 1)
    }

    fn call(&mut self, call: &Call) {
        let low = self.all.before(call.asked);
        let shown = if call.server == ETCD {
            0
        } else {
            self.servers.entry(call.server).or_default().before(call.asked)
        };
        let high = self.high(call.answered);
        let place = match &call.request {
            Request::Get { key, at } => self.get(call, key, *at, (low, shown, high)),
            Request::List { at, .. } => {
                let what = || describe(call);
                match &call.answer {
                    Answer::Listed { rv, .. } => {
                        self.listed(*at, *rv, (low, shown, high), &what);
                        Some(*rv)
                    }
                    Answer::Refused { code: 1, .. } => {
                        self.report.violated("C6", what());
                        None
                    }
                    _ => {
                        self.reasonable(call);
                        None
                    }
                }
            }
            _ => self.write(call, low, high),
        };
        if let Some(place) = place {
            self.all.push(call.answered, place);
            let read = matches!(call.request, Request::Get { .. } | Request::List { .. });
            let past = matches!(call.request, Request::List { at: At::Exact(_), .. });
            if read && !past && call.server != ETCD {
                self.servers.entry(call.server).or_default().push(call.answered, place);
            }
        }
    }

    /// A state at a known revision. Bounds: shown to anybody, shown by this server, possible.
    fn listed(&mut self, at: At, rv: Rv, (low, shown, high): (Rv, Rv, Rv), what: &dyn Fn() -> String) {
        if rv > high {
            self.report
                .violated("C2", format!("{}: nothing so new could exist, at most {high}", what()));
        }
        match at {
            At::Latest => {
                self.report.checked("C8", 1);
                if rv < low {
                    self.report
                        .violated("C8", format!("{}: {low} had been shown before it was asked", what()));
                }
            }
            At::NotOlder(wanted) => {
                self.report.checked("C8", 1);
                if rv < wanted {
                    self.report.violated("C8", format!("{}: older than asked for", what()));
                }
            }
            At::Exact(wanted) => {
                self.report.checked("C9", 1);
                if rv != wanted {
                    self.report
                        .violated("C9", format!("{}: another revision than asked for", what()));
                }
                return;
            }
            At::Any => {}
        }
        self.report.checked("C4", 1);
        if rv < shown {
            self.report
                .violated("C4", format!("{}: this server had shown {shown} before", what()));
        }
    }

    fn get(&mut self, call: &Call, key: &str, at: At, (low, shown, high): (Rv, Rv, Rv)) -> Option<Rv> {
        let wanted: Box<dyn Fn(Option<&Version>) -> bool> = match &call.answer {
            Answer::Found { rv, .. } => {
                let rv = *rv;
                Box::new(move |version| version.is_some_and(|version| version.rv == rv))
            }
            Answer::Missing => Box::new(|version| version.is_none()),
            _ => {
                self.reasonable(call);
                return None;
            }
        };
        let claimed = match at {
            At::Latest => low,
            At::NotOlder(rv) | At::Exact(rv) => rv,
            At::Any => 0,
        };
        self.report.checked(if at == At::Latest { "C1" } else { "C4" }, 1);
        if at != At::Any {
            self.report.checked("C8", 1);
        }
        let high = high.max(claimed);
        match self.log.earliest(key, claimed.max(shown), high.max(shown), &wanted) {
            Place::At(rv) => return Some(rv),
            Place::Dark => return None,
            Place::Never => {}
        }
        // Which promise was broken?
        let what = describe(call);
        if shown > claimed && self.log.earliest(key, claimed, high, &wanted) != Place::Never {
            self.report
                .violated("C4", format!("{what}: this server had shown {shown} before"));
        } else if at != At::Any && self.log.was_before(key, claimed, &wanted) {
            self.report.violated(
                "C8",
                format!("{what}: true only before {claimed}, which had been shown or asked for"),
            );
        } else {
            self.report
                .violated("C1", format!("{what}: never true from {claimed} to {high}"));
        }
        None
    }

    fn write(&mut self, call: &Call, low: Rv, high: Rv) -> Option<Rv> {
        self.report.checked("C1", 1);
        let effect = call
            .request
            .op()
            .and_then(|op| self.log.effects.get(op))
            .and_then(|rvs| rvs.first().copied());
        if let Some(rv) = effect
            && rv <= low
        {
            let what = describe(call);
            self.report.violated(
                "C1",
                format!("{what}: took effect at {rv}, but {low} had been shown before it was asked"),
            );
        }
        match &call.answer {
            Answer::Wrote { rv, .. } => {
                // What was before the first list is known only as the state that it left.
                if effect != Some(*rv) && *rv > self.log.base() && self.log.is_lit(*rv) {
                    self.report
                        .violated("C1", format!("{}: took effect at {effect:?}", describe(call)));
                }
                Some(*rv)
            }
            Answer::Deleted { uid } => self.deleted(call, uid, low, high),
            Answer::Refused { code, .. } => {
                if let Some(rv) = effect {
                    self.report
                        .violated("C1", format!("{}: but it took effect at {rv}", describe(call)));
                    return None;
                }
                self.refused(call, *code, low, high)
            }
            // Nobody knows when it ended, so it bounds nothing.
            _ => None,
        }
    }

    fn deleted(&mut self, call: &Call, uid: &str, low: Rv, high: Rv) -> Option<Rv> {
        let Request::Delete { base, uid: wanted, .. } = &call.request else {
            return None;
        };
        let Some(all) = self.deletions.get(uid) else {
            if self.log.is_lit_through(low, high) {
                self.report
                    .violated("C1", format!("{}: it was never deleted", describe(call)));
            }
            return None;
        };
        let Some((rv, before)) = all.iter().copied().find(|(rv, _)| *rv > low && *rv <= high) else {
            let when: Vec<Rv> = all.iter().map(|(rv, _)| *rv).collect();
            let what = describe(call);
            self.report
                .violated("C1", format!("{what}: deleted at {when:?}, not from {low} to {high}"));
            // What is not true bounds nothing.
            return None;
        };
        if *base > 0 {
            self.report.checked("C3", 1);
            if *base != before.rv {
                self.report.violated(
                    "C3",
                    format!("{}: deleted at {rv}, when it was at {}", describe(call), before.rv),
                );
            }
        }
        if !wanted.is_empty() && wanted != uid {
            self.report
                .violated("C1", format!("{}: another object", describe(call)));
        }
        Some(rv)
    }

    /// A refusal must have been right at some point of its time.
    fn refused(&mut self, call: &Call, code: u16, low: Rv, high: Rv) -> Option<Rv> {
        let (key, wanted): (_, Box<dyn Fn(Option<&Version>) -> bool>) = match (&call.request, code) {
            (Request::Create { key, .. }, 409) => (key, Box::new(|v| v.is_some())),
            (Request::Update { key, base, .. } | Request::Patch { key, base, .. }, 409) if *base > 0 => {
                let base = *base;
                (key, Box::new(move |v| v.is_none_or(|v| v.rv != base)))
            }
            (Request::Count { key, n, .. }, 422) => {
                let n = *n;
                (key, Box::new(move |v| v.is_some_and(|v| v.n != n)))
            }
            (Request::Delete { key, base, uid }, 409) => {
                let fits = move |v: &Version| (*base == 0 || v.rv == *base) && (uid.is_empty() || v.uid == *uid);
                (key, Box::new(move |v| v.is_none_or(|v| !fits(v))))
            }
            (
                Request::Update { key, .. }
                | Request::Patch { key, .. }
                | Request::Count { key, .. }
                | Request::Delete { key, .. },
                404,
            ) => (key, Box::new(|v| v.is_none())),
            _ => {
                self.reasonable(call);
                return None;
            }
        };
        match self.log.earliest(key, low, high.max(low), wanted) {
            Place::At(rv) => return Some(rv),
            Place::Dark => {}
            Place::Never => {
                let what = describe(call);
                self.report
                    .violated("C1", format!("{what}: without reason from {low} to {high}"));
            }
        }
        None
    }

    /// Answers that say nothing about objects: only some are to be expected.
    fn reasonable(&mut self, call: &Call) {
        let fine = match &call.answer {
            Answer::Unknown { .. } => true,
            // Never sent; too many requests.
            Answer::Refused { code: 0 | 429, .. } => true,
            // The revision is forgotten.
            Answer::Refused { code: 410, .. } => {
                matches!(&call.request, Request::List { at, limit, .. } if *limit > 0 || matches!(at, At::Exact(_)))
            }
            // A patch without a revision gives up after some tries.
            Answer::Refused { code: 409, .. } => {
                matches!(&call.request, Request::Patch { base: 0, .. } | Request::Count { .. })
            }
            _ => false,
        };
        if !fine {
            self.report
                .violated("C1", format!("{}: no such answer is expected", describe(call)));
        }
    }
}

fn describe(call: &Call) -> String {
    let answer = match &call.answer {
        Answer::Listed { rv, items, .. } => format!("{} items at {rv}", items.len()),
        other => format!("{other:?}"),
    };
    let server = if call.server == ETCD {
        "etcd".to_owned()
    } else {
        format!("server {}", call.server)
    };
    format!(
        "client {} on {server}, {} to {} µs: {:?} -> {answer}",
        call.client, call.asked, call.answered, call.request
    )
}
