//! C10: every shape of revision parameters that a list or watch can have (the tables of KEP-2340 and of upstream's API
//! concepts, and its validation), asked on every server, and what must come back.
//!
//! The state it is asked about: objects a to e exist at revision `mid`; after it b is changed, d deleted, f created; `last`
//! is the revision of that. One half of this file asks, the other ([`verdict`]) judges the records offline.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::dice::Dice;
use crate::record::{Record, Rv, Shape};
use crate::traffic::session::{Session, Shared, collection_path};
use crate::wire::{Next, Reply, Servers};

/// What must come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// A list at `last` or later.
    Latest,
    /// A list of any state.
    Any,
    /// A list at `mid` or later.
    NotOlder,
    /// A list at exactly `mid`.
    Exact,
    /// As `Exact`, but the server may have forgotten: 410.
    ExactOrGone,
    /// The first two objects at `last` or later, and a token.
    LatestPage,
    /// The first two objects at exactly `mid`, and a token.
    ExactPage,
    /// The rest of a list at exactly `mid`, of which two objects came before.
    ExactRest,
    /// A code and a reason.
    Refused(u16, &'static str),
    /// 400, as for a list; upstream's own answer is a 500 without a reason.
    Junk,
    /// A stream: the state at `last` or later; the flag: then the bookmark that ends it.
    State(bool),
    /// A stream: what happened after `mid`.
    Events,
    /// A stream without any event.
    Silence,
    /// A stream that holds nothing but an ERROR with this code.
    Error(u16),
}

/// One request; `{mid}`, `{future}` and `{token}` (of a list at `mid`) are put in.
pub struct Row {
    pub name: &'static str,
    pub query: &'static str,
    pub want: Want,
}

const fn row(name: &'static str, query: &'static str, want: Want) -> Row {
    Row { name, query, want }
}

const INVALID: Want = Want::Refused(422, "Invalid");
const BAD: Want = Want::Refused(400, "BadRequest");

/// The lists.
pub const LISTS: &[Row] = &[
    row("list", "", Want::Latest),
    row("list limit", "limit=2", Want::LatestPage),
    row("list 0", "resourceVersion=0", Want::Any),
    row("list 0 limit", "resourceVersion=0&limit=2", Want::Any),
    row("list rv", "resourceVersion={mid}", Want::NotOlder),
    row("list rv limit", "resourceVersion={mid}&limit=2", Want::ExactPage),
    row("list future", "resourceVersion={future}", Want::Refused(504, "Timeout")),
    row("list junk", "resourceVersion=abc", BAD),
    row("list continue", "continue={token}", Want::ExactRest),
    row("list continue rv", "continue={token}&resourceVersion={mid}", BAD),
    row("list continue junk", "continue=%25%25", BAD),
    row("list exact unset", "resourceVersionMatch=Exact", INVALID),
    row("list exact 0", "resourceVersion=0&resourceVersionMatch=Exact", INVALID),
    row(
        "list exact rv",
        "resourceVersion={mid}&resourceVersionMatch=Exact",
        Want::Exact,
    ),
    row(
        "list exact rv limit",
        "resourceVersion={mid}&resourceVersionMatch=Exact&limit=2",
        Want::ExactPage,
    ),
    row(
        "list exact old",
        "resourceVersion=1&resourceVersionMatch=Exact",
        Want::ExactOrGone,
    ),
    row(
        "list exact future",
        "resourceVersion={future}&resourceVersionMatch=Exact",
        Want::Refused(504, "Timeout"),
    ),
    row(
        "list exact continue",
        "resourceVersion={mid}&resourceVersionMatch=Exact&continue={token}",
        INVALID,
    ),
    row("list not older unset", "resourceVersionMatch=NotOlderThan", INVALID),
    row(
        "list not older 0",
        "resourceVersion=0&resourceVersionMatch=NotOlderThan",
        Want::Any,
    ),
    row(
        "list not older rv",
        "resourceVersion={mid}&resourceVersionMatch=NotOlderThan",
        Want::NotOlder,
    ),
    row(
        "list not older future",
        "resourceVersion={future}&resourceVersionMatch=NotOlderThan",
        Want::Refused(504, "Timeout"),
    ),
    row(
        "list not older continue",
        "resourceVersionMatch=NotOlderThan&continue={token}",
        INVALID,
    ),
    row(
        "list match junk",
        "resourceVersion={mid}&resourceVersionMatch=Bogus",
        INVALID,
    ),
    row("list initial events", "sendInitialEvents=true", INVALID),
];

/// The watches.
pub const WATCHES: &[Row] = &[
    row("watch", "", Want::State(false)),
    row("watch 0", "resourceVersion=0", Want::State(false)),
    row("watch rv", "resourceVersion={mid}", Want::Events),
    row("watch future", "resourceVersion={future}", Want::Silence),
    row("watch junk", "resourceVersion=abc", Want::Junk),
    row(
        "watch state",
        "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
        Want::State(true),
    ),
    row(
        "watch state 0",
        "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion=0",
        Want::State(true),
    ),
    row(
        "watch state rv",
        "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion={mid}",
        Want::State(true),
    ),
    row(
        "watch state future",
        "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion={future}",
        Want::Error(504),
    ),
    row(
        "watch state no bookmarks",
        "sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
        Want::State(false),
    ),
    row(
        "watch no state",
        "sendInitialEvents=false&resourceVersionMatch=NotOlderThan",
        Want::Silence,
    ),
    row(
        "watch no state 0",
        "sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion=0",
        Want::Silence,
    ),
    row(
        "watch no state rv",
        "sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion={mid}",
        Want::Events,
    ),
    row("watch state match unset", "sendInitialEvents=true", INVALID),
    row("watch no state match unset", "sendInitialEvents=false", INVALID),
    row(
        "watch state exact",
        "sendInitialEvents=true&resourceVersionMatch=Exact&resourceVersion={mid}",
        INVALID,
    ),
    row(
        "watch not older alone",
        "resourceVersionMatch=NotOlderThan&resourceVersion={mid}",
        INVALID,
    ),
    row(
        "watch exact alone",
        "resourceVersionMatch=Exact&resourceVersion={mid}",
        INVALID,
    ),
    row(
        "watch state continue",
        "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&continue={token}",
        INVALID,
    ),
];

const AT_MID: [&str; 5] = ["a", "b", "c", "d", "e"];
const AT_LAST: [&str; 5] = ["a", "b", "c", "e", "f"];
const AFTER_MID: [&str; 3] = ["M b", "D d", "A f"];

/// Whether an answer is as it must be; if not, why.
pub fn verdict(shape: &Shape) -> Result<(), String> {
    let Some(row) = LISTS.iter().chain(WATCHES).find(|row| row.name == shape.row) else {
        return Err(format!("there is no shape {:?}", shape.row));
    };
    let told: Vec<&str> = shape.told.iter().map(String::as_str).collect();
    let check = |good: bool, why: &str| {
        if good {
            Ok(())
        } else {
            Err(format!("{}: {why}: {shape:?}", shape.row))
        }
    };
    let state = |names: &[&str], told: &[&str]| check(names == told, "other objects than there were");
    let newest = |told: &[&str]| {
        check(!shape.more, "a token for a list in one piece")?;
        // Between the two revisions there are states of which nothing is said here.
        if shape.rv >= shape.last {
            state(&AT_LAST, told)
        } else {
            Ok(())
        }
    };
    let code = |wanted: u16| check(shape.code == wanted, &format!("wanted {wanted}"));
    let exact = |rv: Rv| check(shape.rv == rv, "another revision than asked for");
    match row.want {
        Want::Refused(wanted, reason) => {
            code(wanted)?;
            check(shape.reason == reason, &format!("wanted {reason}"))
        }
        Want::Junk => check(matches!(shape.code, 400 | 500), "wanted 400"),
        Want::Latest => {
            code(200)?;
            check(shape.rv >= shape.last, "older than the last write")?;
            newest(&told)
        }
        Want::Any => {
            code(200)?;
            newest(&told)
        }
        Want::NotOlder => {
            code(200)?;
            check(shape.rv >= shape.mid, "older than asked for")?;
            newest(&told)
        }
        Want::Exact => {
            code(200)?;
            exact(shape.mid)?;
            state(&AT_MID, &told)
        }
        Want::ExactOrGone if shape.code == 410 => check(shape.reason == "Expired", "wanted Expired"),
        Want::ExactOrGone => {
            code(200)?;
            exact(1)?;
            state(&[], &told)
        }
        Want::LatestPage => {
            code(200)?;
            check(
                shape.rv >= shape.last && shape.more,
                "older than the last write, or no token",
            )?;
            state(&AT_LAST[..2], &told)
        }
        Want::ExactPage => {
            code(200)?;
            exact(shape.mid)?;
            check(shape.more, "no token")?;
            state(&AT_MID[..2], &told)
        }
        Want::ExactRest => {
            code(200)?;
            exact(shape.mid)?;
            state(&AT_MID[2..], &told)
        }
        Want::State(bookmark) => {
            code(200)?;
            let mut wanted: Vec<String> = AT_LAST.iter().map(|name| format!("A {name}")).collect();
            let mut told: Vec<String> = shape.told.clone();
            if bookmark {
                check(
                    told.pop().as_deref() == Some("I"),
                    "no bookmark at the end of the state",
                )?;
                check(shape.rv >= shape.last, "the bookmark is older than the last write")?;
            }
            // The order of the initial events is not defined.
            wanted.sort();
            told.sort();
            check(wanted == told, "another state than there is")
        }
        Want::Events => {
            code(200)?;
            check(told == AFTER_MID, "other events than there were")
        }
        Want::Silence => {
            code(200)?;
            check(told.is_empty(), "events where there are none")
        }
        Want::Error(wanted) => {
            code(200)?;
            check(told == [format!("E {wanted}")], &format!("wanted ERROR {wanted}"))
        }
    }
}

/// What the symbols stand for.
struct Symbols {
    mid: Rv,
    last: Rv,
    token: String,
}

/// Connections per server that ask at the same time: some rows take their seconds.
const TOGETHER: usize = 8;

/// Makes the objects in namespace `ns` and asks every shape on every server. For a time without faults.
pub async fn ask(shared: &Shared, servers: &Servers, ns: &str) -> Result<()> {
    let mut number = 900;
    let mut session = || {
        number += 1;
        Session::new(shared, servers, &Dice::new(0), number)
    };
    let symbols = Arc::new(prepare(&mut session(), ns).await?);
    let mut tasks = JoinSet::new();
    for server in 0..servers.urls.len() {
        for part in 0..TOGETHER {
            let (mut session, symbols, ns) = (session(), symbols.clone(), ns.to_owned());
            tasks.spawn(async move {
                for row in LISTS.iter().chain(WATCHES).skip(part).step_by(TOGETHER) {
                    let shape = one(&mut session, server, &ns, row, &symbols).await?;
                    session.shared.put(&Record::Shape(shape));
                }
                anyhow::Ok(())
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

async fn one(session: &mut Session, server: usize, ns: &str, row: &Row, symbols: &Symbols) -> Result<Shape> {
    let path = path(ns, row, symbols);
    if row.name.starts_with("watch") {
        return watch(session, server, &path, row, symbols).await;
    }
    let reply = get(session, server, &path).await?;
    let mut shape = shape(row, server, symbols, &reply);
    for item in reply
        .body
        .pointer("/items")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        shape.told.push(
            item.pointer("/metadata/name")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .into(),
        );
    }
    Ok(shape)
}

fn path(ns: &str, row: &Row, symbols: &Symbols) -> String {
    let query = row
        .query
        .replace("{mid}", &symbols.mid.to_string())
        .replace("{future}", &(symbols.last + 1_000_000).to_string())
        .replace("{token}", &symbols.token);
    let watch = if row.name.starts_with("watch") {
        "watch=1&timeoutSeconds=1&"
    } else {
        ""
    };
    format!("{}?{watch}{query}", collection_path(ns))
}

fn revision(reply: &Reply) -> Rv {
    let text = reply.body.pointer("/metadata/resourceVersion").and_then(Value::as_str);
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn shape(row: &Row, server: usize, symbols: &Symbols, reply: &Reply) -> Shape {
    Shape {
        row: row.name.into(),
        server: u32::try_from(server).unwrap_or_default(),
        code: reply.code,
        reason: reply.reason(),
        rv: revision(reply),
        more: reply.body.pointer("/metadata/continue").is_some(),
        mid: symbols.mid,
        last: symbols.last,
        told: Vec::new(),
    }
}

const PATIENCE: Duration = Duration::from_secs(15);

async fn get(session: &mut Session, server: usize, path: &str) -> Result<Reply> {
    match session.wire.get(server, path, PATIENCE).await {
        Ok(reply) => Ok(reply),
        Err(why) => bail!("{path}: {why:?}"),
    }
}

async fn write(session: &mut Session, method: Method, path: &str, body: &Value) -> Result<Rv> {
    match session
        .wire
        .send(0, method, path, "application/json", body, PATIENCE)
        .await
    {
        Ok(reply) if reply.is_good() => Ok(revision(&reply)),
        other => bail!("{path}: {other:?}"),
    }
}

async fn prepare(session: &mut Session, ns: &str) -> Result<Symbols> {
    let object = |name: &str, v: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"v": v}});
    let base = collection_path(ns);
    for name in AT_MID {
        write(session, Method::POST, &base, &object(name, "1")).await?;
    }
    let page = get(session, 0, &format!("{base}?limit=2")).await?;
    let mid = revision(&page);
    let token = page
        .body
        .pointer("/metadata/continue")
        .and_then(Value::as_str)
        .context("no continue token")?
        .to_owned();
    write(session, Method::PUT, &format!("{base}/b"), &object("b", "2")).await?;
    write(session, Method::DELETE, &format!("{base}/d"), &Value::Null).await?;
    let last = write(session, Method::POST, &base, &object("f", "1")).await?;
    Ok(Symbols { mid, last, token })
}

async fn watch(session: &mut Session, server: usize, path: &str, row: &Row, symbols: &Symbols) -> Result<Shape> {
    let mut lines = match session.wire.open(server, path, PATIENCE).await {
        Ok(Ok(lines)) => lines,
        Ok(Err(reply)) => return Ok(shape(row, server, symbols, &reply)),
        Err(why) => bail!("{path}: {why:?}"),
    };
    let mut shape = shape(
        row,
        server,
        symbols,
        &Reply {
            code: 200,
            body: Value::Null,
        },
    );
    loop {
        let next = tokio::time::timeout(PATIENCE, lines.next())
            .await
            .context("a watch of one second does not end")?;
        let Next::Events(events) = next else { return Ok(shape) };
        for event in session.wire.events(events) {
            let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default();
            let kind = text("/type");
            match kind {
                "BOOKMARK" => {
                    if event
                        .pointer("/object/metadata/annotations/k8s.io~1initial-events-end")
                        .is_some()
                    {
                        shape.told.push("I".into());
                        shape.rv = text("/object/metadata/resourceVersion").parse().unwrap_or_default();
                    }
                }
                "ERROR" => shape
                    .told
                    .push(format!("E {}", event.pointer("/object/code").unwrap_or(&Value::Null))),
                _ => shape.told.push(format!(
                    "{} {}",
                    kind.get(..1).unwrap_or_default(),
                    text("/object/metadata/name")
                )),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn answer(row: &str, rv: Rv, names: &[&str], more: bool) -> Shape {
        Shape {
            row: row.into(),
            code: 200,
            rv,
            told: told(names),
            more,
            mid: 50,
            last: 60,
            ..Shape::default()
        }
    }

    #[test]
    fn answers_as_specified_pass() {
        let now = &AT_LAST;
        for shape in [
            answer("list", 60, now, false),
            answer("list limit", 61, &["a", "b"], true),
            answer("list 0", 60, now, false),
            answer("list exact rv", 50, &AT_MID, false),
            answer("list continue", 50, &["c", "d", "e"], false),
            answer("watch rv", 0, &["M b", "D d", "A f"], false),
            answer("watch state", 60, &["A f", "A a", "A b", "A c", "A e", "I"], false),
            answer("watch no state", 0, &[], false),
            Shape {
                code: 422,
                reason: "Invalid".into(),
                ..answer("list exact 0", 0, &[], false)
            },
        ] {
            assert_eq!(verdict(&shape), Ok(()), "{shape:?}");
        }
    }

    #[test]
    fn anything_else_is_caught() {
        for shape in [
            answer("list", 59, &AT_LAST, false),
            answer("list", 60, &AT_MID, false),
            answer("list exact rv", 60, &AT_LAST, false),
            answer("list exact rv", 50, &AT_LAST, false),
            answer("list 0 limit", 60, &["a", "b"], true),
            answer("list exact 0", 60, &AT_LAST, false),
            answer("list limit", 60, &["a", "b"], false),
            answer("watch rv", 0, &["M b", "A f"], false),
            answer("watch state", 60, &["A a", "A b", "A c", "A e", "I"], false),
            answer("watch state", 60, &["A a", "A b", "A c", "A e", "A f"], false),
            answer("watch no state", 0, &["A f"], false),
            Shape {
                code: 400,
                reason: "BadRequest".into(),
                ..answer("list exact 0", 0, &[], false)
            },
            answer("no such row", 0, &[], false),
        ] {
            assert!(verdict(&shape).is_err(), "{shape:?}");
        }
    }

    #[test]
    fn rows_have_names_of_their_own() {
        let names: std::collections::HashSet<_> = LISTS.iter().chain(WATCHES).map(|row| row.name).collect();
        assert_eq!(names.len(), LISTS.len() + WATCHES.len());
        assert!(LISTS.len() >= 18 && WATCHES.len() >= 18);
    }
}
