//! The task of one pod: observe, report, decide, act, wait. The only place of this folder that awaits between decisions.
//!
//! Started by [`crate::pods`] for every pod of the node, ended when the pod is gone from the API and from the runtime.
//! Reasons to wake are listed in `Worker::wait`. What stays true: one worker per pod uid; steps are taken one at a
//! time, removals first; a failed step is tried again in a later round and never skipped.

mod end;
mod resize;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use steersman_types::api::core::v1::{Pod, PodCondition, PodStatus};
use steersman_types::jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, watch};

use super::backoff::Backoff;
use super::decide::{PodPlan, decide};
use super::observe::{Observer, logged_attempts, restored_backoff};
use super::resize::Sizes;
use super::seen::{Ending, PodSeen, Trouble};
use super::{start, status, stop};
use crate::context::Context;
use crate::env::fields::PodFields;
use crate::events::PodEvents;
use crate::probes::Probes;
use crate::report::Reporter;
use crate::runtime::sandbox::{SandboxInputs, log_directory, sandbox_config};
use crate::volumes::MountedVolumes;

/// After a failed step; upstream's back-off for a pod's synchronisation.
const RETRY: Duration = Duration::from_secs(2);
/// Sandbox that could not be made: more is wrong than a moment's trouble.
const RETRY_SANDBOX: Duration = Duration::from_secs(5);

/// What the pod manager tells a worker.
#[derive(Debug, Clone)]
pub struct Assigned {
    pub pod: Arc<Pod>,
    /// The object no longer exists.
    pub gone: bool,
    /// The node ends the pod by itself.
    pub evicted: Option<Arc<Evicted>>,
}

/// Why, and how, the node ends a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Evicted {
    /// Reason and message of the pod's status.
    pub why: Trouble,
    /// Seconds between the stop signal and the end.
    pub grace: i64,
    /// Shown once the pod has ended.
    pub condition: Option<PodCondition>,
}

impl Assigned {
    /// Seconds that the pod's containers get to stop: whoever is in a greater hurry decides.
    fn grace(&self) -> i64 {
        let own = stop::grace(&self.pod);
        self.evicted.as_ref().map_or(own, |e| own.min(e.grace))
    }

    fn ends(&self) -> bool {
        self.gone || self.evicted.is_some() || self.pod.metadata.deletion_timestamp.is_some()
    }
}

/// See the module.
pub struct Worker {
    context: Arc<Context>,
    assigned: watch::Receiver<Assigned>,
    wake: Arc<Notify>,
    observer: Observer,
    probes: Probes,
    reporter: Reporter,
    backoff: BTreeMap<String, Backoff>,
    trouble: BTreeMap<String, Trouble>,
    failed: Option<Trouble>,
    /// Set once nothing of the pod runs any more and nothing will.
    stopped: bool,
    /// Volumes and control group are gone.
    released: bool,
    volumes: MountedVolumes,
    refreshed: Option<Instant>,
    first_round: bool,
    /// Containers were stopped to be started at once: nothing is reported in between, as upstream does not either.
    restarting: bool,
    /// `None` before the first round.
    sizes: Option<Sizes>,
    /// Conditions of a change of resources: not agreed to, not complete.
    pending: Option<PodCondition>,
    resizing: Option<PodCondition>,
}

enum Next {
    Again,
    After(Duration),
    /// Nothing to do until something happens.
    Idle,
    Finished,
}

impl Worker {
    /// `refused` is why the node does not take the pod, if so.
    #[must_use]
    pub fn new(
        context: Arc<Context>,
        assigned: watch::Receiver<Assigned>,
        wake: Arc<Notify>,
        refused: Option<Trouble>,
    ) -> Self {
        let pod = assigned.borrow().pod.clone();
        Self {
            observer: Observer::default(),
            probes: Probes::new(context.runtime.clone(), wake.clone(), context.probed.clone()),
            reporter: Reporter::start(context.api.clone(), pod),
            backoff: BTreeMap::new(),
            trouble: BTreeMap::new(),
            failed: refused,
            stopped: false,
            released: false,
            volumes: MountedVolumes::new(),
            refreshed: None,
            first_round: true,
            restarting: false,
            sizes: None,
            pending: None,
            resizing: None,
            context,
            assigned,
            wake,
        }
    }

    /// Runs until the pod is gone.
    pub async fn run(mut self) {
        loop {
            let mut now = self.assigned.borrow_and_update().clone();
            now.pod = self.allocate(&now.pod);
            match self.round(&now).await {
                Next::Finished => return,
                Next::Again => {}
                Next::After(pause) => self.wait(pause.min(self.context.sync_period)).await,
                Next::Idle => self.wait(self.context.sync_period).await,
            }
        }
    }

    async fn wait(&mut self, longest: Duration) {
        tokio::select! {
            // A container changed state, or a probe its verdict.
            () = self.wake.notified() => {}
            // The pod changed in the API.
            changed = self.assigned.changed() => {
                if changed.is_err() {
                    // The manager is gone: the program ends.
                    std::future::pending::<()>().await;
                }
            }
            // A change of resources waits for others to give back some.
            () = self.context.allocations.freed.notified(), if self.pending.is_some() => {}
            // A back-off or a retry is due, or it is time for a look without a reason.
            () = tokio::time::sleep(longest) => {}
        }
    }

    async fn round(&mut self, now: &Assigned) -> Next {
        let pod = &now.pod;
        let events = PodEvents::new(self.context.sink.clone(), pod);
        let seen = match self.look(now, &events).await {
            Ok(seen) => seen,
            Err(e) => {
                tracing::warn!(pod = %super::full_name(pod), error = %e, "The runtime does not answer");
                return Next::After(RETRY);
            }
        };
        let restarting = std::mem::take(&mut self.restarting);
        if !restarting {
            self.report(pod, &seen);
        }
        self.reporter.reconcile(pod);
        if seen.ending != Ending::No {
            return self.end(now, seen, &events).await;
        }
        let plan = decide(pod, &seen);
        if restarting && plan.start.is_empty() {
            self.report(pod, &seen);
        }
        for held in &plan.held {
            let before = self.trouble.insert(held.name.clone(), held.trouble.clone());
            if before.as_ref() != Some(&held.trouble) {
                let text = format!(
                    "Back-off restarting failed container {} in pod {}",
                    held.name,
                    super::full_name(pod)
                );
                events.warning(Some(&held.name), "BackOff", &text);
            }
        }
        if !plan.held.is_empty() {
            let seen = PodSeen {
                trouble: self.trouble.clone(),
                ..seen.clone()
            };
            self.report(pod, &seen);
        }
        // A pull or a postStart hook may take long: the pod's end does not wait for it.
        let mut assigned = self.assigned.clone();
        let ended = async {
            if assigned.wait_for(Assigned::ends).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            next = self.act(pod, &seen, plan, &events) => next,
            () = ended => Next::Again,
        }
    }

    /// One observation, with everything that this process knows besides.
    async fn look(&mut self, now: &Assigned, events: &PodEvents) -> Result<PodSeen, steersman_cri::CriError> {
        let pod = &now.pod;
        let context = self.context.clone();
        let mut seen = self
            .observer
            .observe(context.runtime.as_ref(), pod, &context.pod_logs)
            .await?;
        seen.now = context.now();
        seen.max_backoff_seconds = context.max_backoff_seconds;
        seen.host_ips.clone_from(&context.host_ips);
        if seen.containers.is_empty() || !seen.containers.iter().any(|c| c.is_running()) {
            seen.logged_attempts = logged_attempts(pod, &context.pod_logs);
        }
        if std::mem::take(&mut self.first_round) {
            self.resume(pod, &seen);
        }
        self.check_deadline(pod, &seen);
        if let Some(evicted) = &now.evicted
            && self.failed.is_none()
            && !self.over(pod)
        {
            self.failed = Some(evicted.why.clone());
        }
        seen.disrupted = now.evicted.as_ref().and_then(|e| e.condition.clone());
        seen.failed.clone_from(&self.failed);
        let ending = now.gone || pod.metadata.deletion_timestamp.is_some() || self.over(pod);
        seen.ending = match (ending || seen.failed.is_some(), self.stopped) {
            (_, true) => Ending::Stopped,
            (true, false) => Ending::Stopping,
            (false, false) => Ending::No,
        };
        self.trouble
            .retain(|name, _| !seen.container(name).is_some_and(super::seen::ContainerSeen::is_running));
        self.look_at_sizes(pod, &mut seen, events);
        seen.trouble = self.trouble.clone();
        seen.backoff = self.backoff.clone();
        self.probes.sync(pod, &seen, seen.ending != Ending::No, events);
        seen.probes = self.probes.results();
        Ok(seen)
    }

    /// Takes over what an earlier run of the agent left.
    fn resume(&mut self, pod: &Pod, seen: &PodSeen) {
        self.backoff = restored_backoff(seen);
        let reported = pod
            .status
            .iter()
            .flat_map(|s| s.container_statuses.iter().chain(&s.init_container_statuses).flatten());
        for status in reported.filter(|s| s.started == Some(true)) {
            let id = status
                .container_id
                .as_deref()
                .and_then(|id| id.split_once("://"))
                .map(|(_, id)| id);
            if let Some(running) = seen
                .containers
                .iter()
                .find(|c| c.is_running() && Some(c.id.as_str()) == id)
            {
                self.probes.assume_started(&running.id);
            }
        }
    }

    /// A pod that reached its end stays there.
    fn over(&self, pod: &Pod) -> bool {
        let phase = |s: &PodStatus| matches!(s.phase.as_deref(), Some("Succeeded" | "Failed"));
        pod.status.as_ref().is_some_and(phase) || phase(&self.reporter.latest())
    }

    fn check_deadline(&mut self, pod: &Pod, seen: &PodSeen) {
        let Some(limit) = super::spec(pod).active_deadline_seconds else {
            return;
        };
        let started = self
            .reporter
            .latest()
            .start_time
            .or_else(|| pod.status.as_ref()?.start_time.clone());
        let Some(started) = started else { return };
        if self.failed.is_none() && !self.over(pod) && seen.now.duration_since(started.0).as_secs() >= limit {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            PodEvents::new(self.context.sink.clone(), pod).normal(None, "DeadlineExceeded", &message);
            self.failed = Some(Trouble {
                reason: "DeadlineExceeded".into(),
                message,
            });
        }
    }

    fn report(&mut self, pod: &Pod, seen: &PodSeen) {
        let new = status::status(pod, seen, &self.reporter.latest());
        self.reporter.report(pod, new);
    }

    /// Carries out a plan: removals, then the sandbox, then containers.
    async fn act(&mut self, pod: &Pod, seen: &PodSeen, plan: PodPlan, events: &PodEvents) -> Next {
        let context = self.context.clone();
        if plan.kill_pod {
            if plan.create_sandbox.is_some() {
                events.normal(
                    None,
                    "SandboxChanged",
                    "Pod sandbox changed, it will be killed and re-created.",
                );
            }
            if let Err(e) = stop::pod(&context, pod, seen, stop::grace(pod), events).await {
                events.warning(None, "FailedKillPod", &format!("error killing pod: {e}"));
                return Next::After(RETRY);
            }
            return Next::Again;
        }
        if !plan.kill.is_empty() {
            let kills = plan
                .kill
                .iter()
                .map(|kill| stop::container(&context, pod, kill, seen, events));
            for stopped in futures::future::join_all(kills).await {
                if let Err(e) = stopped {
                    tracing::warn!(pod = %super::full_name(pod), error = %e, "Failed to stop a container");
                    return Next::After(RETRY);
                }
            }
            self.restarting = true;
            return Next::Again;
        }
        if let Some(attempt) = plan.create_sandbox {
            return self.make_sandbox(pod, seen, attempt, events).await;
        }
        if !plan.resize.is_empty() {
            return self.resize(pod, seen, &plan.resize, events).await;
        }
        if plan.start.is_empty() {
            self.tidy(pod, seen).await;
            self.refresh_volumes(pod, seen, events, false).await;
            return match plan.wake_at {
                Some(at) => Next::After(until(at, seen.now)),
                None => self.deadline(pod, seen).map_or(Next::Idle, Next::After),
            };
        }
        if self.volumes.is_empty() && !self.refresh_volumes(pod, seen, events, true).await {
            return Next::After(RETRY);
        }
        self.start_containers(pod, seen, &plan, events).await
    }

    fn deadline(&self, pod: &Pod, seen: &PodSeen) -> Option<Duration> {
        let limit = super::spec(pod).active_deadline_seconds?;
        let at = self
            .reporter
            .latest()
            .start_time?
            .0
            .checked_add(SignedDuration::from_secs(limit))
            .ok()?;
        Some(until(at, seen.now))
    }

    async fn make_sandbox(&mut self, pod: &Pod, seen: &PodSeen, attempt: u32, events: &PodEvents) -> Next {
        let context = self.context.clone();
        if attempt > 0 {
            self.purge_init(pod, seen).await;
        }
        if let Err(e) = context.volumes.make_pod_dirs(super::uid(pod)) {
            events.warning(None, "Failed", &format!("error making pod data directories: {e}"));
            return Next::After(RETRY);
        }
        if let Err(e) = context.cgroups.make_pod(pod) {
            let text = format!("unable to ensure pod container exists: {e}");
            events.warning(None, "FailedCreatePodContainer", &text);
            return Next::After(RETRY);
        }
        let handler = match super::spec(pod).runtime_class_name.as_deref() {
            None | Some("") => String::new(),
            Some(class) => match context.api.runtime_handler(class).await {
                Ok(handler) => handler,
                Err(e) => {
                    let text = format!("Failed to create pod sandbox: {e}");
                    events.warning(None, "FailedCreatePodSandBox", &text);
                    return Next::After(RETRY_SANDBOX);
                }
            },
        };
        let logs = log_directory(&context.pod_logs, pod);
        if let Err(e) = std::fs::create_dir_all(&logs) {
            let text = format!("Failed to create pod sandbox: create pod log directory: {e}");
            events.warning(None, "FailedCreatePodSandBox", &text);
            return Next::After(RETRY);
        }
        let config = sandbox_config(pod, &self.sandbox_inputs(pod, attempt));
        // Volumes need no sandbox and the sandbox no volumes: both at once save the slower one's time.
        let made = context.turns.sandbox(context.runtime.run_sandbox(config, &handler));
        let (made, mounted) = tokio::join!(made, self.refresh_volumes(pod, seen, events, true));
        if let Err(e) = made {
            events.warning(
                None,
                "FailedCreatePodSandBox",
                &format!("Failed to create pod sandbox: {e}"),
            );
            return Next::After(RETRY_SANDBOX);
        }
        if mounted { Next::Again } else { Next::After(RETRY) }
    }

    fn sandbox_inputs(&self, pod: &Pod, attempt: u32) -> SandboxInputs {
        SandboxInputs {
            attempt,
            cgroup_parent: self.context.cgroups.pod_path(pod),
            dns: crate::dns::pod_dns(pod, &self.context.dns),
            log_root: self.context.pod_logs.clone(),
            cluster_domain: self.context.cluster_domain.clone(),
        }
    }

    /// A new sandbox runs its init containers again, so the old ones must not count as done.
    async fn purge_init(&self, pod: &Pod, seen: &PodSeen) {
        for c in &seen.containers {
            if super::init_containers(pod).iter().any(|i| i.name == c.name) {
                let _ = self.context.runtime.remove_container(&c.id).await;
            }
        }
    }

    /// Makes volumes, or brings them up to date when it is time. Tells whether they are there.
    async fn refresh_volumes(&mut self, pod: &Pod, seen: &PodSeen, events: &PodEvents, must: bool) -> bool {
        let due = self.refreshed.is_none_or(|at| at.elapsed() >= self.context.sync_period);
        if !must && !due {
            return true;
        }
        if self.refreshed.is_none() {
            self.context.objects.forget(super::namespace(pod));
        }
        let ips = seen.sandboxes.first().map(|s| s.ips.clone()).unwrap_or_default();
        let fields = PodFields {
            pod,
            pod_ips: &ips,
            host_ips: &self.context.host_ips,
            allocatable: self.context.allocatable.clone(),
        };
        match self.context.volumes.setup(&fields).await {
            Ok(volumes) => {
                self.volumes = volumes;
                self.refreshed = Some(Instant::now());
                true
            }
            Err(errors) => {
                for error in errors {
                    events.warning(None, "FailedMount", &error.to_string());
                }
                false
            }
        }
    }

    async fn start_containers(&mut self, pod: &Pod, seen: &PodSeen, plan: &PodPlan, events: &PodEvents) -> Next {
        let Some(sandbox) = seen.sandboxes.first() else {
            return Next::Again;
        };
        let context = self.context.clone();
        let config = sandbox_config(pod, &self.sandbox_inputs(pod, sandbox.attempt));
        let ips = if super::is_host_network(pod) {
            &context.host_ips
        } else {
            &sandbox.ips
        };
        let place = start::Place {
            sandbox: &sandbox.id,
            config: &config,
            ips,
            volumes: &self.volumes,
        };
        // Containers that were stopped to get other resources: the group grows before they do and shrinks after them.
        let given = self.given(pod);
        if let Some(given) = &given
            && let Err(e) = context.cgroups.grow(given, pod)
        {
            tracing::warn!(pod = %super::full_name(pod), error = %e, "Failed to raise the limits of the pod");
            return Next::After(RETRY);
        }
        let mut failures = false;
        let mut started = Vec::new();
        for wanted in &plan.start {
            match start::start(&context, pod, wanted, &place, seen, events).await {
                Ok(()) => {
                    self.trouble.remove(&wanted.name);
                    started.push(wanted.name.clone());
                }
                Err(trouble) => {
                    tracing::info!(pod = %super::full_name(pod), container = %wanted.name, reason = %trouble.reason,
                        message = %trouble.message, "Container did not start");
                    failures = true;
                    self.trouble.insert(wanted.name.clone(), trouble);
                }
            }
            if let Some(failed) = wanted.failed {
                let max = SignedDuration::from_secs(context.max_backoff_seconds);
                let next = Backoff::next(self.backoff.get(&wanted.name), failed, seen.now, max);
                self.backoff.insert(wanted.name.clone(), next);
            }
        }
        if let Some(given) = &given
            && let Err(e) = context.cgroups.shrink(given, pod)
        {
            tracing::warn!(pod = %super::full_name(pod), error = %e, "Failed to lower the limits of the pod");
        }
        self.started_with_sizes(pod, &started);
        if !failures {
            return Next::Again;
        }
        let seen = PodSeen {
            trouble: self.trouble.clone(),
            ..seen.clone()
        };
        self.report(pod, &seen);
        let pull = context
            .images
            .next_try(pod)
            .map(|at| until(at, context.now()).max(RETRY));
        Next::After(pull.unwrap_or(RETRY_SANDBOX * 2))
    }
}

fn until(at: Timestamp, now: Timestamp) -> Duration {
    // A little later rather than a little too early.
    Duration::try_from(at.duration_since(now)).unwrap_or_default() + Duration::from_millis(10)
}

#[cfg(test)]
mod tests;
