//! Every watch told exactly what happened in its scope (C5, C7).

use super::History;
use super::log::{Change, Log, reach, seen_as};
use super::report::Report;
use crate::record::{Begin, Event, Kind, Rv, Why};

/// Compares each watch with the log.
pub fn check(history: &History, log: &Log<'_>, report: &mut Report) {
    let last = history.end.as_ref().map_or(0, |end| end.last);
    for watch in &history.watches {
        let number = watch.opened.watch;
        let Some((from, _)) = reach(watch) else { continue };
        let skip = match watch.opened.begin {
            Begin::Rv(_) => 0,
            Begin::State(_) => watch
                .events
                .iter()
                .position(|(_, event)| event.kind == Kind::Initial)
                .map_or(0, |end| end + 1),
        };
        let invariant = if watch.opened.scope.colour.is_empty() {
            "C5"
        } else {
            "C7"
        };
        let mut place = Place {
            log,
            at: from.max(log.base()),
            scope: &watch.opened.scope,
        };
        for (_, event) in &watch.events[skip..] {
            if !log.has_change(event.rv) {
                place.at = place.at.max(event.rv);
                continue;
            }
            report.checked(invariant, 1);
            for (invariant, why) in place.step(event, invariant) {
                report.violated(
                    invariant,
                    format!("watch {number} on server {}: {why}", watch.opened.server),
                );
            }
        }
        let over = watch.closed.as_ref().is_some_and(|closed| closed.why == Why::Over);
        if over && log.is_lit(last) {
            for missing in place.skipped(last) {
                report.violated(
                    "C5",
                    format!("watch {number}: never told what happened at {}", missing.rv),
                );
            }
        }
    }
}

/// Where a watch stands in the log.
struct Place<'a> {
    log: &'a Log<'a>,
    at: Rv,
    scope: &'a crate::record::Scope,
}

impl Place<'_> {
    /// Changes in scope after the place, up to a revision.
    fn skipped(&self, to: Rv) -> Vec<&Change<'_>> {
        let later = self.log.after(self.at).iter().take_while(|change| change.rv <= to);
        later.filter(|change| seen_as(self.scope, change).is_some()).collect()
    }

    /// Goes to an event; what is wrong with it, by invariant.
    fn step(&mut self, event: &Event, invariant: &'static str) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        let shown = String::from(event.clone());
        if matches!(event.kind, Kind::Bookmark | Kind::Initial) {
            if event.rv < self.at {
                wrong.push(("C5", format!("bookmark {shown} after {}", self.at)));
            }
            for change in self.skipped(event.rv) {
                wrong.push((
                    "C5",
                    format!(
                        "bookmark {shown} promises that {} at {} was told",
                        change.key, change.rv
                    ),
                ));
            }
            self.at = self.at.max(event.rv);
            return wrong;
        }
        if event.rv <= self.at {
            return vec![("C5", format!("{shown} after {}", self.at))];
        }
        for change in self.skipped(event.rv - 1) {
            wrong.push((
                "C5",
                format!("{} at {} was not told, {shown} was", change.key, change.rv),
            ));
        }
        match self.log.change(event.rv) {
            Some(change) if change.key == event.key => match seen_as(self.scope, change) {
                None => wrong.push(("C7", format!("{shown} does not match {:?}", self.scope))),
                Some((kind, _)) if kind != event.kind => {
                    wrong.push((invariant, format!("{shown} should be {kind:?}")));
                }
                Some((_, hash)) if hash != event.hash => {
                    wrong.push((invariant, format!("{shown} should carry {hash:x}")));
                }
                Some(_) => {}
            },
            _ => wrong.push(("C5", format!("{shown}: nothing of that kind happened then"))),
        }
        self.at = event.rv;
        wrong
    }
}
