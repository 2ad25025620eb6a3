//! A client that watches as an informer does: state first, then events, resumed on any server where the last watch ended.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch::Receiver;

use super::session::{Session, collection_path, selectors};
use crate::record::{Answer, At, Begin, Closed, Event, Kind, Opened, Record, Rv, Scope, Seen, Why};
use crate::wire::{Lines, Next};

/// How a watcher gets its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A list, then a watch from its revision.
    ListThenWatch,
    /// The same, but the list is the run's first: so that nothing of the run is missed.
    FromFirst,
    /// Both in one stream, as fresh as said.
    WatchList(At),
}

/// What one watcher wants to see.
#[derive(Clone, Debug)]
pub struct Wish {
    pub scope: Scope,
    pub style: Style,
}

/// Watches, `first` being the revision of the run's first list, until its place is not before the run's last write, which `last` tells once it is known. Returns whether it got
/// there.
pub async fn run(mut session: Session, wish: Wish, first: Rv, mut last: Receiver<Rv>) {
    let mut place = if wish.style == Style::FromFirst { first } else { 0 };
    let mut watches = 0;
    loop {
        let begin = match (place, wish.style) {
            (0, Style::ListThenWatch | Style::FromFirst) => match session.list(&wish.scope, At::Latest, 0).await {
                Answer::Listed { rv, .. } => Begin::Rv(rv),
                _ => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            (0, Style::WatchList(at)) => Begin::State(at),
            (place, _) => Begin::Rv(place),
        };
        watches += 1;
        let watch = u64::from(session.number) * 1_000_000 + watches;
        let why = one(&mut session, &wish.scope, begin, watch, &mut place, &mut last).await;
        let over = why == Why::Over;
        let expired = matches!(&why, Why::Refused { code: 410, .. });
        let failed = !matches!(why, Why::Ended | Why::Over);
        session.shared.put(&Record::Closed(Closed {
            watch,
            at: session.shared.now(),
            why,
        }));
        if over {
            return;
        }
        if expired {
            place = 0;
        }
        if failed {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if failed || session.dice.percent(50) {
            session.hop();
        }
    }
}

/// One watch from its opening to its end.
async fn one(
    session: &mut Session,
    scope: &Scope,
    begin: Begin,
    watch: u64,
    place: &mut Rv,
    last: &mut Receiver<Rv>,
) -> Why {
    let seconds = 4 + session.dice.below(30);
    let how = match begin {
        Begin::Rv(rv) => format!("resourceVersion={rv}"),
        Begin::State(at) => {
            let rv = match at {
                At::Latest => String::new(),
                At::Any => "0".into(),
                At::NotOlder(rv) | At::Exact(rv) => rv.to_string(),
            };
            format!("resourceVersion={rv}&resourceVersionMatch=NotOlderThan&sendInitialEvents=true")
        }
    };
    let path = format!(
        "{}?watch=1&allowWatchBookmarks=true&timeoutSeconds={seconds}&{}{how}",
        collection_path(&scope.ns),
        selectors(scope)
    );
    let server = u32::try_from(session.server).unwrap_or_default();
    session.shared.put(&Record::Opened(Opened {
        watch,
        client: session.number,
        server,
        asked: session.shared.now(),
        scope: scope.clone(),
        begin,
    }));
    let patience = session.dice.millis(2_000, 6_000);
    let mut lines = match session.wire.open(session.server, &path, patience).await {
        Ok(Ok(lines)) => lines,
        Ok(Err(reply)) => {
            return Why::Refused {
                code: reply.code,
                reason: reply.reason(),
            };
        }
        Err(_) => return Why::Broken,
    };
    if let Begin::Rv(rv) = begin {
        *place = rv;
    }
    follow(session, &mut lines, watch, place, last).await
}

async fn follow(session: &mut Session, lines: &mut Lines, watch: u64, place: &mut Rv, last: &mut Receiver<Rv>) -> Why {
    loop {
        let patience = session.dice.millis(3_000, 9_000);
        let end = *last.borrow();
        if end > 0 && *place >= end {
            return Why::Over;
        }
        let next = tokio::select! {
            next = lines.next() => next,
            changed = last.changed() => {
                if changed.is_err() {
                    return Why::Broken;
                }
                continue;
            }
            // Silent for long: half of the clients lose patience.
            () = tokio::time::sleep(patience) => {
                if end == 0 && session.dice.percent(50) {
                    return Why::Broken;
                }
                continue;
            }
        };
        let events = match next {
            Next::Events(events) => events,
            Next::Ended => return Why::Ended,
            Next::Broken => return Why::Broken,
        };
        let at = session.shared.now();
        let mut seen = Vec::with_capacity(events.len());
        let mut refused = None;
        for event in session.wire.events(events) {
            match read(session, &event) {
                Ok(event) => {
                    if event.kind == Kind::Initial || *place > 0 {
                        *place = event.rv;
                    }
                    seen.push(event);
                }
                Err(why) => refused = Some(why),
            }
        }
        session.newest = session.newest.max(*place);
        session.shared.put(&Record::Seen(Seen {
            watch,
            at,
            events: seen,
        }));
        if let Some(why) = refused {
            return why;
        }
    }
}

/// An event of the wire; an ERROR is the end of the watch.
fn read(session: &Session, event: &Value) -> Result<Event, Why> {
    let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let object = event.pointer("/object").unwrap_or(&Value::Null);
    let kind = match text("/type") {
        "ADDED" => Kind::Added,
        "MODIFIED" => Kind::Modified,
        "DELETED" => Kind::Deleted,
        "BOOKMARK" => {
            let ends = event
                .pointer("/object/metadata/annotations/k8s.io~1initial-events-end")
                .is_some();
            let rv = text("/object/metadata/resourceVersion").parse().unwrap_or_default();
            let kind = if ends { Kind::Initial } else { Kind::Bookmark };
            return Ok(Event {
                kind,
                key: String::new(),
                rv,
                hash: 0,
            });
        }
        _ => {
            let code = event
                .pointer("/object/code")
                .and_then(Value::as_u64)
                .unwrap_or_default();
            let code = u16::try_from(code).unwrap_or_default();
            return Err(Why::Refused {
                code,
                reason: text("/object/reason").into(),
            });
        }
    };
    let (key, rv, hash) = session.shared.observe(object, kind == Kind::Deleted);
    Ok(Event { kind, key, rv, hash })
}
