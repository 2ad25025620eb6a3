//! A client that reads: objects and lists, in every way in which an answer can claim to be fresh.

use std::time::Duration;

use super::session::{CHURNED, COLOURS, COUNTERS, NAMESPACES, Session};
use crate::record::{At, Scope};

/// Reads until it shall stop, one call each `pace`.
pub async fn run(mut session: Session, pace: Duration) {
    let mut tick = tokio::time::interval(pace);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !session.shared.is_stopped() {
        tick.tick().await;
        step(&mut session).await;
    }
}

async fn step(session: &mut Session) {
    if session.dice.percent(55) {
        let ns = *session.dice.one(&NAMESPACES);
        let name = if session.dice.percent(30) {
            format!("c{}", session.dice.below(COUNTERS))
        } else {
            format!("k{}", session.dice.below(CHURNED))
        };
        let at = match session.dice.below(100) {
            0..60 => At::Latest,
            60..75 => At::Any,
            _ => not_older(session),
        };
        let _ = session.get(&format!("{ns}/{name}"), at).await;
        return;
    }
    let scope = scope(session);
    match session.dice.below(100) {
        0..35 => drop(session.list(&scope, At::Latest, 0).await),
        35..50 => drop(session.list(&scope, At::Any, 0).await),
        50..65 => {
            let at = not_older(session);
            let _ = session.list(&scope, at, 0).await;
        }
        65..80 => {
            // The same request twice: what was latest, and the same revision by name. Its own hop decides from where.
            let answer = session.list(&scope, At::Latest, 0).await;
            if let crate::record::Answer::Listed { rv, .. } = answer {
                session.hop();
                let _ = session.list(&scope, At::Exact(rv), 0).await;
            }
        }
        80..90 => {
            let limit = 3 + session.dice.below(10);
            let _ = session.list(&scope, At::Latest, limit).await;
        }
        _ => {
            if let Some(rv) = session.recall() {
                let limit = if session.dice.percent(50) { 7 } else { 0 };
                let _ = session.list(&scope, At::Exact(rv), limit).await;
            }
        }
    }
}

/// What this session has seen must not be taken back, wherever it asks next.
fn not_older(session: &mut Session) -> At {
    if session.dice.percent(50) {
        session.hop();
    }
    if session.newest == 0 {
        At::Latest
    } else {
        At::NotOlder(session.newest)
    }
}

fn scope(session: &mut Session) -> Scope {
    let ns = match session.dice.below(10) {
        0..5 => String::new(),
        _ => (*session.dice.one(&NAMESPACES)).to_owned(),
    };
    let colour = if session.dice.percent(25) {
        (*session.dice.one(&COLOURS)).to_owned()
    } else {
        String::new()
    };
    let name = if session.dice.percent(5) && !ns.is_empty() {
        "k1".to_owned()
    } else {
        String::new()
    };
    Scope { ns, colour, name }
}
