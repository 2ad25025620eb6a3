//! `kube-scheduler`: flags, wiring, leading, draining. Everything else is in the library.

use std::sync::Arc;

use anyhow::Context as _;
use steersman_runtime::events::Recorder;
use steersman_runtime::leader::{self, Outcome};
use steersman_runtime::metrics::Metrics;
use steersman_runtime::{Client, Informers, flags, logging, serve, shutdown};
use steersman_scheduler::options::Options;
use steersman_scheduler::profiles::Config;
use steersman_scheduler::run::Scheduler;
use tracing::info;

const NAME: &str = "kube-scheduler";
const PORT: u16 = 10259;

fn main() {
    let options: Options = flags::parse();
    logging::init(options.logging.v);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => flags::fail(&format!("starting the runtime: {error}")),
    };
    if let Err(error) = runtime.block_on(run(options)) {
        flags::fail(&format!("{error:#}"));
    }
}

async fn run(options: Options) -> anyhow::Result<()> {
    let Options {
        kubeconfig,
        config,
        serving,
        leader: election,
        logging: _,
    } = options;
    let config = match &config {
        None => Config::default(),
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("open {}", path.display()))?;
            Config::parse(&text).map_err(anyhow::Error::msg)?
        }
    };
    let mut election = election;
    config.election.over(&mut election).map_err(anyhow::Error::msg)?;
    let kubeconfig = config.kubeconfig.map(Into::into).or(kubeconfig);
    let kubeconfig: std::path::PathBuf = kubeconfig.context("--kubeconfig is required")?;
    let stop = shutdown::on_signals()?;
    let client = Client::from_kubeconfig(&kubeconfig, NAME).await?;
    let host = flags::hostname();
    let profiles: Vec<_> = config
        .profiles
        .into_iter()
        .map(|profile| {
            let recorder = Recorder::new(client.clone(), &profile.name, &host);
            (profile, recorder)
        })
        .collect();
    let recorder = Recorder::new(client.clone(), NAME, &host);
    let election = (
        election.leader_elect,
        election
            .config(NAME, leader::identity(&host))
            .map_err(anyhow::Error::msg)?,
    );

    let informers = Informers::new(client.clone());
    steersman_scheduler::trim::all(&informers);
    let scheduler = Scheduler::start(client.clone(), profiles, config.backoff, &informers);
    let metrics = Metrics::new();
    scheduler.figures.register(&metrics, Arc::downgrade(&scheduler));
    let leads = leader::status(&metrics, NAME);
    serve::open(&serving, NAME, PORT, &client, metrics, |_| {}, stop.clone()).await?;

    let work = |stop| async move {
        leads.set(1);
        informers.synced().await;
        info!("caches are synced; scheduling");
        scheduler.run(stop).await;
    };
    let (elect, config) = election;
    if !elect {
        work(stop).await;
        return Ok(());
    }
    let store = leader::ApiLease::new(client, &config);
    match leader::run(
        &config,
        &store,
        &steersman_types::jiff::Timestamp::now,
        Some(&recorder),
        stop,
        work,
    )
    .await
    {
        Outcome::Lost => anyhow::bail!("leaderelection lost"),
        Outcome::Released | Outcome::WorkEnded => Ok(()),
    }
}
