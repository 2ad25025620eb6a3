//! Histories made by hand: valid ones pass, and each invariant is seen to be violated when it is.

use super::{History, check};
use crate::record::{
    Answer, At, Begin, Call, Closed, ETCD, End, Event, Item, Kind, Micros, Opened, Record, Request, Rv, Scope, Seen,
    Shape, Start, Version, Why, combined,
};

const KEY: &str = "h0/a";
/// The watch that tells everything.
const ALL: u64 = 1;

/// A history that grows, one step after the other unless said otherwise.
struct Tale {
    history: History,
    now: Micros,
}

fn hash(rv: Rv) -> u64 {
    rv.unsigned_abs() * 1_000
}

fn version(key: &str, rv: Rv, op: &str, prev: Rv, n: i64) -> Version {
    Version {
        key: key.into(),
        rv,
        hash: hash(rv),
        uid: format!("uid-{key}"),
        op: op.into(),
        prev,
        n,
        colour: "red".into(),
    }
}

fn event(kind: Kind, key: &str, rv: Rv, of: Rv) -> Event {
    Event {
        kind,
        key: key.into(),
        rv,
        hash: hash(of),
    }
}

fn mark(kind: Kind, rv: Rv) -> Event {
    Event {
        kind,
        key: String::new(),
        rv,
        hash: 0,
    }
}

fn listed(rv: Rv, items: &[(&str, Rv)]) -> Answer {
    let hash = combined(items.iter().map(|(_, rv)| hash(*rv)));
    let items = items
        .iter()
        .map(|(key, rv)| Item {
            key: (*key).into(),
            rv: *rv,
        })
        .collect();
    Answer::Listed { rv, items, hash }
}

fn list(at: At) -> Request {
    Request::List {
        scope: Scope::default(),
        at,
        limit: 0,
    }
}

fn get(key: &str, at: At) -> Request {
    Request::Get { key: key.into(), at }
}

fn found(rv: Rv) -> Answer {
    Answer::Found { rv, hash: hash(rv) }
}

fn wrote(rv: Rv) -> Answer {
    Answer::Wrote { rv, hash: hash(rv) }
}

fn update(op: &str, base: Rv) -> Request {
    Request::Update {
        key: KEY.into(),
        op: op.into(),
        base,
    }
}

impl Tale {
    /// At revision 10 there is one object, written at 5.
    fn new() -> Self {
        let mut tale = Self {
            history: History::default(),
            now: 100,
        };
        tale.add(Record::Start(Start {
            servers: vec!["a".into(), "b".into()],
            ..Start::default()
        }));
        tale.add(Record::Version(version(KEY, 5, "", 0, 0)));
        tale.call(0, list(At::Latest), listed(10, &[(KEY, 5)]));
        tale.open(ALL, Scope::default(), Begin::Rv(10));
        tale
    }

    /// Its usual life: changed at 11, deleted at 12, created at 13, changed at 14.
    fn with_life() -> Self {
        let mut tale = Self::new();
        tale.change(11, "w1", 5, 1);
        tale.delete(12, 11);
        tale.create(13, "w2");
        tale.change(14, "w3", 13, 1);
        tale
    }

    fn add(&mut self, record: Record) {
        self.history.add(record);
    }

    fn call_at(&mut self, asked: Micros, answered: Micros, server: u32, request: Request, answer: Answer) {
        self.add(Record::Call(Call {
            client: 7,
            server,
            asked,
            answered,
            request,
            answer,
        }));
    }

    fn call(&mut self, server: u32, request: Request, answer: Answer) {
        self.now += 10;
        self.call_at(self.now, self.now + 5, server, request, answer);
    }

    fn open(&mut self, watch: u64, scope: Scope, begin: Begin) {
        self.now += 10;
        self.add(Record::Opened(Opened {
            watch,
            client: 9,
            server: 0,
            asked: self.now,
            scope,
            begin,
        }));
    }

    fn see(&mut self, watch: u64, events: Vec<Event>) {
        self.now += 10;
        self.add(Record::Seen(Seen {
            watch,
            at: self.now,
            events,
        }));
    }

    /// An acknowledged compare-and-set, and its event.
    fn change(&mut self, rv: Rv, op: &str, base: Rv, n: i64) {
        self.add(Record::Version(version(KEY, rv, op, base, n)));
        self.call(0, update(op, base), wrote(rv));
        self.see(ALL, vec![event(Kind::Modified, KEY, rv, rv)]);
    }

    fn create(&mut self, rv: Rv, op: &str) {
        let mut born = version(KEY, rv, op, 0, 0);
        born.uid = format!("uid-{rv}");
        self.add(Record::Version(born));
        self.call(
            0,
            Request::Create {
                key: KEY.into(),
                op: op.into(),
            },
            wrote(rv),
        );
        self.see(ALL, vec![event(Kind::Added, KEY, rv, rv)]);
    }

    fn delete(&mut self, rv: Rv, was: Rv) {
        let request = Request::Delete {
            key: KEY.into(),
            base: 0,
            uid: String::new(),
        };
        self.call(
            0,
            request,
            Answer::Deleted {
                uid: format!("uid-{KEY}"),
            },
        );
        self.see(ALL, vec![event(Kind::Deleted, KEY, rv, was)]);
    }

    /// Ends with a last write that is in the log already; what is broken.
    fn broken(mut self) -> Vec<&'static str> {
        // Versions of the second life share an object's identity.
        let born = self
            .history
            .versions
            .iter()
            .filter(|v| v.uid.starts_with("uid-1"))
            .map(|v| (v.rv, v.uid.clone()))
            .next();
        if let Some((born, uid)) = born {
            for version in self.history.versions.iter_mut().filter(|v| v.rv > born && v.key == KEY) {
                version.uid.clone_from(&uid);
            }
        }
        self.add(Record::End(End {
            last: 11,
            troubles: Vec::new(),
        }));
        let report = check(&self.history);
        println!("{report}");
        assert_eq!(report.is_clean(), report.broken().is_empty(), "no verdict: {report}");
        report.broken()
    }
}

#[track_caller]
fn clean(tale: Tale) {
    assert_eq!(tale.broken(), Vec::<&str>::new());
}

#[track_caller]
fn breaks(tale: Tale, invariant: &str) {
    let broken = tale.broken();
    assert!(broken.contains(&invariant), "{invariant} is not among {broken:?}");
}

#[test]
fn a_quiet_life_is_clean() {
    let mut tale = Tale::with_life();
    tale.call(1, get(KEY, At::Latest), found(14));
    tale.call(1, list(At::Latest), listed(14, &[(KEY, 14)]));
    tale.call(1, list(At::Exact(12)), listed(12, &[]));
    tale.call(
        0,
        update("late", 13),
        Answer::Refused {
            code: 409,
            reason: "Conflict".into(),
        },
    );
    clean(tale);
}

#[test]
fn a_call_without_answer_may_or_may_not_have_happened() {
    let mut tale = Tale::with_life();
    let lost = || Answer::Unknown { why: "lost".into() };
    tale.call(0, update("never", 14), lost());
    tale.add(Record::Version(version(KEY, 15, "once", 14, 2)));
    tale.call(0, update("once", 14), lost());
    // It takes effect long after the client gave up.
    tale.call(0, get(KEY, At::Latest), found(14));
    tale.see(ALL, vec![event(Kind::Modified, KEY, 15, 15)]);
    tale.call(0, get(KEY, At::Latest), found(15));
    clean(tale);
}

#[test]
fn reads_at_the_same_time_as_a_write_may_see_either() {
    for rv in [5, 11] {
        let mut tale = Tale::new();
        tale.call_at(200, 300, 1, get(KEY, At::Latest), found(rv));
        tale.call_at(210, 290, 0, update("w1", 5), wrote(11));
        tale.add(Record::Version(version(KEY, 11, "w1", 5, 1)));
        tale.now = 400;
        tale.see(ALL, vec![event(Kind::Modified, KEY, 11, 11)]);
        clean(tale);
    }
}

#[test]
fn c1_an_acknowledged_write_that_is_in_no_history() {
    let mut tale = Tale::with_life();
    tale.call(0, update("gone", 14), wrote(14));
    breaks(tale, "C1");
}

#[test]
fn c1_a_refused_write_that_took_effect() {
    let mut tale = Tale::with_life();
    tale.add(Record::Version(version(KEY, 15, "denied", 14, 2)));
    tale.call(
        0,
        update("denied", 14),
        Answer::Refused {
            code: 409,
            reason: "Conflict".into(),
        },
    );
    tale.see(ALL, vec![event(Kind::Modified, KEY, 15, 15)]);
    breaks(tale, "C1");
}

#[test]
fn c1_a_refusal_without_reason() {
    let mut tale = Tale::with_life();
    tale.call(
        0,
        update("right", 14),
        Answer::Refused {
            code: 409,
            reason: "Conflict".into(),
        },
    );
    breaks(tale, "C1");
    let mut tale = Tale::with_life();
    tale.call(
        0,
        update("right", 14),
        Answer::Refused {
            code: 404,
            reason: "NotFound".into(),
        },
    );
    breaks(tale, "C1");
}

#[test]
fn c1_a_write_that_took_effect_before_it_was_asked() {
    let mut tale = Tale::new();
    tale.add(Record::Version(version(KEY, 11, "w1", 5, 1)));
    tale.see(ALL, vec![event(Kind::Modified, KEY, 11, 11)]);
    tale.call(0, update("w1", 5), wrote(11));
    breaks(tale, "C1");
}

#[test]
fn c1_one_write_that_took_effect_twice() {
    let mut tale = Tale::with_life();
    tale.add(Record::Version(version(KEY, 15, "twice", 0, 1)));
    tale.add(Record::Version(version(KEY, 16, "twice", 0, 1)));
    tale.call(
        0,
        Request::Patch {
            key: KEY.into(),
            op: "twice".into(),
            base: 0,
        },
        wrote(16),
    );
    tale.see(
        ALL,
        vec![event(Kind::Modified, KEY, 15, 15), event(Kind::Modified, KEY, 16, 16)],
    );
    breaks(tale, "C1");
}

#[test]
fn c1_a_create_that_took_effect_again_after_the_deletion_breaks_nothing_else() {
    let mut tale = Tale::new();
    tale.delete(11, 5);
    tale.create(12, "again");
    let uid = "uid-12".to_owned();
    let delete = || Request::Delete {
        key: KEY.into(),
        base: 0,
        uid: String::new(),
    };
    tale.call(0, delete(), Answer::Deleted { uid: uid.clone() });
    tale.see(ALL, vec![event(Kind::Deleted, KEY, 13, 12)]);
    let mut risen = version(KEY, 14, "again", 0, 0);
    risen.uid.clone_from(&uid);
    risen.hash = hash(12);
    tale.add(Record::Version(risen));
    let mut added = event(Kind::Added, KEY, 14, 12);
    added.hash = hash(12);
    tale.see(ALL, vec![added]);
    tale.call(0, delete(), Answer::Deleted { uid });
    tale.see(ALL, vec![event(Kind::Deleted, KEY, 15, 12)]);
    tale.call(0, get(KEY, At::Latest), Answer::Missing);
    assert_eq!(tale.broken(), ["C1"]);
}

#[test]
fn c1_a_read_of_what_was_never_there() {
    let mut tale = Tale::with_life();
    tale.call(0, get("h0/b", At::Latest), found(3));
    breaks(tale, "C1");
}

#[test]
fn c2_a_list_without_an_object_or_with_an_old_one() {
    let mut tale = Tale::with_life();
    tale.call(0, list(At::Latest), listed(14, &[]));
    breaks(tale, "C2");
    let mut tale = Tale::with_life();
    tale.call(0, list(At::Latest), listed(14, &[(KEY, 13)]));
    breaks(tale, "C2");
}

#[test]
fn c2_a_list_with_contents_that_were_not_written() {
    let mut tale = Tale::with_life();
    let Answer::Listed { rv, items, .. } = listed(14, &[(KEY, 14)]) else {
        unreachable!()
    };
    tale.call(0, list(At::Latest), Answer::Listed { rv, items, hash: 4711 });
    breaks(tale, "C2");
}

#[test]
fn c2_a_list_from_the_future() {
    let mut tale = Tale::new();
    tale.call(0, list(At::Latest), listed(11, &[(KEY, 5)]));
    tale.change(11, "w1", 5, 1);
    breaks(tale, "C2");
}

#[test]
fn c3_an_update_that_overwrites_one_it_has_not_seen() {
    let mut tale = Tale::new();
    tale.change(11, "w1", 5, 1);
    tale.change(12, "w2", 5, 1);
    breaks(tale, "C3");
}

#[test]
fn c3_a_delete_whose_precondition_was_not_met() {
    let mut tale = Tale::new();
    tale.change(11, "w1", 5, 1);
    let request = Request::Delete {
        key: KEY.into(),
        base: 5,
        uid: String::new(),
    };
    tale.call(
        0,
        request,
        Answer::Deleted {
            uid: format!("uid-{KEY}"),
        },
    );
    tale.see(ALL, vec![event(Kind::Deleted, KEY, 12, 11)]);
    breaks(tale, "C3");
}

#[test]
fn c4_a_server_that_shows_an_older_state_than_before() {
    let mut tale = Tale::with_life();
    tale.call(1, list(At::Any), listed(14, &[(KEY, 14)]));
    tale.call(1, list(At::Any), listed(13, &[(KEY, 13)]));
    breaks(tale, "C4");
    let mut tale = Tale::with_life();
    tale.call(1, get(KEY, At::Any), found(14));
    tale.call(1, get(KEY, At::Any), found(13));
    breaks(tale, "C4");
    // Another server may well be behind.
    let mut tale = Tale::with_life();
    tale.call(0, list(At::Any), listed(14, &[(KEY, 14)]));
    tale.call(1, list(At::Any), listed(13, &[(KEY, 13)]));
    clean(tale);
}

/// A second watch of everything from revision 10 that tells these events.
fn second_watch(events: Vec<Event>) -> Tale {
    let mut tale = Tale::with_life();
    tale.open(2, Scope::default(), Begin::Rv(10));
    tale.see(2, events);
    tale
}

fn life() -> Vec<Event> {
    vec![
        event(Kind::Modified, KEY, 11, 11),
        event(Kind::Deleted, KEY, 12, 11),
        event(Kind::Added, KEY, 13, 13),
        event(Kind::Modified, KEY, 14, 14),
    ]
}

#[test]
fn watches_that_agree_are_clean_also_with_bookmarks() {
    let mut events = life();
    events.insert(2, mark(Kind::Bookmark, 12));
    events.push(mark(Kind::Bookmark, 20));
    clean(second_watch(events));
}

#[test]
fn c5_events_lost_repeated_swapped_or_of_the_wrong_kind() {
    for at in 0..3 {
        let mut lost = life();
        lost.remove(at);
        breaks(second_watch(lost), "C5");
        let mut repeated = life();
        repeated.insert(at, repeated[at].clone());
        breaks(second_watch(repeated), "C5");
        let mut swapped = life();
        swapped.swap(at, at + 1);
        breaks(second_watch(swapped), "C5");
    }
    let mut wrong = life();
    wrong[2].kind = Kind::Modified;
    breaks(second_watch(wrong), "C5");
    let mut other = life();
    other[3].hash = 4711;
    breaks(second_watch(other), "C5");
}

#[test]
fn c5_a_bookmark_ahead_of_an_event() {
    let mut events = life();
    events.insert(2, mark(Kind::Bookmark, 13));
    breaks(second_watch(events), "C5");
}

#[test]
fn c5_a_deletion_without_the_last_state_or_at_another_revision() {
    let mut events = life();
    events[1].hash = hash(5);
    breaks(second_watch(events), "C5");
    let mut tale = Tale::new();
    tale.change(11, "w1", 5, 1);
    tale.see(ALL, vec![event(Kind::Deleted, KEY, 11, 11)]);
    breaks(tale, "C5");
}

#[test]
fn c5_a_write_that_no_watch_told() {
    let mut tale = Tale::new();
    tale.change(11, "w1", 5, 1);
    tale.add(Record::Version(version(KEY, 12, "w2", 11, 2)));
    tale.call(0, update("w2", 11), wrote(12));
    tale.see(ALL, vec![mark(Kind::Bookmark, 15)]);
    breaks(tale, "C5");
}

#[test]
fn c5_a_watch_that_was_never_told_the_end() {
    let mut tale = Tale::with_life();
    tale.open(
        2,
        Scope {
            ns: "h0".into(),
            ..Scope::default()
        },
        Begin::Rv(10),
    );
    tale.add(Record::Closed(Closed {
        watch: 2,
        at: 900,
        why: Why::Over,
    }));
    breaks(tale, "C5");
}

#[test]
fn a_bookmark_at_the_beginning_of_a_watch_shows_no_state() {
    let mut tale = Tale::with_life();
    tale.history.watches.clear();
    tale.open(2, Scope::default(), Begin::Rv(14));
    tale.see(2, vec![mark(Kind::Bookmark, 14)]);
    tale.call(0, list(At::Any), listed(10, &[(KEY, 5)]));
    let report = check(&tale.history);
    assert_eq!(report.violations("C4"), 0, "{report}");
}

#[test]
fn nothing_is_held_against_anybody_in_the_dark() {
    let mut tale = Tale::with_life();
    // Written between the last event that a watch told and the list that begins the next part.
    tale.add(Record::Version(version(KEY, 16, "w5", 15, 3)));
    tale.call(0, update("w5", 15), wrote(16));
    tale.call(0, get(KEY, At::Latest), found(16));
    tale.call(0, list(At::Latest), listed(16, &[(KEY, 16)]));
    tale.open(2, Scope::default(), Begin::Rv(16));
    tale.add(Record::Version(version(KEY, 18, "w6", 16, 4)));
    tale.call(0, update("w6", 16), wrote(18));
    tale.see(2, vec![event(Kind::Modified, KEY, 18, 18)]);
    tale.call(0, get(KEY, At::Latest), found(18));
    clean(tale);
}

#[test]
fn c6_an_initial_state_with_a_hole_and_one_without() {
    for (told, good) in [(true, true), (false, false)] {
        let mut tale = Tale::with_life();
        tale.open(2, Scope::default(), Begin::State(At::Latest));
        if told {
            tale.see(2, vec![event(Kind::Added, KEY, 14, 14)]);
        }
        tale.see(2, vec![mark(Kind::Initial, 14)]);
        if good { clean(tale) } else { breaks(tale, "C6") }
    }
}

#[test]
fn c6_pages_that_are_no_state() {
    let mut tale = Tale::with_life();
    let request = Request::List {
        scope: Scope::default(),
        at: At::Latest,
        limit: 2,
    };
    tale.call(0, request, listed(14, &[]));
    breaks(tale, "C6");
}

#[test]
fn c7_a_selector_that_leaks_or_says_the_wrong_kind() {
    let blue = Scope {
        colour: "blue".into(),
        ..Scope::default()
    };
    let mut tale = Tale::with_life();
    tale.open(2, blue.clone(), Begin::Rv(10));
    tale.see(2, vec![event(Kind::Modified, KEY, 11, 11)]);
    breaks(tale, "C7");
    // It turns blue, and back: enters as ADDED, leaves as DELETED.
    for kind in [Kind::Added, Kind::Modified] {
        let mut tale = Tale::new();
        let mut turned = version(KEY, 11, "w1", 5, 1);
        turned.colour = "blue".into();
        tale.add(Record::Version(turned));
        tale.call(0, update("w1", 5), wrote(11));
        tale.see(ALL, vec![event(Kind::Modified, KEY, 11, 11)]);
        tale.change(12, "w2", 11, 2);
        tale.open(2, blue.clone(), Begin::Rv(10));
        tale.see(2, vec![event(kind, KEY, 11, 11), event(Kind::Deleted, KEY, 12, 11)]);
        if kind == Kind::Added {
            clean(tale)
        } else {
            breaks(tale, "C7")
        }
    }
}

#[test]
fn c8_a_latest_read_of_the_past() {
    let mut tale = Tale::with_life();
    tale.call(1, get(KEY, At::Latest), found(13));
    breaks(tale, "C8");
    let mut tale = Tale::with_life();
    tale.call(1, list(At::Latest), listed(13, &[(KEY, 13)]));
    breaks(tale, "C8");
    let mut tale = Tale::with_life();
    tale.call(1, list(At::NotOlder(14)), listed(13, &[(KEY, 13)]));
    breaks(tale, "C8");
    let mut tale = Tale::with_life();
    tale.open(2, Scope::default(), Begin::State(At::Latest));
    tale.see(2, vec![event(Kind::Added, KEY, 13, 13), mark(Kind::Initial, 13)]);
    breaks(tale, "C8");
}

#[test]
fn c8_what_one_client_was_shown_binds_all_later_answers() {
    let mut tale = Tale::new();
    tale.add(Record::Version(version(KEY, 11, "w1", 5, 1)));
    tale.call_at(200, 900, 0, update("w1", 5), wrote(11));
    // While the write runs, one reader has seen it: then the next one may not see the old state.
    tale.call_at(210, 220, 0, get(KEY, At::Latest), found(11));
    tale.call_at(230, 240, 1, get(KEY, At::Latest), found(5));
    tale.now = 950;
    tale.see(ALL, vec![event(Kind::Modified, KEY, 11, 11)]);
    breaks(tale, "C8");
}

#[test]
fn c9_another_answer_for_the_same_revision() {
    let mut tale = Tale::with_life();
    tale.call(0, list(At::Exact(13)), listed(14, &[(KEY, 14)]));
    breaks(tale, "C9");
    let mut tale = Tale::with_life();
    tale.call(0, list(At::Exact(13)), listed(13, &[]));
    breaks(tale, "C9");
    let mut tale = Tale::with_life();
    tale.call(ETCD, list(At::Latest), listed(14, &[]));
    breaks(tale, "C9");
}

#[test]
fn c10_a_shape_that_is_answered_otherwise() {
    let mut tale = Tale::with_life();
    tale.add(Record::Shape(Shape {
        row: "list exact 0".into(),
        code: 200,
        ..Shape::default()
    }));
    breaks(tale, "C10");
}

#[test]
fn a_history_that_broke_off_is_no_clean_one() {
    let tale = Tale::with_life();
    assert!(!check(&tale.history).is_clean());
    let mut tale = Tale::with_life();
    tale.add(Record::End(End::default()));
    assert!(!check(&tale.history).is_clean(), "no write succeeded after the faults");
}
