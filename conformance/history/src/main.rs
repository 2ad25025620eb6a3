//! `history`: API servers under faults, everything they answer recorded, the record checked.
//!
//! `hack/history` runs it in a network, mount and process namespace of its own; `run` makes a control plane in there
//! ([`cluster`]), drives it ([`traffic`]) while faults happen by a seeded [`schedule`], and writes a history ([`record`]);
//! `check` judges such a file against invariants C1 to C10 ([`check`]). `mutants` shows that each of them can be caught.
//! It knows the API by its wire only; the store's client is used to compact, and to ask etcd what the servers should show.

mod check;
mod cluster;
mod dice;
mod mutation;
mod record;
mod run;
mod schedule;
mod shapes;
mod traffic;
mod wire;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::check::{History, check};
use crate::cluster::Cluster;
use crate::mutation::Mutation;

#[derive(Parser)]
#[command(about = "API servers under faults, and whether what they answered can be true")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Drives a control plane of its own under faults, records what it answers, and checks the record.
    Run {
        #[command(flatten)]
        place: Place,
        /// Replays the faults and choices of an earlier run; default: from the clock.
        #[arg(long)]
        seed: Option<u64>,
        #[arg(long, default_value_t = 1.0)]
        minutes: f64,
        /// Calls per second, watches aside.
        #[arg(long, default_value_t = 80)]
        rate: usize,
        /// Nothing is killed, paused or cut.
        #[arg(long)]
        no_faults: bool,
        /// Falsifies answers: the check must then fail.
        #[arg(long, value_enum)]
        mutate: Option<Mutation>,
    },
    /// Checks a recorded history.
    Check {
        file: PathBuf,
        /// Puts the result between the marks of this document (conformance/README.md).
        #[arg(long)]
        readme: Option<PathBuf>,
    },
    /// Falsifies answers in every way that is known, and fails unless each one is caught.
    Mutants {
        #[command(flatten)]
        place: Place,
        #[arg(long, default_value_t = 4.0)]
        seconds: f64,
    },
}

/// Where things are.
#[derive(Args)]
struct Place {
    /// Folder for histories and logs.
    #[arg(long)]
    state: PathBuf,
    /// Folder that disappears with the driver: keys, data of etcd.
    #[arg(long)]
    scratch: PathBuf,
    #[arg(long)]
    etcd: PathBuf,
    /// May be repeated: the servers take turns.
    #[arg(long = "kube-apiserver", required = true)]
    apiservers: Vec<PathBuf>,
    #[arg(long, default_value_t = 3)]
    apiserver_count: usize,
}

impl Place {
    async fn start(&self) -> Result<Cluster> {
        let logs = self.state.join("logs");
        let (etcd, apiservers) = (self.etcd.clone(), self.apiservers.clone());
        let shape = run::shape(self.scratch.clone(), logs, etcd, apiservers, self.apiserver_count)?;
        Cluster::start(&shape).await
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    // The driver is the first process of its namespace: without a handler it would ignore the signal.
    let done = tokio::select! {
        done = drive(Cli::parse().what) => done,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("history: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn verdict(file: &Path, readme: Option<&Path>) -> Result<()> {
    let report = check(&History::load(file)?);
    println!("{report}");
    if let Some(readme) = readme {
        let text = std::fs::read_to_string(readme)?;
        let text = report
            .put_into(&text)
            .context("the document has no marks for histories")?;
        std::fs::write(readme, text)?;
    }
    anyhow::ensure!(report.is_clean(), "{} is not clean", file.display());
    Ok(())
}

async fn drive(what: What) -> Result<()> {
    match what {
        What::Check { file, readme } => verdict(&file, readme.as_deref()),
        What::Run {
            place,
            seed,
            minutes,
            rate,
            no_faults,
            mutate,
        } => {
            let seed = seed.unwrap_or_else(clock);
            let file = place.state.join(format!("seed-{seed}.gz"));
            println!("seed {seed}: {}", file.display());
            let mut cluster = place.start().await?;
            let time = Duration::from_secs_f64(minutes * 60.0);
            let options = run::Options {
                seed,
                time,
                rate,
                faults: !no_faults,
                mutation: mutate,
                file: file.clone(),
            };
            let done = run::run(&mut cluster, &options, 0).await;
            cluster.stop().await;
            done?;
            verdict(&file, None)
        }
        What::Mutants { place, seconds } => {
            let mut cluster = place.start().await?;
            let mut missed = Vec::new();
            for (number, mutation) in Mutation::value_variants().iter().enumerate() {
                let file = place.state.join(format!("mutant-{mutation:?}.gz"));
                let time = Duration::from_secs_f64(seconds);
                let options = run::Options {
                    seed: 1,
                    time,
                    rate: 200,
                    faults: false,
                    mutation: Some(*mutation),
                    file: file.clone(),
                };
                run::run(&mut cluster, &options, number).await?;
                let report = check(&History::load(&file)?);
                let found = report.broken();
                let caught = mutation.breaks().iter().any(|invariant| found.contains(invariant));
                println!(
                    "{mutation:?}: violates {found:?}, {}",
                    if caught { "caught" } else { "MISSED" }
                );
                if !caught {
                    println!("{report}");
                    missed.push(*mutation);
                }
            }
            cluster.stop().await;
            anyhow::ensure!(missed.is_empty(), "not caught: {missed:?}");
            Ok(())
        }
    }
}

/// A seed that is short enough to be typed again.
fn clock() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |time| time.as_secs() % 1_000_000)
}
