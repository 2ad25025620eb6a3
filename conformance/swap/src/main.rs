//! Component swap: clusters in which programs of ours and of upstream work together, and a table of how that went.
//!
//! Twelve cells have exactly one of the six programs from one side and the rest from the other; one has two API servers,
//! one of each; two hand what one side stored over to the other side's server. `hack/swap` starts this in a network
//! namespace and a folder of its own, beside a cluster that may be up. A cell's result stays until it is run again, so an
//! interrupted run goes on where it stopped; the table in `conformance/README.md` is made from all results.

mod balancer;
mod cells;
mod clusters;
mod difference;
mod findings;
mod handover;
mod programs;
mod record;
mod suites;
mod swapped;
mod table;
mod two;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use steersman_conformance::Cluster;

use crate::cells::{Cell, Side};
use crate::clusters::Place;
use crate::findings::Findings;
use crate::programs::Programs;
use crate::record::{Record, Records};
use crate::suites::Suites;

/// Runs cells of the table and writes it.
#[derive(Debug, Parser)]
#[command(name = "hack/swap")]
struct Arguments {
    /// Folder with upstream's programs
    upstream: PathBuf,
    /// Cells to run, by name or its beginning (default: all), for instance only-ours or only-upstream-kubelet
    cells: Vec<String>,
    /// Folder with our programs [default: target/release]
    #[arg(long)]
    ours: Option<PathBuf>,
    /// A program that stands for upstream's cluster DNS, with the flags of cluster-dns
    #[arg(long)]
    dns: Option<PathBuf>,
    /// Suites to run in each cell, by name or by area with its underscore (may be repeated)
    #[arg(long = "suite", default_values = suites::AREAS.map(String::from))]
    suites: Vec<String>,
    /// Run cells anew that were run with the same programs and suites before
    #[arg(long)]
    again: bool,
    /// Use the suites that an earlier run built
    #[arg(long)]
    no_build: bool,
    /// Name the cells and their results, and run nothing
    #[arg(long)]
    list: bool,
    /// The README that has the table
    #[arg(long)]
    readme: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let repo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let state = std::env::var_os("STEERSMAN_STATE")
        .map(PathBuf::from)
        .context("start this through hack/swap")?;
    let place = Place {
        repo: repo.clone(),
        state,
    };
    let ours = arguments.ours.clone().unwrap_or_else(|| repo.join("target/release"));
    let dns = arguments.dns.as_deref().map(Path::canonicalize).transpose()?;
    let programs = Programs::find(
        &ours.canonicalize()?,
        &arguments.upstream.canonicalize()?,
        dns.as_deref(),
    )?;
    let chosen = Cell::choose(&arguments.cells).map_err(|name| {
        let all: Vec<String> = Cell::all().iter().map(Cell::to_string).collect();
        anyhow!("no cell is called {name}; there are: {}", all.join(" "))
    })?;
    let records = Records::in_folder(&place.state.join("results"))?;
    let readme = arguments
        .readme
        .clone()
        .unwrap_or_else(|| repo.join("conformance/README.md"));
    let fingerprint = format!("{} {}", programs.fingerprint(), arguments.suites.join(","));

    if arguments.list {
        for cell in chosen {
            let said = records
                .get(&cell.to_string())
                .map_or("not run", |r| if r.green() { "green" } else { "red" });
            println!("{cell}: {said}");
        }
        return Ok(());
    }
    let suites = suites::prepare(&place, &arguments.suites, !arguments.no_build)?;
    let mut red = 0;
    for cell in chosen {
        let name = cell.to_string();
        let known = records
            .get(&name)
            .filter(|r| r.fingerprint == fingerprint && !arguments.again);
        let record = match known {
            Some(record) => {
                println!("{name}: known");
                record
            }
            None => {
                println!("{name}");
                let record = run(cell, &place, &programs, &suites, &records, &fingerprint)?;
                records.put(&record)?;
                write_table(&readme, &records, &programs)?;
                record
            }
        };
        println!(
            "{name}: {} ({} passed, {} failed)",
            if record.green() { "green" } else { "red" },
            record.passed,
            record.failed.len()
        );
        red += usize::from(!record.green());
    }
    write_table(&readme, &records, &programs)?;
    place.down(&place.state.join("down.log"))?;
    if red > 0 {
        bail!(
            "{red} cells are red; logs are in {}",
            place.state.join("results").display()
        );
    }
    Ok(())
}

/// Runs one cell from nothing. What goes wrong inside is its result, not an error.
fn run(
    cell: Cell,
    place: &Place,
    programs: &Programs,
    suites: &Suites,
    records: &Records,
    fingerprint: &str,
) -> Result<Record> {
    let name = cell.to_string();
    let logs = records.logs(&name)?;
    let begun = Instant::now();
    place.down(&logs.join("down.log"))?;
    let mut findings = Findings::default();
    let mut up_seconds = None;
    if let Err(e) = fill(cell, place, programs, suites, &logs, &mut findings, &mut up_seconds) {
        println!("    FAILED: {e:#}");
        findings.failed.push(format!("{e:#}"));
    }
    keep_logs(&place.state.join("logs"), &logs.join("cluster"))?;
    Ok(Record {
        cell: name,
        fingerprint: fingerprint.to_owned(),
        date: jiff::Zoned::now().strftime("%Y-%m-%d %H:%M").to_string(),
        commit: commit(&place.repo),
        seconds: begun.elapsed().as_secs_f64(),
        up_seconds,
        passed: findings.passed,
        failed: findings.failed,
        notes: findings.notes,
    })
}

fn fill(
    cell: Cell,
    place: &Place,
    programs: &Programs,
    suites: &Suites,
    logs: &Path,
    findings: &mut Findings,
    up_seconds: &mut Option<f64>,
) -> Result<()> {
    let mut mixture = programs.of(cell)?;
    let mut flags = vec!["--nodes", "2"];
    if cell == Cell::TwoServers {
        let second = programs
            .file(Side::Upstream, "kube-apiserver")
            .context("no API server of upstream's")?;
        mixture.push(("kube-apiserver-2", second));
        flags.extend(["--apiservers", "2"]);
    }
    let begun = Instant::now();
    // Waiting for a program panics as the suites' waiting does.
    let cluster = findings
        .check("the cluster comes up", || {
            place
                .up(&mixture, &flags, &logs.join("up.log"))
                .map_err(|e| format!("{e:#}"))
        })
        .ok_or_else(|| anyhow!("no cluster, so nothing else was tried"))?;
    *up_seconds = Some(begun.elapsed().as_secs_f64());
    findings.check("it runs a Deployment", swapped::runs_a_deployment);
    match cell {
        Cell::Swap { .. } => swapped::run_suites(findings, suites, &place.state, logs),
        Cell::TwoServers => two_servers(&cluster, place, suites, logs, findings)?,
        Cell::HandOver { to } => {
            let to = programs
                .file(to, "kube-apiserver")
                .context("no API server to hand over to")?;
            let golden = place.repo.join(".cluster/cache/golden");
            let golden = if golden.exists() {
                golden
            } else {
                place.state.join("cache/golden")
            };
            let hand_over = handover::HandOver {
                cluster: &cluster,
                state: &place.state,
                golden: &golden,
                to,
                logs,
            };
            guarded(|inner| hand_over.run(inner), findings)?;
        }
    }
    Ok(())
}

/// Runs what may panic, keeping what it had found until then.
fn guarded(work: impl FnOnce(&mut Findings) -> Result<()>, findings: &mut Findings) -> Result<()> {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(findings)));
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        Err(anyhow!("{text}"))
    })
}

/// The checks on both servers, then the suites through a balancer in front of both.
fn two_servers(cluster: &Cluster, place: &Place, suites: &Suites, logs: &Path, findings: &mut Findings) -> Result<()> {
    guarded(
        |inner| {
            two::Pair::of(cluster).run(inner);
            Ok(())
        },
        findings,
    )?;
    let port = balancer::start(vec!["127.0.0.1:6443".to_owned(), "127.0.0.1:6444".to_owned()])?;
    let behind = place.state.join("behind");
    two::behind(&place.state, &behind, &format!("https://127.0.0.1:{port}"))?;
    swapped::run_suites(findings, suites, &behind, logs);
    Ok(())
}

fn keep_logs(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).into_iter().flatten().flatten() {
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

fn write_table(readme: &Path, records: &Records, programs: &Programs) -> Result<()> {
    let rows: Vec<(Cell, Option<Record>)> = Cell::all()
        .into_iter()
        .map(|c| (c, records.get(&c.to_string())))
        .collect();
    let section = table::section(&rows, &[programs.dns_note()]);
    let text = std::fs::read_to_string(readme).unwrap_or_else(|_| "# Conformance\n".to_owned());
    std::fs::write(readme, table::replaced(&text, &section)).with_context(|| readme.display().to_string())
}

/// The checkout's commit, shortened.
fn commit(repo: &Path) -> String {
    let output = Command::new("git")
        .current_dir(repo)
        .args(["rev-parse", "--short", "HEAD"])
        .output();
    output.map_or_else(
        |_| "unknown".to_owned(),
        |o| String::from_utf8_lossy(&o.stdout).trim().to_owned(),
    )
}
