//! Leader election on a Lease.
//!
//! Callers: the controller manager and the scheduler. [`run`] waits until this process holds the lease, then runs the
//! caller's work beside the renewals, and returns when the lease was lost or given back. As upstream: 15 s lease, renewed
//! every 2 s, given up after 10 s without a renewal; another's lease counts as expired when *we* have not seen it change
//! for its duration (no comparison of clocks between machines).
//!
//! What stays true: the work never runs longer than the renew deadline after the last renewal; `Lost` means the process
//! must exit, because the work's effects may still be under way. The decision ([`decide`]) is pure; the clock is tokio's,
//! so that tests simulate it.

use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use steersman_types::api::coordination::v1::{Lease, LeaseSpec};
use steersman_types::api::core::v1::ObjectReference;
use steersman_types::meta::MicroTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::client::{ApiError, BoxFuture, Client};
use crate::events::{EventType, Recorder};
use crate::metrics::Metrics;

/// Who competes for what, and how patiently. `new` has upstream's timings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub namespace: String,
    pub name: String,
    pub identity: String,
    pub lease_duration: Duration,
    pub renew_deadline: Duration,
    pub retry_period: Duration,
}

impl Config {
    #[must_use]
    pub fn new(namespace: &str, name: &str, identity: String) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity,
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }

    /// # Errors
    /// When the periods contradict each other; upstream's texts.
    pub fn validate(&self) -> Result<(), String> {
        if self.lease_duration <= self.renew_deadline {
            return Err("leaseDuration must be greater than renewDeadline".into());
        }
        if self.renew_deadline <= self.retry_period.mul_f64(1.2) {
            return Err("renewDeadline must be greater than retryPeriod*JitterFactor".into());
        }
        if self.retry_period.is_zero() {
            return Err("retryPeriod must be greater than zero".into());
        }
        Ok(())
    }
}

/// `<host>_<unique>`: what upstream's programs call themselves.
#[must_use]
pub fn identity(host: &str) -> String {
    format!("{host}_{:032x}", rand::random::<u128>())
}

/// Where the lease is kept.
pub trait LeaseStore: Send + Sync {
    fn get(&self) -> BoxFuture<'_, Result<Lease, ApiError>>;
    fn create(&self, lease: Lease) -> BoxFuture<'_, Result<Lease, ApiError>>;
    fn update(&self, lease: Lease) -> BoxFuture<'_, Result<Lease, ApiError>>;
}

/// The API server's Lease object.
pub struct ApiLease {
    client: Client,
    namespace: String,
    name: String,
}

impl ApiLease {
    #[must_use]
    pub fn new(client: Client, config: &Config) -> Self {
        // A request that hangs must leave room for another try before the deadline.
        let client = client.with_timeout(config.renew_deadline / 2);
        Self {
            client,
            namespace: config.namespace.clone(),
            name: config.name.clone(),
        }
    }
}

impl LeaseStore for ApiLease {
    fn get(&self) -> BoxFuture<'_, Result<Lease, ApiError>> {
        Box::pin(self.client.get::<Lease>(Some(&self.namespace), &self.name))
    }
    fn create(&self, lease: Lease) -> BoxFuture<'_, Result<Lease, ApiError>> {
        Box::pin(async move { self.client.create(&lease).await })
    }
    fn update(&self, lease: Lease) -> BoxFuture<'_, Result<Lease, ApiError>> {
        Box::pin(async move { self.client.update(&lease).await })
    }
}

/// Upstream's `leader_election_master_status{name}`: 0 as long as somebody else leads, 1 once the caller's work runs.
#[must_use]
pub fn status(metrics: &Metrics, name: &'static str) -> Gauge {
    let family: Family<[(&str, &str); 1], Gauge> = Family::default();
    let help = "Gauge of if the reporting system is master of the relevant lease, 0 indicates backup, 1 indicates master. 'name' is the string used to identify the lease. Please make sure to group by name";
    metrics.register(|registry| registry.register("leader_election_master_status", help, family.clone()));
    let gauge = family.get_or_create(&[("name", name)]).clone();
    gauge.set(0);
    gauge
}

/// How leading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Asked to stop; the lease was given back (or never held).
    Released,
    /// Not renewed in time: the process must exit. Upstream's last words are `leaderelection lost`.
    Lost,
    /// The caller's work ended by itself.
    WorkEnded,
}

/// What to do about the lease, given what is known.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Create(LeaseSpec),
    Update(LeaseSpec),
    /// Somebody else holds it.
    Wait {
        holder: String,
    },
}

/// The lease as seen last, and since when it has looked like this on our own clock.
#[derive(Clone, Debug)]
pub struct Seen {
    pub lease: Lease,
    pub unchanged_for: Duration,
}

/// Pure: what this candidate should do now.
#[must_use]
pub fn decide(config: &Config, seen: Option<&Seen>, now: Timestamp) -> Step {
    let fresh = LeaseSpec {
        holder_identity: Some(config.identity.clone()),
        lease_duration_seconds: i32::try_from(config.lease_duration.as_secs()).ok(),
        acquire_time: Some(MicroTime(now)),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(0),
        ..LeaseSpec::default()
    };
    let Some(seen) = seen else { return Step::Create(fresh) };
    let spec = seen.lease.spec.clone().unwrap_or_default();
    let holder = spec.holder_identity.clone().unwrap_or_default();
    let transitions = spec.lease_transitions.unwrap_or(0);
    if holder == config.identity {
        return Step::Update(LeaseSpec {
            acquire_time: spec.acquire_time.or(fresh.acquire_time),
            lease_transitions: Some(transitions),
            preferred_holder: spec.preferred_holder,
            strategy: spec.strategy,
            holder_identity: fresh.holder_identity,
            lease_duration_seconds: fresh.lease_duration_seconds,
            renew_time: fresh.renew_time,
        });
    }
    let duration = u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
    if !holder.is_empty() && seen.unchanged_for < Duration::from_secs(duration) {
        return Step::Wait { holder };
    }
    Step::Update(LeaseSpec {
        lease_transitions: Some(transitions.saturating_add(1)),
        preferred_holder: spec.preferred_holder,
        strategy: spec.strategy,
        ..fresh
    })
}

struct Candidate<'a> {
    config: &'a Config,
    store: &'a dyn LeaseStore,
    wall: &'a (dyn Fn() -> Timestamp + Send + Sync),
    lease: Option<Lease>,
    changed: Instant,
    reported: String,
}

impl Candidate<'_> {
    fn observe(&mut self, lease: Lease) {
        if self.lease.as_ref().and_then(|l| l.spec.as_ref()) != lease.spec.as_ref() {
            self.changed = Instant::now();
        }
        let holder = lease
            .spec
            .as_ref()
            .and_then(|s| s.holder_identity.clone())
            .unwrap_or_default();
        if holder != self.reported {
            info!(leader = %holder, lease = %self.config.name, "new leader elected");
            self.reported = holder;
        }
        self.lease = Some(lease);
    }

    /// In microseconds, as the API keeps it: what is read back must compare equal.
    fn now(&self) -> Timestamp {
        let now = (self.wall)();
        Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
    }

    fn holds(&self) -> bool {
        self.lease
            .as_ref()
            .and_then(|l| l.spec.as_ref())
            .and_then(|s| s.holder_identity.as_deref())
            == Some(self.config.identity.as_str())
    }

    /// One attempt; whether the lease is ours afterwards.
    async fn attempt(&mut self) -> Result<bool, ApiError> {
        // The holder writes over what it wrote last; everybody else looks first.
        if !self.holds() {
            match self.store.get().await {
                Ok(lease) => self.observe(lease),
                Err(error) if error.is_not_found() => self.lease = None,
                Err(error) => return Err(error),
            }
        }
        let seen = self.lease.clone().map(|lease| Seen {
            lease,
            unchanged_for: self.changed.elapsed(),
        });
        let (wanted, create) = match decide(self.config, seen.as_ref(), self.now()) {
            Step::Wait { holder } => {
                debug!(%holder, "lease is held by somebody else");
                return Ok(false);
            }
            Step::Create(spec) => (spec, true),
            Step::Update(spec) => (spec, false),
        };
        let mut lease = seen.map(|s| s.lease).unwrap_or_default();
        lease.spec = Some(wanted.clone());
        lease.metadata.name = Some(self.config.name.clone());
        lease.metadata.namespace = Some(self.config.namespace.clone());
        let written = if create {
            self.store.create(lease).await
        } else {
            self.store.update(lease).await
        };
        match written {
            Ok(lease) => {
                self.observe(lease);
                Ok(true)
            }
            Err(error) => {
                // Somebody wrote in between, or our write arrived and its answer did not: look before the next try.
                let Ok(lease) = self.store.get().await else {
                    return Err(error);
                };
                let arrived = lease.spec.as_ref() == Some(&wanted);
                self.observe(lease);
                if arrived { Ok(true) } else { Err(error) }
            }
        }
    }

    async fn release(&mut self) {
        if !self.holds() {
            return;
        }
        let Some(mut lease) = self.lease.take() else { return };
        let transitions = lease.spec.as_ref().and_then(|s| s.lease_transitions);
        let now = MicroTime(self.now());
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            lease_transitions: transitions,
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            ..LeaseSpec::default()
        });
        if let Err(error) = self.store.update(lease).await {
            warn!(%error, "Failed to release the lease");
        }
    }
}

/// Competes until `stop` or until the lease is held; then runs `work` until it is lost, `stop`, or the work's end.
/// `work` gets a token that is cancelled when leading ends.
pub async fn run<W, Fut>(
    config: &Config,
    store: &dyn LeaseStore,
    wall: &(dyn Fn() -> Timestamp + Send + Sync),
    recorder: Option<&Recorder>,
    stop: CancellationToken,
    work: W,
) -> Outcome
where
    W: FnOnce(CancellationToken) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let mut candidate = Candidate {
        config,
        store,
        wall,
        lease: None,
        changed: Instant::now(),
        reported: String::new(),
    };
    info!(lease = %format_args!("{}/{}", config.namespace, config.name), "attempting to acquire leader lease...");
    loop {
        let attempt = tokio::select! {
            attempt = candidate.attempt() => attempt,
            () = stop.cancelled() => return Outcome::Released,
        };
        match attempt {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) => warn!(%error, "error retrieving or writing the leader lease"),
        }
        let pause = config.retry_period.mul_f64(1.0 + 1.2 * rand::random::<f64>());
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return Outcome::Released,
        }
    }
    info!(identity = %config.identity, "successfully acquired lease");
    announce(config, recorder, "became leader");
    let leading = stop.child_token();
    let mut work = tokio::spawn(work(leading.clone()));
    let outcome = hold(&mut candidate, &stop, &mut work).await;
    leading.cancel();
    announce(config, recorder, "stopped leading");
    match outcome {
        Outcome::Lost => warn!("leaderelection lost"),
        Outcome::Released => {
            // The work ends before the lease is given away; it has been told to.
            if tokio::time::timeout(config.renew_deadline, &mut work).await.is_err() {
                work.abort();
            }
            candidate.release().await;
        }
        Outcome::WorkEnded => candidate.release().await,
    }
    outcome
}

async fn hold(
    candidate: &mut Candidate<'_>,
    stop: &CancellationToken,
    work: &mut tokio::task::JoinHandle<()>,
) -> Outcome {
    let mut deadline = Instant::now() + candidate.config.renew_deadline;
    loop {
        let started = Instant::now();
        tokio::select! {
            renewed = candidate.attempt() => match renewed {
                Ok(true) => deadline = started + candidate.config.renew_deadline,
                Ok(false) => return Outcome::Lost,
                Err(error) => warn!(%error, "failed to renew lease"),
            },
            () = tokio::time::sleep_until(deadline) => return Outcome::Lost,
            () = stop.cancelled() => return Outcome::Released,
            _ = &mut *work => return Outcome::WorkEnded,
        }
        tokio::select! {
            () = tokio::time::sleep(candidate.config.retry_period) => {}
            () = tokio::time::sleep_until(deadline) => return Outcome::Lost,
            () = stop.cancelled() => return Outcome::Released,
            _ = &mut *work => return Outcome::WorkEnded,
        }
    }
}

fn announce(config: &Config, recorder: Option<&Recorder>, what: &str) {
    let Some(recorder) = recorder else { return };
    let lease = ObjectReference {
        api_version: Some("coordination.k8s.io/v1".into()),
        kind: Some("Lease".into()),
        name: Some(config.name.clone()),
        namespace: Some(config.namespace.clone()),
        ..ObjectReference::default()
    };
    recorder.event(
        &lease,
        EventType::Normal,
        "LeaderElection",
        &format!("{} {what}", config.identity),
    );
}

#[cfg(test)]
mod tests;
