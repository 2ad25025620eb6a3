//! Liveness, readiness and startup probes of one pod's containers.
//!
//! Owner: the pod's worker, which calls [`Probes::sync`] after each observation and reads [`Probes::results`] before
//! each decision. One task per probe of a running container; a task dies with its container. A verdict that changes
//! wakes the worker.

pub mod count;
pub mod counts;
pub mod http;
pub mod tcp;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use steersman_cri::Runtime;
use steersman_types::IntOrString;
use steersman_types::api::core::v1::{Container, Pod, Probe};
use steersman_types::jiff::Timestamp;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::events::PodEvents;
use crate::pod;
use crate::pod::seen::{ContainerSeen, PodSeen, ProbesSeen};
use count::Counter;
use counts::{Probed, Which};

/// What a single run of a probe said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// Success, with something to tell.
    Warning(String),
    Failure(String),
    /// The probe itself could not be made: says nothing about the container, does not count.
    Error(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }

    fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

type Results = Arc<Mutex<BTreeMap<String, ProbesSeen>>>;

/// The probes of one pod.
pub struct Probes {
    runtime: Arc<dyn Runtime>,
    results: Results,
    tasks: HashMap<(String, ProbeKind), AbortHandle>,
    wake: Arc<Notify>,
    probed: Arc<Probed>,
    /// Of the pod, once something of it runs.
    uid: String,
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.tasks.values().for_each(AbortHandle::abort);
        self.probed.forget(&self.uid);
    }
}

impl Probes {
    #[must_use]
    pub fn new(runtime: Arc<dyn Runtime>, wake: Arc<Notify>, probed: Arc<Probed>) -> Self {
        Self {
            probed,
            uid: String::new(),
            runtime,
            results: Results::default(),
            tasks: HashMap::new(),
            wake,
        }
    }

    /// Verdicts so far, by container id.
    #[must_use]
    pub fn results(&self) -> BTreeMap<String, ProbesSeen> {
        self.results.lock().clone()
    }

    /// A container that an earlier run of the agent already reported as started does not go through startup again.
    pub fn assume_started(&self, container_id: &str) {
        self.results.lock().entry(container_id.to_owned()).or_default().startup = Some(true);
    }

    /// Starts and stops tasks so that they fit what runs. While the pod is stopping only readiness is probed.
    pub fn sync(&mut self, pod: &Pod, seen: &PodSeen, stopping: bool, events: &PodEvents) {
        pod::uid(pod).clone_into(&mut self.uid);
        let live: Vec<&ContainerSeen> = seen.containers.iter().filter(|c| c.is_running()).collect();
        self.tasks.retain(|(id, kind), task| {
            let keep = live.iter().any(|c| c.id == *id) && !(stopping && *kind != ProbeKind::Readiness);
            if !keep {
                task.abort();
            }
            keep && !task.is_finished()
        });
        self.results
            .lock()
            .retain(|id, _| seen.containers.iter().any(|c| c.id == *id));
        for seen_container in live {
            let Some((_, container)) = pod::find_container(pod, &seen_container.name) else {
                continue;
            };
            let known = self.results.lock().get(&seen_container.id).copied().unwrap_or_default();
            let started = container.startup_probe.is_none() || known.startup == Some(true);
            for kind in [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness] {
                let due = match kind {
                    ProbeKind::Startup => known.startup.is_none(),
                    // A verdict against a container is final: it is about to be stopped.
                    ProbeKind::Liveness => started && known.liveness != Some(false),
                    ProbeKind::Readiness => started,
                };
                let key = (seen_container.id.clone(), kind);
                if !due || (stopping && kind != ProbeKind::Readiness) || self.tasks.contains_key(&key) {
                    continue;
                }
                let Some(probe) = kind.of(&container) else { continue };
                let ips = seen
                    .sandboxes
                    .iter()
                    .find(|s| s.id == seen_container.sandbox)
                    .map(|s| s.ips.clone());
                let ips = ips
                    .filter(|ips| !ips.is_empty())
                    .unwrap_or_else(|| seen.host_ips.clone());
                let target = Target {
                    id: seen_container.id.clone(),
                    container: container.clone(),
                    probe: probe.clone(),
                    ip: ips.first().cloned().unwrap_or_default(),
                    started: seen_container.started.unwrap_or(seen.now),
                };
                let task = Task {
                    probed: self.probed.clone(),
                    which: Which {
                        uid: pod::uid(pod).into(),
                        namespace: pod::namespace(pod).into(),
                        pod: pod::name(pod).into(),
                        container: container.name.clone(),
                        kind: kind.name(),
                    },
                    kind,
                    target,
                    runtime: self.runtime.clone(),
                    results: self.results.clone(),
                    wake: self.wake.clone(),
                    events: events.clone(),
                };
                self.tasks.insert(key, tokio::spawn(task.run()).abort_handle());
            }
        }
    }
}

/// What is probed, and how.
#[derive(Clone)]
pub struct Target {
    pub id: String,
    pub container: Container,
    pub probe: Probe,
    pub ip: String,
    pub started: Timestamp,
}

struct Task {
    probed: Arc<Probed>,
    which: Which,
    kind: ProbeKind,
    target: Target,
    runtime: Arc<dyn Runtime>,
    results: Results,
    wake: Arc<Notify>,
    events: PodEvents,
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(
        value
            .and_then(|v| u64::try_from(v).ok())
            .filter(|v| *v > 0)
            .unwrap_or(default),
    )
}

impl Task {
    async fn run(self) {
        let probe = &self.target.probe;
        let period = seconds(probe.period_seconds, 10);
        let age = Timestamp::now().duration_since(self.target.started).unsigned_abs();
        let delay = Duration::from_secs(u64::try_from(probe.initial_delay_seconds.unwrap_or(0)).unwrap_or(0));
        tokio::time::sleep(delay.saturating_sub(age)).await;
        let mut counter = Counter::new(probe.failure_threshold, probe.success_threshold);
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let begun = Instant::now();
            let outcome = once(self.runtime.as_ref(), &self.target).await;
            let result = match outcome {
                Outcome::Success | Outcome::Warning(_) => "successful",
                Outcome::Failure(_) => "failed",
                Outcome::Error(_) => "unknown",
            };
            self.probed.count(&self.which, result, begun.elapsed());
            self.report(&outcome);
            let good = match outcome {
                Outcome::Success | Outcome::Warning(_) => true,
                Outcome::Failure(_) => false,
                Outcome::Error(_) => continue,
            };
            if let Some(verdict) = counter.count(good)
                && self.store(verdict)
            {
                self.wake.notify_one();
            }
            let settled = self.results.lock().get(&self.target.id).copied().unwrap_or_default();
            match self.kind {
                ProbeKind::Startup if settled.startup.is_some() => return,
                ProbeKind::Liveness if settled.liveness == Some(false) => return,
                _ => {}
            }
        }
    }

    /// Tells whether the verdict is new.
    fn store(&self, verdict: bool) -> bool {
        let mut results = self.results.lock();
        let entry = results.entry(self.target.id.clone()).or_default();
        let slot = match self.kind {
            ProbeKind::Startup => &mut entry.startup,
            ProbeKind::Liveness => &mut entry.liveness,
            ProbeKind::Readiness => &mut entry.readiness,
        };
        let new = *slot != Some(verdict);
        *slot = Some(verdict);
        new
    }

    fn report(&self, outcome: &Outcome) {
        let (name, kind) = (Some(self.target.container.name.as_str()), self.kind.name());
        match outcome {
            Outcome::Success => {}
            Outcome::Warning(text) => {
                self.events
                    .warning(name, "ProbeWarning", &format!("{kind} probe warning: {text}"))
            }
            Outcome::Failure(text) => self
                .events
                .warning(name, "Unhealthy", &format!("{kind} probe failed: {text}")),
            Outcome::Error(text) => {
                let message = format!("{kind} probe errored and resulted in unknown state: {text}");
                self.events.warning(name, "Unhealthy", &message);
            }
        }
    }
}

/// One run of a probe.
pub async fn once(runtime: &dyn Runtime, target: &Target) -> Outcome {
    let probe = &target.probe;
    let timeout = seconds(probe.timeout_seconds, 1);
    if let Some(exec) = &probe.exec {
        return run_command(runtime, target, exec.command.as_deref().unwrap_or_default(), timeout).await;
    }
    if let Some(get) = &probe.http_get {
        let Some(port) = port_of(&get.port, &target.container) else {
            return unknown_port(&get.port);
        };
        let host = get.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(&target.ip);
        let headers = get
            .http_headers
            .iter()
            .flatten()
            .map(|h| (h.name.clone(), h.value.clone()))
            .collect();
        let https = get.scheme.as_deref() == Some("HTTPS");
        let request = http::Get {
            https,
            host: host.into(),
            port,
            path: get.path.clone().unwrap_or_default(),
            headers,
        };
        return http::probe(&request, timeout).await;
    }
    if let Some(tcp) = &probe.tcp_socket {
        let Some(port) = port_of(&tcp.port, &target.container) else {
            return unknown_port(&tcp.port);
        };
        let host = tcp.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(&target.ip);
        return tcp::probe(host, port, timeout).await;
    }
    if let Some(grpc) = &probe.grpc {
        let port = u16::try_from(grpc.port).unwrap_or(0);
        return crate::probes::tcp::grpc(&target.ip, port, grpc.service.as_deref().unwrap_or_default(), timeout).await;
    }
    Outcome::Error(format!("missing probe handler for {}", target.container.name))
}

async fn run_command(runtime: &dyn Runtime, target: &Target, command: &[String], timeout: Duration) -> Outcome {
    match runtime.exec_sync(&target.id, command, timeout).await {
        Ok(done) => {
            let mut output = done.stdout;
            output.extend_from_slice(&done.stderr);
            // Upstream keeps 10 KB of a probe's output.
            output.truncate(10 << 10);
            let text = String::from_utf8_lossy(&output).into_owned();
            if done.exit_code == 0 {
                Outcome::Success
            } else {
                Outcome::Failure(text)
            }
        }
        Err(e) if e.is_timeout() => Outcome::Failure(format!(
            "command timed out: {:?} timed out after {}s",
            command.join(" "),
            timeout.as_secs()
        )),
        Err(e) => Outcome::Error(e.to_string()),
    }
}

fn unknown_port(port: &IntOrString) -> Outcome {
    match port {
        IntOrString::Int(n) => Outcome::Error(format!("invalid port number: {n}")),
        IntOrString::String(name) => Outcome::Error(format!("couldn't find port: {name:?}")),
    }
}

/// A port by number, or by the name that the container gave it.
#[must_use]
pub fn port_of(port: &IntOrString, container: &Container) -> Option<u16> {
    let number = match port {
        IntOrString::Int(n) => *n,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_ref() == Some(name));
            named.map(|p| p.container_port).or_else(|| name.parse().ok())?
        }
    };
    u16::try_from(number).ok().filter(|n| *n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Sink;
    use crate::pod::seen::{SandboxSeen, State};
    use steersman_cri::fake::Fake;
    use steersman_types::Typed;

    fn pod(probe: &str, value: serde_json::Value) -> Pod {
        let mut container = serde_json::json!({"name": "c"});
        container[probe] = value;
        let pod = serde_json::json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [container]}});
        Pod::from_value(&pod).unwrap()
    }

    fn running() -> PodSeen {
        let container = ContainerSeen {
            id: "c1".into(),
            name: "c".into(),
            sandbox: "s".into(),
            state: State::Running,
            started: Some(Timestamp::now()),
            ..Default::default()
        };
        let sandbox = SandboxSeen {
            id: "s".into(),
            ready: true,
            ips: vec!["127.0.0.1".into()],
            ..Default::default()
        };
        PodSeen {
            containers: vec![container],
            sandboxes: vec![sandbox],
            ..Default::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_liveness_probe_gives_its_verdict_after_the_threshold_and_then_rests() {
        let fake = Fake::default();
        fake.on_exec("check", 1, "broken");
        let pod = pod(
            "livenessProbe",
            serde_json::json!({"exec": {"command": ["check"]}, "periodSeconds": 5, "failureThreshold": 3}),
        );
        let kept = Arc::new(Mutex::new(Vec::new()));
        let events = PodEvents::new(Sink::Kept(kept.clone()), &pod);
        let wake = Arc::new(Notify::new());
        let mut probes = Probes::new(Arc::new(fake.clone()), wake.clone(), Arc::default());
        let begun = tokio::time::Instant::now();
        probes.sync(&pod, &running(), false, &events);
        wake.notified().await;
        assert_eq!(
            begun.elapsed().as_secs(),
            10,
            "three runs, five seconds apart, the first at once"
        );
        assert_eq!(probes.results()["c1"].liveness, Some(false));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(fake.calls().len(), 3);
        assert_eq!(
            kept.lock()[0],
            (
                "Warning".into(),
                "Unhealthy".into(),
                "Liveness probe failed: broken".into()
            )
        );
    }

    #[tokio::test(start_paused = true)]
    async fn readiness_waits_for_startup() {
        let fake = Fake::default();
        fake.on_exec("ok", 0, "");
        let exec = serde_json::json!({"exec": {"command": ["ok"]}});
        let mut pod = pod("readinessProbe", exec.clone());
        if let Some(spec) = pod.spec.as_mut() {
            spec.containers[0].startup_probe = pod_probe(&exec);
        }
        let events = PodEvents::new(Sink::Kept(Arc::default()), &pod);
        let wake = Arc::new(Notify::new());
        let mut probes = Probes::new(Arc::new(fake.clone()), wake.clone(), Arc::default());
        probes.sync(&pod, &running(), false, &events);
        wake.notified().await;
        assert_eq!(
            probes.results()["c1"],
            ProbesSeen {
                startup: Some(true),
                liveness: None,
                readiness: None
            }
        );
        probes.sync(&pod, &running(), false, &events);
        wake.notified().await;
        assert_eq!(probes.results()["c1"].readiness, Some(true));
    }

    fn pod_probe(value: &serde_json::Value) -> Option<Probe> {
        serde_json::from_value(value.clone()).ok()
    }
}
