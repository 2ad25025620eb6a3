//! Upstream's programs beside ours: A B A B in one run, one cluster at a time, so that nothing else moves meanwhile.
//!
//! Everything but schedulers and service proxies compares a cluster of ours with a cluster of upstream's. Those two are
//! compared over the same API server, ours: how fast it takes bindings would otherwise be part of the figure.

use std::path::Path;

use anyhow::Result;

use crate::figure::{Better, Figure, median, short};
use crate::side::Side;

/// What is compared on clusters with real nodes, and without them.
const WITH_NODES: &[&str] = &["memory", "pods", "crowd"];
const CONTROL_PLANE: &[&str] = &["start", "watch", "writes", "list"];

/// One line of the result: the same figure of both sides, a value per round.
#[derive(Clone, Debug)]
pub struct Row {
    pub bench: String,
    pub what: String,
    pub unit: String,
    pub better: Better,
    pub ours: Vec<f64>,
    pub upstream: Vec<f64>,
}

impl Row {
    /// How many times better ours is; none when a side has no value.
    pub fn ratio(&self) -> Option<f64> {
        let (ours, upstream) = (median(&self.ours), median(&self.upstream));
        let (good, bad) = if self.better == Better::Higher {
            (ours, upstream)
        } else {
            (upstream, ours)
        };
        (!self.ours.is_empty() && !self.upstream.is_empty() && good > 0.0 && bad > 0.0).then(|| good / bad)
    }

    /// The median, and every round's value if they differ by more than a tenth.
    pub fn shown(values: &[f64]) -> String {
        let (Some(least), Some(most)) = (
            values.iter().copied().reduce(f64::min),
            values.iter().copied().reduce(f64::max),
        ) else {
            return "-".to_owned();
        };
        let middle = values.iter().sum::<f64>() / values.len() as f64;
        if most > least * 1.1 {
            format!("{} ({} to {})", short(middle), short(least), short(most))
        } else {
            short(middle)
        }
    }
}

/// Runs `names` for both sides, `rounds` times; `shape` is of `sched`, `pods` of `crowd`.
pub fn run(
    names: &[&str],
    ours: &Path,
    upstream: &Path,
    rounds: usize,
    shape: Option<&str>,
    pods: Option<usize>,
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let wanted =
        |of: &[&'static str]| -> Vec<&'static str> { of.iter().copied().filter(|n| names.contains(n)).collect() };
    let (with_nodes, control_plane) = (wanted(WITH_NODES), wanted(CONTROL_PLANE));
    if !with_nodes.is_empty() || !control_plane.is_empty() {
        for round in 1..=rounds {
            for (is_ours, programs) in [(true, ours), (false, upstream)] {
                let side = Side::new(name(is_ours), programs, ours)?;
                eprintln!("round {round} of {rounds}: {}", side.name);
                if !with_nodes.is_empty() {
                    let figure = Figure {
                        bench: "start".into(),
                        what: "hack/up, nothing to two Ready nodes and DNS".into(),
                        unit: "s".into(),
                        value: side.up(2)?,
                        better: Better::Lower,
                    };
                    add(&mut rows, is_ours, figure);
                    let pods = pods.map(|pods| pods.to_string());
                    let mut arguments = with_nodes.clone();
                    arguments.extend(pods.iter().flat_map(|pods| ["--pods", pods]));
                    side.measure(&arguments)?
                        .into_iter()
                        .for_each(|f| add(&mut rows, is_ours, f));
                }
                if !control_plane.is_empty() {
                    side.up(0)?;
                    side.measure(&control_plane)?
                        .into_iter()
                        .for_each(|f| add(&mut rows, is_ours, f));
                }
            }
        }
    }
    if names.contains(&"sched") {
        let side = Side::new(name(true), ours, ours)?;
        side.up(0)?;
        for round in 1..=rounds {
            for (is_ours, programs) in [(true, ours), (false, upstream)] {
                eprintln!("round {round} of {rounds}: kube-scheduler, {}", name(is_ours));
                let program = programs.join("kube-scheduler").canonicalize()?;
                let program = program.to_string_lossy();
                let mut arguments = vec!["sched", "--scheduler", &program];
                arguments.extend(shape.into_iter().flat_map(|s| ["--shape", s]));
                side.measure(&arguments)?
                    .into_iter()
                    .for_each(|f| add(&mut rows, is_ours, f));
            }
        }
    }
    if names.contains(&"services") {
        let side = Side::new(name(true), ours, ours)?;
        side.up(1)?;
        for round in 1..=rounds {
            for (is_ours, programs) in [(true, ours), (false, upstream)] {
                eprintln!("round {round} of {rounds}: kube-proxy, {}", name(is_ours));
                let program = programs.join("kube-proxy").canonicalize()?;
                side.measure(&["services", "--proxy", &program.to_string_lossy()])?
                    .into_iter()
                    .for_each(|f| add(&mut rows, is_ours, f));
            }
        }
    }
    Ok(rows)
}

fn name(is_ours: bool) -> &'static str {
    if is_ours { "ours" } else { "upstream" }
}

fn add(rows: &mut Vec<Row>, is_ours: bool, figure: Figure) {
    let same = |r: &&mut Row| (&r.bench, &r.what, &r.unit) == (&figure.bench, &figure.what, &figure.unit);
    let values = match rows.iter_mut().find(same) {
        Some(row) if is_ours => &mut row.ours,
        Some(row) => &mut row.upstream,
        None => {
            let Figure {
                bench,
                what,
                unit,
                better,
                value,
            } = figure;
            let (mut ours, mut upstream) = (Vec::new(), Vec::new());
            if is_ours { &mut ours } else { &mut upstream }.push(value);
            return rows.push(Row {
                bench,
                what,
                unit,
                better,
                ours,
                upstream,
            });
        }
    };
    values.push(figure.value);
}

/// The rows as a Markdown table, which is also readable as it is.
pub fn table(rows: &[Row]) -> String {
    let mut text =
        String::from("| | figure | ours | upstream | unit | ours is better by |\n|---|---|---|---|---|---|\n");
    let mut last = "";
    for row in rows {
        let bench = if row.bench == last { "" } else { &row.bench };
        last = &row.bench;
        let ratio = row
            .ratio()
            .map_or_else(|| "-".to_owned(), |r| format!("{} x", short(r)));
        let (ours, upstream) = (Row::shown(&row.ours), Row::shown(&row.upstream));
        text += &format!(
            "| {bench} | {} | {ours} | {upstream} | {} | {ratio} |\n",
            row.what, row.unit
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(better: Better, ours: &[f64], upstream: &[f64]) -> Row {
        Row {
            bench: "b".into(),
            what: "w".into(),
            unit: "u".into(),
            better,
            ours: ours.to_vec(),
            upstream: upstream.to_vec(),
        }
    }

    #[test]
    fn a_ratio_above_one_says_that_ours_is_better_whichever_direction_is_good() {
        assert_eq!(row(Better::Lower, &[2.0], &[10.0]).ratio(), Some(5.0));
        assert_eq!(row(Better::Higher, &[2.0], &[10.0]).ratio(), Some(0.2));
        assert_eq!(row(Better::Higher, &[2.0], &[]).ratio(), None);
        assert_eq!(row(Better::Lower, &[0.0], &[1.0]).ratio(), None);
    }

    #[test]
    fn figures_of_both_sides_and_all_rounds_meet_in_one_row() {
        let figure = |value| Figure {
            bench: "b".into(),
            what: "w".into(),
            unit: "u".into(),
            value,
            better: Better::Lower,
        };
        let mut rows = Vec::new();
        for (ours, value) in [(true, 1.0), (false, 4.0), (true, 1.05), (false, 6.0)] {
            add(&mut rows, ours, figure(value));
        }
        assert_eq!(rows.len(), 1);
        assert!(
            table(&rows).contains("| b | w | 1.02 | 5.00 (4.00 to 6.00) | u |"),
            "{}",
            table(&rows)
        );
    }
}
