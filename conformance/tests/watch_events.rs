//! Watches: which events come, in which order, and in which form.

use serde_json::{Value, json};
use steersman_conformance::maps::version;
use steersman_conformance::{Maps, Namespace, Watch};

fn named(watch: &Watch, count: usize) -> Vec<(String, String)> {
    (0..count).map(|_| watch.next_named()).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected
        .iter()
        .map(|(t, n)| ((*t).to_owned(), (*n).to_owned()))
        .collect()
}

#[test]
fn a_watch_from_a_version_shows_every_change_since_in_order_and_can_be_taken_up_again() {
    let ns = Namespace::new("resume");
    let maps = Maps::of(&ns);
    let start = version(&maps.create("before", &json!({})));
    let _ = maps.create("one", &json!({}));
    let _ = maps.merge("one", &json!({"data": {"a": "2"}}));
    let _ = maps.create("two", &json!({}));
    maps.delete("one");
    let watch = maps.watch(&format!("resourceVersion={start}"));
    let events: Vec<Value> = (0..4).map(|_| watch.next(20)).collect();
    let kinds: Vec<&str> = events.iter().filter_map(|e| e["type"].as_str()).collect();
    assert_eq!(kinds, ["ADDED", "MODIFIED", "ADDED", "DELETED"]);
    let versions: Vec<u64> = events.iter().map(|e| version(e).parse().expect("a number")).collect();
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
    assert_eq!(events[1].pointer("/object/data/a"), Some(&json!("2")));
    // A deleted object is shown as it was, at the version of its deletion.
    assert_eq!(events[3].pointer("/object/data/a"), Some(&json!("2")));

    let again = maps.watch(&format!("resourceVersion={}", versions[1]));
    assert_eq!(named(&again, 2), pairs(&[("ADDED", "two"), ("DELETED", "one")]));
    let _ = maps.create("three", &json!({}));
    assert_eq!(named(&again, 1), pairs(&[("ADDED", "three")]));
    assert_eq!(named(&watch, 1), pairs(&[("ADDED", "three")]));
}

#[test]
fn a_watch_without_a_version_begins_with_what_is_there() {
    let ns = Namespace::new("initial");
    let maps = Maps::of(&ns);
    let _ = maps.create("a", &json!({}));
    let _ = maps.create("b", &json!({}));
    for query in ["", "resourceVersion=0"] {
        let watch = maps.watch(query);
        let mut first = named(&watch, 2);
        first.sort();
        assert_eq!(first, pairs(&[("ADDED", "a"), ("ADDED", "b")]), "{query}");
        let _ = maps.merge("a", &json!({"data": {"q": query}}));
        assert_eq!(named(&watch, 1), pairs(&[("MODIFIED", "a")]));
    }
}

#[test]
fn the_initial_events_can_be_asked_for_and_end_with_a_marked_bookmark() {
    let ns = Namespace::new("watchlist");
    let maps = Maps::of(&ns);
    let _ = maps.create("a", &json!({}));
    let last = version(&maps.create("b", &json!({})));
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let watch = maps.watch(query);
    let mut first = named(&watch, 2);
    first.sort();
    assert_eq!(first, pairs(&[("ADDED", "a"), ("ADDED", "b")]));
    let mark = watch.next(20);
    assert_eq!(mark["type"], "BOOKMARK", "{mark}");
    assert_eq!(
        mark.pointer("/object/metadata/annotations/k8s.io~1initial-events-end"),
        Some(&json!("true"))
    );
    assert_eq!(mark.pointer("/object/kind"), Some(&json!("ConfigMap")));
    let number = |text: &str| text.parse::<u64>().expect("a number");
    assert!(number(&version(&mark)) >= number(&last), "{mark}");
    maps.delete("a");
    assert_eq!(named(&watch, 1), pairs(&[("DELETED", "a")]));

    // Without initial events only what is new comes.
    let here = version(&maps.create("here", &json!({})));
    let none = maps.watch(&format!(
        "sendInitialEvents=false&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion={here}"
    ));
    let _ = maps.create("c", &json!({}));
    let mut seen = none.next(20);
    if seen["type"] == "BOOKMARK" {
        seen = none.next(20);
    }
    assert_eq!(
        (&seen["type"], seen.pointer("/object/metadata/name")),
        (&json!("ADDED"), Some(&json!("c")))
    );
}

#[test]
fn what_a_watch_may_not_ask_for_is_refused() {
    let ns = Namespace::new("badwatch");
    let maps = Maps::of(&ns);
    for (query, code, text) in [
        (
            "sendInitialEvents=true",
            422,
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
        (
            "resourceVersionMatch=NotOlderThan",
            422,
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
        ("labelSelector=a+in+b", 400, "unable to parse requirement"),
        ("fieldSelector=data.a%3D1", 400, "is not a known field selector"),
    ] {
        let answer = maps
            .http
            .get(&format!("{}?watch=1&timeoutSeconds=2&{query}", maps.path));
        assert_eq!(answer.code, code, "{query}: {}", answer.body);
        assert!(answer.body.contains(text), "{query}: {}", answer.body);
    }
}

#[test]
fn a_watch_ends_at_its_time_and_a_bookmark_comes_before() {
    let ns = Namespace::new("bookmark");
    let maps = Maps::of(&ns);
    let _ = maps.create("a", &json!({}));
    let watch = maps.watch("resourceVersion=0&allowWatchBookmarks=true&timeoutSeconds=4");
    let events = watch.rest(15);
    let kinds: Vec<&str> = events.iter().filter_map(|e| e["type"].as_str()).collect();
    assert!(kinds.starts_with(&["ADDED", "BOOKMARK"]), "{events:?}");
    let mark = events.last().expect("a bookmark");
    assert_eq!(mark.pointer("/object/kind"), Some(&json!("ConfigMap")));
    assert_eq!(mark.pointer("/object/metadata/name"), None);
    // Nothing was missed from there on.
    let from = version(mark);
    let _ = maps.create("b", &json!({}));
    assert_eq!(
        maps.watch(&format!("resourceVersion={from}")).next_named(),
        ("ADDED".into(), "b".into())
    );
}

#[test]
fn a_selector_turns_changes_into_arrivals_and_departures() {
    let ns = Namespace::new("selected");
    let maps = Maps::of(&ns);
    let start = version(&maps.create("a", &json!({"colour": "blue"})));
    let blue = maps.http.watch(
        &format!(
            "{}?watch=1&labelSelector=colour%3Dblue&resourceVersion={start}",
            maps.path
        ),
        &[],
    );
    let others = maps.http.watch(
        &format!(
            "{}?watch=1&labelSelector=test%2Ccolour+notin+(blue)&resourceVersion={start}",
            maps.path
        ),
        &[],
    );
    let _ = maps.create("b", &json!({"colour": "red"}));
    let _ = maps.merge("b", &json!({"metadata": {"labels": {"colour": "blue"}}}));
    let _ = maps.merge("b", &json!({"data": {"a": "2"}}));
    let _ = maps.merge("a", &json!({"metadata": {"labels": {"colour": null}}}));
    maps.delete("b");
    assert_eq!(
        named(&blue, 4),
        pairs(&[("ADDED", "b"), ("MODIFIED", "b"), ("DELETED", "a"), ("DELETED", "b")])
    );
    assert_eq!(
        named(&others, 3),
        pairs(&[("ADDED", "b"), ("DELETED", "b"), ("ADDED", "a")])
    );
}

#[test]
fn one_object_is_watched_by_its_name() {
    let ns = Namespace::new("single");
    let maps = Maps::of(&ns);
    let start = version(&maps.create("mine", &json!({})));
    let by_field = maps.http.watch(
        &format!(
            "{}?watch=1&fieldSelector=metadata.name%3Dmine&resourceVersion={start}",
            maps.path
        ),
        &[],
    );
    let _ = maps.create("other", &json!({}));
    let _ = maps.merge("mine", &json!({"data": {"a": "2"}}));
    maps.delete("mine");
    let expected = pairs(&[("MODIFIED", "mine"), ("DELETED", "mine")]);
    assert_eq!(named(&by_field, 2), expected);
}

#[test]
fn a_table_watch_names_its_columns_once_and_a_metadata_watch_shows_no_data() {
    let ns = Namespace::new("forms");
    let maps = Maps::of(&ns);
    let start = version(&maps.create("a", &json!({})));
    let path = format!("{}?watch=1&labelSelector=test&resourceVersion={start}", maps.path);
    let table = maps
        .http
        .watch(&path, &["Accept: application/json;as=Table;v=v1;g=meta.k8s.io"]);
    let metadata = maps.http.watch(
        &path,
        &["Accept: application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"],
    );
    let _ = maps.create("b", &json!({}));
    maps.delete("a");

    let first = table.next(20);
    assert_eq!(first.pointer("/object/kind"), Some(&json!("Table")));
    let columns = first
        .pointer("/object/columnDefinitions")
        .and_then(Value::as_array)
        .expect("columns");
    assert_eq!(
        columns
            .iter()
            .map(|c| c["name"].as_str().unwrap_or("-"))
            .collect::<Vec<_>>(),
        ["Name", "Data", "Age"]
    );
    assert_eq!(first.pointer("/object/rows/0/cells/0"), Some(&json!("b")));
    assert_eq!(
        first.pointer("/object/rows/0/object/kind"),
        Some(&json!("PartialObjectMetadata"))
    );
    let second = table.next(20);
    assert_eq!(
        (&second["type"], second.pointer("/object/rows/0/cells/0")),
        (&json!("DELETED"), Some(&json!("a")))
    );
    assert!(
        second
            .pointer("/object/columnDefinitions")
            .is_none_or(|c| c.is_null() || *c == json!([])),
        "{second}"
    );

    let first = metadata.next(20);
    assert_eq!(first.pointer("/object/kind"), Some(&json!("PartialObjectMetadata")));
    assert_eq!(first.pointer("/object/apiVersion"), Some(&json!("meta.k8s.io/v1")));
    assert_eq!(first.pointer("/object/metadata/name"), Some(&json!("b")));
    assert_eq!(first.pointer("/object/data"), None);
    assert_eq!(metadata.next_named(), ("DELETED".into(), "a".into()));
}

#[test]
fn a_dozen_watchers_all_see_the_same_order() {
    let ns = Namespace::new("many");
    let maps = Maps::of(&ns);
    let start = version(&maps.create("a", &json!({})));
    let watches: Vec<Watch> = (0..12)
        .map(|_| maps.watch(&format!("resourceVersion={start}")))
        .collect();
    let expected: Vec<String> = (0..10)
        .map(|i| version(&maps.merge("a", &json!({"data": {"i": i.to_string()}}))))
        .collect();
    for watch in &watches {
        let seen: Vec<String> = (0..10).map(|_| version(&watch.next(20))).collect();
        assert_eq!(seen, expected);
    }
}
