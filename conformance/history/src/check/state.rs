//! Every state that was shown is the state at its revision (C2, C6, C9): the log is replayed once, and each list and each
//! watch's initial state is compared when the replay is at its revision.

use std::collections::BTreeMap;

use super::History;
use super::log::Log;
use super::report::Report;
use crate::record::{Answer, At, Begin, Call, ETCD, Event, Item, Kind, Request, Rv, Scope, Version, combined};

/// A state that was shown.
struct Shown<'a> {
    rv: Rv,
    scope: &'a Scope,
    items: Vec<(&'a str, Rv)>,
    /// 0: not known.
    hash: u64,
    invariant: &'static str,
    by: By<'a>,
}

/// Who showed it.
enum By<'a> {
    Call(&'a Call),
    Watch(u64),
}

/// Replays the log and compares.
pub fn check(history: &History, log: &Log<'_>, report: &mut Report) {
    let mut shown: Vec<_> = history
        .calls
        .iter()
        .filter_map(of_call)
        .chain(of_watches(history))
        .collect();
    shown.retain(|shown| log.is_lit(shown.rv));
    shown.sort_by_key(|shown| shown.rv);
    let mut state: BTreeMap<&str, &Version> = BTreeMap::new();
    let mut changes = log.changes.iter().peekable();
    let mut parts = log.parts().iter().peekable();
    for shown in &shown {
        while let Some(part) = parts.next_if(|part| part.base <= shown.rv) {
            state = part.state.iter().copied().collect();
            while changes.next_if(|change| change.rv <= part.base).is_some() {}
        }
        while let Some(change) = changes.next_if(|change| change.rv <= shown.rv) {
            match change.after {
                Some(after) => state.insert(change.key, after),
                None => state.remove(change.key),
            };
        }
        report.checked(shown.invariant, 1);
        if let Err(why) = compare(shown, &state) {
            let by = match shown.by {
                By::Call(call) if call.server == ETCD => "etcd".to_owned(),
                By::Call(call) => format!(
                    "client {} on server {} at {} µs, {:?}",
                    call.client, call.server, call.asked, call.request
                ),
                By::Watch(watch) => format!("initial state of watch {watch}"),
            };
            report.violated(shown.invariant, format!("{by}, at revision {}: {why}", shown.rv));
        }
    }
}

fn of_call(call: &Call) -> Option<Shown<'_>> {
    let (Request::List { scope, at, limit }, Answer::Listed { rv, items, hash }) = (&call.request, &call.answer) else {
        return None;
    };
    let invariant = match at {
        _ if call.server == ETCD => "C9",
        At::Exact(_) => "C9",
        _ if *limit > 0 => "C6",
        _ => "C2",
    };
    let items = items.iter().map(|Item { key, rv }| (&**key, *rv)).collect();
    Some(Shown {
        rv: *rv,
        scope,
        items,
        hash: *hash,
        invariant,
        by: By::Call(call),
    })
}

fn of_watches(history: &History) -> impl Iterator<Item = Shown<'_>> {
    let with_state = history
        .watches
        .iter()
        .filter(|watch| matches!(watch.opened.begin, Begin::State(_)));
    with_state.filter_map(|watch| {
        let end = watch.events.iter().position(|(_, event)| event.kind == Kind::Initial)?;
        let mut events: Vec<&Event> = watch.events[..end].iter().map(|(_, event)| event).collect();
        // The order of the initial events is not defined; that of a list is.
        events.sort_by(|a, b| a.key.cmp(&b.key));
        Some(Shown {
            rv: watch.events[end].1.rv,
            scope: &watch.opened.scope,
            items: events.iter().map(|event| (&*event.key, event.rv)).collect(),
            hash: combined(events.iter().map(|event| event.hash)),
            invariant: "C6",
            by: By::Watch(watch.opened.watch),
        })
    })
}

fn compare(shown: &Shown<'_>, state: &BTreeMap<&str, &Version>) -> Result<(), String> {
    let mut items = shown.items.iter();
    let mut hashes = Vec::with_capacity(shown.items.len());
    for (key, version) in state.iter().filter(|(_, version)| shown.scope.holds(version)) {
        hashes.push(version.hash);
        match items.next() {
            Some((shown, rv)) if shown == key && *rv == version.rv => {}
            other => return Err(format!("{other:?} where {key}@{} should be", version.rv)),
        }
    }
    if let Some(extra) = items.next() {
        return Err(format!("{extra:?} should not be there"));
    }
    let hash = combined(hashes.into_iter());
    if shown.hash != 0 && shown.hash != hash {
        return Err("the items have other contents than what was written at their revisions".into());
    }
    Ok(())
}
