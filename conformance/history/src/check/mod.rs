//! The offline checker: invariants C1 to C10 over a recorded history.
//!
//! # How it works
//!
//! etcd orders all writes by revision, and an API server shows that revision as resourceVersion. So the order of writes need
//! not be searched for, as a checker of linearizability usually must: it is there, and the check costs no more than sorting.
//!
//! 1. [`log`]: what all watches and answers told is merged into one log, revision by revision. Whoever tells something else
//!    about a revision than the others violates C5. The log of each object must be a chain: create, changes, delete; every
//!    compare-and-set carries the revision that it replaced, so that a missing or overwritten link shows (C3, C5).
//! 2. [`order`]: every call must have taken effect at one point of the log between its two times. A write's point is its
//!    revision; a read's point is any at which its answer was true. A point must lie after the points of all calls that were
//!    answered before this one was asked. Going through the calls as they were asked, and giving each read the earliest
//!    point that is left, finds such points if there are any: an earlier point never takes a choice away from later calls.
//!    That is linearizability of each object (C1), and as revisions are global, strict serializability across objects (C2,
//!    C8). Reads that claim less (resourceVersion 0) are held to what their server has shown before (C4).
//! 3. [`state`]: the log is replayed; each list, page by page or whole, and each watch's initial state must equal the state
//!    at its revision (C2, C6), also when the revision was asked for by name or etcd itself was asked (C9).
//! 4. [`watches`]: each watch must have told exactly the changes in its scope after its beginning, in order, once each, as
//!    its selector sees them; a bookmark promises that nothing before it is left (C5, C7).
//! 5. [`crate::shapes`]: the shapes of revision parameters (C10).
//!
//! A call without an answer may have taken effect at any time after it was asked, or never. A delete that was acknowledged
//! may share its deletion with another one that ran at the same time: nobody can tell whose it was.
//!
//! Memory and time are linear in the history; an hour at the usual rate takes seconds.

pub mod log;
pub mod order;
pub mod report;
pub mod state;
#[cfg(test)]
mod tests;
pub mod watches;

use std::collections::HashMap;
use std::path::Path;

use anyhow::Result;

use self::log::Log;
use self::report::Report;
use crate::record::{Call, Closed, End, Event, Fault, Micros, Opened, Record, Shape, Start, Version};
use crate::shapes;

/// More records than this are not read: about ten hours at the usual rate.
const MOST: usize = 50_000_000;

/// A history in memory.
#[derive(Debug, Default)]
pub struct History {
    pub start: Start,
    pub versions: Vec<Version>,
    pub calls: Vec<Call>,
    pub watches: Vec<Watch>,
    pub faults: Vec<Fault>,
    pub shapes: Vec<Shape>,
    pub end: Option<End>,
    by_number: HashMap<u64, usize>,
}

/// One watch with everything that it told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    pub opened: Opened,
    pub events: Vec<(Micros, Event)>,
    pub closed: Option<Closed>,
}

impl History {
    pub fn load(path: &Path) -> Result<Self> {
        let mut history = Self::default();
        let mut count = 0;
        crate::record::read(path, |record| {
            count += 1;
            anyhow::ensure!(count <= MOST, "the history has more than {MOST} records");
            history.add(record);
            Ok(())
        })?;
        Ok(history)
    }

    pub fn add(&mut self, record: Record) {
        match record {
            Record::Start(start) => self.start = start,
            Record::Version(version) => self.versions.push(version),
            Record::Call(call) => self.calls.push(call),
            Record::Opened(opened) => {
                self.by_number.insert(opened.watch, self.watches.len());
                self.watches.push(Watch {
                    opened,
                    events: Vec::new(),
                    closed: None,
                });
            }
            Record::Seen(seen) => {
                if let Some(watch) = self.by_number.get(&seen.watch).and_then(|i| self.watches.get_mut(*i)) {
                    watch
                        .events
                        .extend(seen.events.into_iter().map(|event| (seen.at, event)));
                }
            }
            Record::Closed(closed) => {
                if let Some(watch) = self.by_number.get(&closed.watch).and_then(|i| self.watches.get_mut(*i)) {
                    watch.closed = Some(closed);
                }
            }
            Record::Fault(fault) => self.faults.push(fault),
            Record::Shape(shape) => self.shapes.push(shape),
            Record::End(end) => self.end = Some(end),
        }
    }
}

/// Checks everything.
#[must_use]
pub fn check(history: &History) -> Report {
    let mut report = Report::of(history);
    let log = Log::build(history, &mut report);
    order::check(history, &log, &mut report);
    state::check(history, &log, &mut report);
    watches::check(history, &log, &mut report);
    for shape in &history.shapes {
        report.checked("C10", 1);
        if let Err(why) = shapes::verdict(shape) {
            report.violated("C10", why);
        }
    }
    match &history.end {
        None => report.trouble("the history has no end: the run broke off"),
        Some(end) => {
            if end.last == 0 {
                report.trouble("after the faults no write succeeded any more");
            }
            end.troubles.iter().for_each(|trouble| report.trouble(trouble));
        }
    }
    report
}
