//! Figures of a cluster, printed; with upstream's programs at hand, of both side by side. No test: nothing passes or fails.
//!
//! `bench NAME...` measures the running cluster of `hack/up`. With `--upstream DIR` it brings up clusters of its own
//! instead (`compare.rs`) and prints ratios; `--record` keeps them in `conformance/README.md`. Work is bounded in count and
//! time; what it makes, it removes.

mod api;
mod compare;
mod crowd;
mod figure;
mod h2;
mod list;
mod load;
mod memory;
mod pods;
mod program;
mod record;
mod sched;
mod services;
mod side;
mod start;
mod watch;
mod writes;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use figure::Report;
use steersman_conformance::Cluster;

/// In the order in which they run: `watch` before what makes the server grow.
const NAMES: [&str; 9] = [
    "start", "memory", "pods", "crowd", "services", "watch", "writes", "list", "sched",
];

/// The command line, understood.
#[derive(Default)]
struct Options {
    names: Vec<&'static str>,
    upstream: Option<PathBuf>,
    ours: Option<PathBuf>,
    rounds: Option<usize>,
    record: bool,
    /// For `sched`: another scheduler than the cluster's, and which shapes.
    scheduler: Option<PathBuf>,
    shape: Option<String>,
    /// For `crowd`: how many pods.
    pods: Option<usize>,
    /// For `services`: how many, and another proxy than the cluster's.
    services: Option<usize>,
    proxy: Option<PathBuf>,
    json: bool,
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options::default();
    let mut arguments = arguments.peekable();
    while let Some(word) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--upstream" => options.upstream = Some(value()?.into()),
            "--ours" => options.ours = Some(value()?.into()),
            "--scheduler" => options.scheduler = Some(value()?.into()),
            "--shape" => options.shape = Some(value()?),
            "--services" => options.services = Some(value()?.parse().context("--services")?),
            "--proxy" => options.proxy = Some(value()?.into()),
            "--pods" => options.pods = Some(value()?.parse().context("--pods")?),
            "--rounds" => options.rounds = Some(value()?.parse().context("--rounds")?),
            "--record" => options.record = true,
            "--json" => options.json = true,
            "all" => options.names = NAMES.to_vec(),
            name => match NAMES.iter().find(|n| **n == name) {
                Some(name) => options.names.push(name),
                None => bail!("unknown benchmark {name}; there are: {} all", NAMES.join(" ")),
            },
        }
    }
    if options.names.is_empty() {
        options.names = NAMES.to_vec();
    }
    Ok(options)
}

fn main() -> Result<()> {
    // The same program, as it calls itself.
    if let [_, probe, address] = std::env::args().collect::<Vec<_>>().as_slice()
        && probe == services::PROBE
    {
        return services::connect(address);
    }
    let options = parse(std::env::args().skip(1))?;
    let repo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    if let Some(upstream) = &options.upstream {
        let ours = options.ours.clone().unwrap_or_else(|| repo.join("target/release"));
        let rounds = options.rounds.unwrap_or(2).clamp(1, 9);
        let rows = compare::run(
            &options.names,
            &ours,
            upstream,
            rounds,
            options.shape.as_deref(),
            options.pods,
        )?;
        println!("{}", compare::table(&rows));
        if options.record {
            record::write(&repo, &rows, rounds)?;
        }
        return Ok(());
    }
    // Fails only when there is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(measure(&options))
}

/// The running cluster's figures.
async fn measure(options: &Options) -> Result<()> {
    let cluster = Cluster::here();
    for name in NAMES.into_iter().filter(|n| options.names.contains(n)) {
        let report = Report::new(name, options.json);
        let result = match name {
            "start" => start::run(&cluster, &report).await,
            "memory" => memory::run(&cluster, &report).await,
            "pods" => pods::run(&cluster, &report).await,
            "crowd" => crowd::run(&cluster, options.pods.unwrap_or(crowd::COUNT), &report).await,
            "services" => {
                let count = options.services.unwrap_or(services::COUNT);
                services::run(&cluster, options.proxy.as_deref(), count, &report).await
            }
            "writes" => writes::run(&cluster, &report).await,
            "list" => list::run(&cluster, &report).await,
            "watch" => watch::run(&cluster, &report).await,
            _ => {
                sched::run(
                    &cluster,
                    options.scheduler.as_deref(),
                    options.shape.as_deref(),
                    &report,
                )
                .await
            }
        };
        // The others are still worth having.
        if let Err(error) = result {
            report.note(&format!("failed: {error:#}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn names_and_flags_come_in_any_order_and_unknown_ones_are_named() {
        let options = parsed("list --upstream /x watch --rounds 3 --record").unwrap();
        assert_eq!(
            (options.names, options.rounds, options.record),
            (vec!["list", "watch"], Some(3), true)
        );
        assert_eq!(parsed("").unwrap().names, NAMES);
        assert!(
            parsed("nothing")
                .err()
                .unwrap()
                .to_string()
                .contains("unknown benchmark nothing")
        );
        assert!(parsed("--upstream").is_err());
    }
}
