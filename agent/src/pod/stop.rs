//! Stops containers and whole pods: preStop, stop signal, grace period, kill; main containers before sidecars.
//!
//! Called by the worker, which drops the future and begins again with a shorter grace period when the pod's changes.

use std::time::{Duration, Instant};

use steersman_cri::CriError;
use steersman_types::api::core::v1::{Container, Pod};

use super::decide::{Kill, Why};
use super::seen::{ContainerSeen, PodSeen, State};
use crate::context::Context;
use crate::events::PodEvents;
use crate::lifecycle;

/// After preStop has used up the grace period, a container still gets this long to react to its signal.
const MIN_GRACE: Duration = Duration::from_secs(2);
/// Grace period of a pod whose spec is not known any more.
pub const DEFAULT_GRACE: i64 = 30;

/// Negative values count as zero.
#[must_use]
pub fn seconds(n: i64) -> Duration {
    Duration::from_secs(u64::try_from(n).unwrap_or(0))
}

/// The pod's grace period: that of its deletion, else that of its spec.
#[must_use]
pub fn grace(pod: &Pod) -> i64 {
    let of_spec = super::spec(pod).termination_grace_period_seconds;
    let of_deletion = pod
        .metadata
        .deletion_timestamp
        .as_ref()
        .and(pod.metadata.deletion_grace_period_seconds);
    of_deletion.or(of_spec).unwrap_or(DEFAULT_GRACE)
}

/// Stops a single container whose pod goes on.
///
/// # Errors
/// When the runtime could not stop it.
pub async fn container(
    context: &Context,
    pod: &Pod,
    kill: &Kill,
    seen: &PodSeen,
    events: &PodEvents,
) -> Result<(), CriError> {
    let Some((_, spec)) = super::find_container(pod, &kill.name) else {
        return context.runtime.stop_container(&kill.id, seconds(DEFAULT_GRACE)).await;
    };
    let of_probe = match kill.why {
        Why::Liveness => spec.liveness_probe.as_ref(),
        Why::Startup => spec.startup_probe.as_ref(),
        Why::Changed | Why::Unknown | Why::Resize => None,
    };
    let grace = of_probe
        .and_then(|p| p.termination_grace_period_seconds)
        .unwrap_or_else(|| grace(pod));
    one(
        context,
        &kill.id,
        &spec,
        seconds(grace),
        ip_of(seen),
        Some(&kill.message),
        events,
    )
    .await
}

fn ip_of(seen: &PodSeen) -> Option<&String> {
    seen.sandboxes
        .first()
        .and_then(|s| s.ips.first())
        .or(seen.host_ips.first())
}

async fn one(
    context: &Context,
    id: &str,
    spec: &Container,
    grace: Duration,
    ip: Option<&String>,
    message: Option<&str>,
    events: &PodEvents,
) -> Result<(), CriError> {
    let name = Some(spec.name.as_str());
    let stopping = format!("Stopping container {}", spec.name);
    events.normal(name, "Killing", message.unwrap_or(&stopping));
    let begun = Instant::now();
    if let Some(hook) = spec.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref())
        && !grace.is_zero()
    {
        let run = lifecycle::run(context.runtime.as_ref(), id, spec, hook, ip);
        match tokio::time::timeout(grace, run).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => {
                tracing::warn!(container = %spec.name, error = %e, "PreStop hook failed");
                events.warning(name, "FailedPreStopHook", "PreStopHook failed");
            }
            Err(_) => tracing::info!(container = %spec.name, "PreStop hook not completed in grace period"),
        }
    }
    let left = if grace.is_zero() {
        grace
    } else {
        grace.saturating_sub(begun.elapsed()).max(MIN_GRACE.min(grace))
    };
    context.runtime.stop_container(id, left).await
}

/// Stops every container of the pod and its sandboxes.
///
/// # Errors
/// The first failure; what could be stopped is.
pub async fn pod(context: &Context, pod: &Pod, seen: &PodSeen, grace: i64, events: &PodEvents) -> Result<(), CriError> {
    let begun = Instant::now();
    let grace = seconds(grace);
    let left = || {
        if grace.is_zero() {
            grace
        } else {
            grace.saturating_sub(begun.elapsed()).max(Duration::from_secs(1))
        }
    };
    let live: Vec<&ContainerSeen> = seen
        .containers
        .iter()
        .filter(|c| c.is_running() || c.state == State::Unknown)
        .collect();
    let is_sidecar = |c: &&ContainerSeen| {
        super::init_containers(pod)
            .iter()
            .any(|spec| spec.name == c.name && super::is_sidecar(spec))
    };
    let ip = ip_of(seen);
    let others = live.iter().copied().filter(|c| !is_sidecar(c)).map(|c| async move {
        match super::find_container(pod, &c.name) {
            Some((_, spec)) => one(context, &c.id, &spec, grace, ip, None, events).await,
            None => context.runtime.stop_container(&c.id, grace).await,
        }
    });
    let mut result = Ok(());
    for stopped in futures::future::join_all(others).await {
        result = result.and(stopped);
    }
    // Sidecars serve the others to their end, and one another in reverse order of start.
    for spec in super::init_containers(pod)
        .iter()
        .rev()
        .filter(|c| super::is_sidecar(c))
    {
        for c in live.iter().filter(|c| c.name == spec.name) {
            result = result.and(one(context, &c.id, spec, left(), ip, None, events).await);
        }
    }
    for sandbox in seen.sandboxes.iter().filter(|s| s.ready) {
        result = result.and(context.turns.stop(context.runtime.stop_sandbox(&sandbox.id)).await);
    }
    result
}
