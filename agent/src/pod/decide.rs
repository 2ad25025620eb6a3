//! What to do about a pod, given what is seen of it.
//!
//! Called by the pod's worker each round, and again after each round that changed something, until nothing is left to
//! do. Pure: no clock, no runtime, no log. What stays true: at most one running instance per container name; a main
//! container starts only after every init container has done its part; nothing starts in a pod that is ending; a
//! container's restart count only grows.

use steersman_types::api::core::v1::{Container, Pod};
use steersman_types::jiff::{SignedDuration, Timestamp};

use super::backoff::go_seconds;
use super::resize::{self, Step};
use super::restart;
use super::seen::{ContainerSeen, Ending, PodSeen, State, Trouble};
use super::{Kind, full_name, is_sidecar};
use crate::runtime::labels::container_hash;

/// The steps of one round, in the order in which they are taken: removal before addition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodPlan {
    /// Stop everything of the pod, its sandboxes too.
    pub kill_pod: bool,
    /// Single containers to stop.
    pub kill: Vec<Kill>,
    /// Sandbox attempt to make.
    pub create_sandbox: Option<u32>,
    /// The sandbox is replaced (as opposed to made for the first time).
    pub sandbox_changed: bool,
    /// Running containers whose resources are to be changed.
    pub resize: Vec<String>,
    /// Containers to start, in order.
    pub start: Vec<Start>,
    /// Containers that wait in back-off.
    pub held: Vec<Held>,
    /// When this decision must be taken again though nothing changed.
    pub wake_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    pub id: String,
    pub name: String,
    pub message: String,
    pub why: Why,
}

/// Why a container is stopped; decides its grace period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    Liveness,
    Startup,
    Changed,
    Unknown,
    /// Its new resources need a new start.
    Resize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    pub name: String,
    pub kind: Kind,
    pub restart_count: i32,
    /// When the previous instance ended, if it did: the start counts for the back-off.
    pub failed: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub name: String,
    pub until: Timestamp,
    /// Reason and message of the container's waiting state.
    pub trouble: Trouble,
}

/// Takes the decision.
#[must_use]
pub fn decide(pod: &Pod, seen: &PodSeen) -> PodPlan {
    let mut plan = PodPlan::default();
    if seen.ending != Ending::No || pod.metadata.deletion_timestamp.is_some() || seen.failed.is_some() {
        plan.kill_pod = seen.ending != Ending::Stopped && anything_left(seen);
        return plan;
    }
    let (changed, attempt) = sandbox_changed(pod, seen);
    if changed {
        new_sandbox(pod, seen, attempt, &mut plan);
    } else {
        keep_sandbox(pod, seen, &mut plan);
    }
    plan
}

/// Does the pod need a (new) sandbox, and which attempt would it be?
#[must_use]
pub fn sandbox_changed(pod: &Pod, seen: &PodSeen) -> (bool, u32) {
    let Some(newest) = seen.sandboxes.first() else {
        return (true, 0);
    };
    let several = seen.sandboxes.iter().filter(|s| s.ready).count() > 1;
    let without_address = !super::is_host_network(pod) && newest.ips.is_empty();
    if several || !newest.ready || without_address {
        (true, newest.attempt + 1)
    } else {
        (false, newest.attempt)
    }
}

fn anything_left(seen: &PodSeen) -> bool {
    seen.sandboxes.iter().any(|s| s.ready)
        || seen
            .containers
            .iter()
            .any(|c| c.is_running() || c.state == State::Unknown)
}

fn new_sandbox(pod: &Pod, seen: &PodSeen, attempt: u32, plan: &mut PodPlan) {
    plan.kill_pod = anything_left(seen);
    if super::restart_policy(pod) == "Never" && attempt != 0 && !seen.containers.is_empty() {
        return;
    }
    let succeeded = |c: &Container| {
        seen.container(&c.name)
            .and_then(ContainerSeen::exit)
            .is_some_and(|e| e.code == 0)
    };
    let policy = |c: &Container| {
        c.restart_policy
            .clone()
            .unwrap_or_else(|| super::restart_policy(pod).into())
    };
    let to_start: Vec<_> = super::main_containers(pod)
        .iter()
        .filter(|c| !(policy(c) == "OnFailure" && succeeded(c)))
        .collect();
    if to_start.is_empty() {
        return;
    }
    plan.create_sandbox = Some(attempt);
    plan.sandbox_changed = attempt > 0;
    // Containers follow in the next round, once the sandbox is seen to be there.
}

fn keep_sandbox(pod: &Pod, seen: &PodSeen, plan: &mut PodPlan) {
    for c in super::ephemeral_containers(pod) {
        if seen.container(&c.name).is_none() && !seen.trouble.contains_key(&c.name) {
            start(pod, &c, Kind::Ephemeral, seen, plan);
        }
    }
    match init_containers(pod, seen, plan) {
        Progress::Failed => plan.kill_pod = anything_left(seen),
        Progress::Underway => {}
        Progress::Done { sidecars } => {
            let kept = main_containers(pod, seen, plan);
            if kept || plan.start.iter().any(|s| s.kind == Kind::Main) || plan.held.iter().any(|_| true) {
                for c in sidecars {
                    start(pod, c, Kind::Init, seen, plan);
                }
            } else {
                // Sidecars alone do not keep a pod alive.
                plan.start.clear();
                plan.kill.clear();
                plan.kill_pod = anything_left(seen);
            }
        }
    }
    plan.start.sort_by_key(|s| s.kind);
    if !plan.kill_pod && plan.kill.is_empty() {
        let updates = resize::unfinished(pod, seen).into_iter();
        plan.resize = updates
            .filter(|(_, s)| *s == Step::Update)
            .map(|(name, _)| name)
            .collect();
    }
}

enum Progress<'a> {
    /// An init container failed for good: the pod is over.
    Failed,
    Underway,
    /// Main containers may run; these sidecars must be started again.
    Done {
        sidecars: Vec<&'a Container>,
    },
}

fn init_containers<'a>(pod: &'a Pod, seen: &PodSeen, plan: &mut PodPlan) -> Progress<'a> {
    let init = super::init_containers(pod);
    // Finished init containers may have been removed from the runtime, so any sign of a later one counts.
    let main_seen = super::main_containers(pod)
        .iter()
        .any(|c| seen.container(&c.name).is_some());
    let reached = init.iter().rposition(|c| seen.container(&c.name).is_some());
    let mut sidecars = Vec::new();
    let mut next = 0;
    for (i, c) in init.iter().enumerate() {
        let last = seen.container(&c.name);
        let passed = main_seen || reached.is_some_and(|r| r > i);
        if is_sidecar(c) {
            let started = sidecar(pod, c, last, seen, plan, &mut sidecars);
            if !started && !passed {
                return underway(pod, init, sidecars, next, seen, plan);
            }
            next = i + 1;
            continue;
        }
        if passed && !last.is_some_and(ContainerSeen::is_running) {
            next = i + 1;
            continue;
        }
        match last.map(|c| &c.state) {
            Some(State::Exited(exit)) if exit.code == 0 => next = i + 1,
            Some(State::Exited(exit)) if !restart::after_exit(c, pod, exit.code) => return Progress::Failed,
            Some(State::Running) => return running(pod, sidecars, seen, plan),
            Some(State::Unknown) => {
                kill_unknown(c, last, plan);
                return running(pod, sidecars, seen, plan);
            }
            None | Some(State::Created | State::Exited(_)) => {
                return underway(pod, init, sidecars, i, seen, plan);
            }
        }
    }
    if next < init.len() {
        underway(pod, init, sidecars, next, seen, plan)
    } else {
        Progress::Done { sidecars }
    }
}

/// An init container is at work: only the sidecars before it may need care.
fn running<'a>(pod: &'a Pod, sidecars: Vec<&'a Container>, seen: &PodSeen, plan: &mut PodPlan) -> Progress<'a> {
    for c in sidecars {
        start(pod, c, Kind::Init, seen, plan);
    }
    Progress::Underway
}

/// Starts the init container that is next, if it is not a sidecar that is merely not ready yet.
fn underway<'a>(
    pod: &'a Pod,
    init: &'a [Container],
    sidecars: Vec<&'a Container>,
    next: usize,
    seen: &PodSeen,
    plan: &mut PodPlan,
) -> Progress<'a> {
    let already: Vec<_> = sidecars.iter().map(|c| c.name.clone()).collect();
    for c in sidecars {
        start(pod, c, Kind::Init, seen, plan);
    }
    if let Some(c) = init.get(next)
        && !already.contains(&c.name)
        && !seen.container(&c.name).is_some_and(ContainerSeen::is_running)
    {
        start(pod, c, Kind::Init, seen, plan);
    }
    Progress::Underway
}

/// Looks after one sidecar; tells whether the next init container may start.
fn sidecar<'a>(
    pod: &Pod,
    c: &'a Container,
    last: Option<&ContainerSeen>,
    seen: &PodSeen,
    plan: &mut PodPlan,
    again: &mut Vec<&'a Container>,
) -> bool {
    let Some(last) = last else {
        again.push(c);
        return false;
    };
    match last.state {
        State::Running => {
            let probes = seen.probes_of(last);
            if c.startup_probe.is_some() && probes.startup != Some(true) {
                if probes.startup == Some(false) {
                    plan.kill.push(kill(
                        c,
                        last,
                        format!("Init container {} failed startup probe", c.name),
                        Why::Startup,
                    ));
                }
                return false;
            }
            if container_hash(c) != last.hash && !last.hash.is_empty() {
                plan.kill.push(kill(
                    c,
                    last,
                    format!("Init container {} definition changed", c.name),
                    Why::Changed,
                ));
            } else if needs_restart(pod, c, seen) {
                let message = format!("Container {} resize requires restart", c.name);
                plan.kill.push(kill(c, last, message, Why::Resize));
            } else if c.liveness_probe.is_some() && probes.liveness == Some(false) {
                plan.kill.push(kill(
                    c,
                    last,
                    format!("Init container {} failed liveness probe", c.name),
                    Why::Liveness,
                ));
            }
            true
        }
        State::Unknown => {
            kill_unknown(c, Some(last), plan);
            false
        }
        State::Created | State::Exited(_) => {
            again.push(c);
            false
        }
    }
}

/// Looks after the main containers; tells whether one is kept running.
fn main_containers(pod: &Pod, seen: &PodSeen, plan: &mut PodPlan) -> bool {
    let mut kept = false;
    for c in super::main_containers(pod) {
        let last = seen.container(&c.name);
        let Some(running) = last.filter(|l| l.is_running()) else {
            if restart::wanted(c, pod, seen) {
                if last.is_some_and(|l| l.state == State::Unknown) {
                    kill_unknown(c, last, plan);
                    kept = true;
                } else {
                    start(pod, c, Kind::Main, seen, plan);
                }
            }
            continue;
        };
        let probes = seen.probes_of(running);
        let (why, message) = if container_hash(c) != running.hash && !running.hash.is_empty() {
            (Why::Changed, format!("Container {} definition changed", c.name))
        } else if c.liveness_probe.is_some() && probes.liveness == Some(false) {
            (Why::Liveness, format!("Container {} failed liveness probe", c.name))
        } else if c.startup_probe.is_some() && probes.startup == Some(false) {
            (Why::Startup, format!("Container {} failed startup probe", c.name))
        } else if needs_restart(pod, c, seen) {
            let message = format!("Container {} resize requires restart", c.name);
            plan.kill.push(kill(c, running, message, Why::Resize));
            kept = true;
            continue;
        } else {
            kept = true;
            continue;
        };
        let again = why == Why::Changed || restart::after_kill(c, pod);
        let message = if again {
            format!("{message}, will be restarted")
        } else {
            message
        };
        plan.kill.push(kill(c, running, message, why));
        kept = kept || again;
    }
    kept
}

fn needs_restart(pod: &Pod, c: &Container, seen: &PodSeen) -> bool {
    resize::step(pod, c, seen.actuated.get(&c.name)) == Some(Step::Restart)
}

fn kill(c: &Container, last: &ContainerSeen, message: String, why: Why) -> Kill {
    Kill {
        id: last.id.clone(),
        name: c.name.clone(),
        message,
        why,
    }
}

/// Whether such a container still runs is not known: stop it, so that there are never two.
fn kill_unknown(c: &Container, last: Option<&ContainerSeen>, plan: &mut PodPlan) {
    if let Some(last) = last {
        let message = "Container is in \"unknown\" state, try killing it before restart".to_owned();
        plan.kill.push(kill(c, last, message, Why::Unknown));
    }
}

/// Starts a container now, or holds it until its back-off is over.
fn start(pod: &Pod, c: &Container, kind: Kind, seen: &PodSeen, plan: &mut PodPlan) {
    let last = seen.container(&c.name);
    let restart_count = match last {
        Some(l) => l.restart_count + 1,
        None => seen.logged_attempts.get(&c.name).copied().unwrap_or(0),
    };
    let failed = last.and_then(ContainerSeen::exit).map(|e| e.finished);
    let max = SignedDuration::from_secs(seen.max_backoff_seconds);
    if let (Some(failed), Some(backoff)) = (failed, seen.backoff.get(&c.name))
        && let Some(until) = backoff.until(failed, seen.now, max)
    {
        let delay = go_seconds(backoff.delay);
        let message = format!(
            "back-off {delay} restarting failed container={} pod={}",
            c.name,
            full_name(pod)
        );
        let trouble = Trouble {
            reason: "CrashLoopBackOff".into(),
            message,
        };
        plan.held.push(Held {
            name: c.name.clone(),
            until,
            trouble,
        });
        plan.wake_at = Some(plan.wake_at.map_or(until, |w| w.min(until)));
        return;
    }
    plan.start.push(Start {
        name: c.name.clone(),
        kind,
        restart_count,
        failed,
    });
}

#[cfg(test)]
mod tests;
