//! The controller manager as a program: flags, port, leader election, controllers.
//!
//! [`main`] parses and runs; [`run`] is the same with everything given, for programs that hold several components. Order:
//! open the port (health is answered before the lease is held), compete for the lease, start the enabled controllers,
//! stop on a signal. A lost lease ends the process with exit code 1, as upstream's does.

mod flags;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use steersman_runtime::events::Recorder;
use steersman_runtime::leader::{self, ApiLease, Outcome};
use steersman_runtime::metrics::Metrics;
use steersman_runtime::queue_metrics::QueueMetrics;
use steersman_runtime::{Client, Informers, serve, shutdown};
use steersman_types::api::core::v1::Pod;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

pub use flags::Flags;

use crate::ALL;
use crate::context::{Context, Controller, Settings, queue_name};
use crate::tokens::ServiceAccountTokens;

const NAME: &str = "kube-controller-manager";
const PORT: u16 = 10257;

/// Parses this process's command line and runs until told to stop.
pub fn main() -> ! {
    let flags: Flags = steersman_runtime::flags::parse();
    steersman_runtime::logging::init(flags.logging.v);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(async {
            let stop = shutdown::on_signals()?;
            run(flags, stop).await
        }),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(Outcome::Lost) => {
            error!("leaderelection lost");
            std::process::exit(1)
        }
        Ok(_) => std::process::exit(0),
        Err(error) => steersman_runtime::flags::fail(&format!("{error:#}")),
    }
}

/// Runs until `stop`, or until the lease is lost.
///
/// # Errors
/// When a flag's value cannot be used or the port cannot be opened: one line.
pub async fn run(flags: Flags, stop: CancellationToken) -> anyhow::Result<Outcome> {
    let settings = Arc::new(flags.settings()?);
    let enabled = flags.enabled()?;
    let host = steersman_runtime::flags::hostname();
    let config = flags
        .leader
        .config(NAME, leader::identity(&host))
        .map_err(anyhow::Error::msg)?;
    let client = Client::from_kubeconfig(&flags.kubeconfig, NAME).await?;
    let metrics = Metrics::new();
    let leads = leader::status(&metrics, NAME);
    let port = serve::open(
        &flags.serving,
        NAME,
        PORT,
        &client,
        metrics.clone(),
        |_| {},
        stop.clone(),
    );
    port.await?;

    let program = Program {
        client: client.clone(),
        settings,
        metrics,
        use_tokens: flags.use_service_account_credentials,
    };
    if !flags.leader.leader_elect {
        program.controllers(enabled, stop).await;
        return Ok(Outcome::Released);
    }
    let recorder = Recorder::new(client.clone(), NAME, "");
    let lease = ApiLease::new(
        client.with_user_agent("kube-controller-manager/leader-election"),
        &config,
    );
    let leading = leads.clone();
    let work = move |stop| async move {
        leading.set(1);
        program.controllers(enabled, stop).await;
    };
    let outcome = leader::run(&config, &lease, &Timestamp::now, Some(&recorder), stop, work).await;
    leads.set(0);
    recorder.flush(Duration::from_millis(500)).await;
    Ok(outcome)
}

/// What all controllers share.
struct Program {
    client: Client,
    settings: Arc<Settings>,
    metrics: Metrics,
    use_tokens: bool,
}

impl Program {
    fn context(
        &self,
        controller: &Controller,
        informers: &Informers,
        queues: &QueueMetrics,
        stop: &CancellationToken,
    ) -> Context {
        let user_agent = format!("{NAME}/{}", controller.name);
        let client = if self.use_tokens && !controller.service_account.is_empty() {
            let tokens = ServiceAccountTokens::new(self.client.clone(), controller.service_account);
            self.client.with_tokens(Arc::new(tokens), &user_agent)
        } else {
            self.client.with_user_agent(&user_agent)
        };
        Context {
            informers: informers.clone(),
            client,
            settings: self.settings.clone(),
            metrics: self.metrics.clone(),
            queues: queues.clone(),
            queue_name: queue_name(controller.name),
            stop: stop.clone(),
        }
    }

    /// Starts everything in `enabled` and waits until `stop`.
    async fn controllers(self, enabled: Vec<&'static Controller>, stop: CancellationToken) {
        let informers = Informers::new(self.client.with_user_agent("kube-controller-manager/shared-informers"));
        informers.trim::<Pod>(crate::pods::shrink);
        let queues = QueueMetrics::new(&self.metrics);
        for controller in enabled {
            let context = self.context(controller, &informers, &queues, &stop);
            info!(controller = controller.name, "Starting controller");
            let stop = stop.clone();
            tokio::spawn(async move {
                let ended = tokio::select! {
                    ended = (controller.start)(context) => ended,
                    () = stop.cancelled() => return,
                };
                if stop.is_cancelled() {
                    return;
                }
                match ended {
                    Ok(()) => info!(
                        controller = controller.name,
                        "controller is not needed with these flags"
                    ),
                    Err(error) => error!(controller = controller.name, %error, "controller failed"),
                }
            });
        }
        stop.cancelled().await;
    }
}

/// Which of [`ALL`] run, given `--controllers`. Order is that of `ALL`; a name or its older alias is accepted.
///
/// # Errors
/// When a name is unknown; upstream's text.
fn selected(names: &[String]) -> Result<Vec<&'static Controller>, String> {
    let is = |controller: &Controller, name: &str| controller.name == name || controller.alias == name;
    for name in names {
        let name = name.strip_prefix('-').unwrap_or(name);
        if name != "*" && !ALL.iter().any(|c| is(c, name)) && !flags::ELSEWHERE.contains(&name) {
            return Err(format!("{name:?} is not in the list of known controllers"));
        }
    }
    let wanted = |controller: &&'static Controller| {
        // The first mention decides; '*' stands for everything not mentioned.
        let explicit = names.iter().find_map(|name| match name.strip_prefix('-') {
            Some(off) if is(controller, off) => Some(false),
            None if is(controller, name) => Some(true),
            _ => None,
        });
        explicit.unwrap_or_else(|| controller.on && names.iter().any(|name| name == "*"))
    };
    Ok(ALL.iter().filter(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Result<Vec<&'static str>, String> {
        let owned: Vec<String> = list.iter().map(|n| (*n).to_owned()).collect();
        selected(&owned).map(|found| found.iter().map(|c| c.name).collect())
    }

    #[test]
    fn a_star_means_all_and_a_minus_takes_one_out() {
        let on = ALL.iter().filter(|c| c.on).count();
        assert_eq!(names(&["*"]).map(|n| n.len()), Ok(on));
        let without = names(&["*", "-deployment"]).unwrap_or_default();
        assert!(!without.contains(&"deployment-controller") && without.len() == on - 1);
        assert!(names(&["*", "tokencleaner"]).is_ok_and(|n| n.contains(&"token-cleaner-controller")));
        assert_eq!(names(&["deployment-controller"]), Ok(vec!["deployment-controller"]));
    }

    #[test]
    fn an_unknown_controller_is_refused_by_name() {
        assert_eq!(
            names(&["*", "nope"]),
            Err("\"nope\" is not in the list of known controllers".into())
        );
    }
}
