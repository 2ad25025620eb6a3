//! Pods as `kubectl get` shows them: readiness, a status computed from phase and containers, restarts.

use super::containers::is_sidecar;
use crate::Column;
use crate::table::{AGE, NAME, age, column, since};
use crate::view::View;
use jiff::Timestamp;
use serde_json::{Value, json};

pub const COLUMNS: &[Column] = &[
    NAME,
    column(
        "Ready",
        "string",
        0,
        "The aggregate readiness state of this pod for accepting traffic.",
    ),
    column(
        "Status",
        "string",
        0,
        "The aggregate status of the containers in this pod.",
    ),
    column(
        "Restarts",
        "string",
        0,
        "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
    ),
    AGE,
    column(
        "IP",
        "string",
        1,
        "The first address of the pod, reachable inside the cluster.",
    ),
    column("Node", "string", 1, "The node that the pod is on."),
    column(
        "Nominated Node",
        "string",
        1,
        "The node that other pods are being removed from for this one.",
    ),
    column(
        "Readiness Gates",
        "string",
        1,
        "How many of the further conditions for readiness hold.",
    ),
];

/// Marks finished pods, which kubectl can hide.
pub fn conditions(pod: &Value) -> Vec<Value> {
    let (reason, message) = match pod.text("/status/phase") {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return Vec::new(),
    };
    vec![json!({ "type": "Completed", "status": "True", "reason": reason, "message": message })]
}

/// Restarts and when the last one was.
#[derive(Clone, Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += status.int("/restartCount");
        let ended = status.text("/lastState/terminated/finishedAt").parse().ok();
        self.last = self.last.max(ended);
    }
}

fn ended(state: &Value, prefix: &str) -> String {
    let terminated = state.at("/terminated");
    match (terminated.text("/reason"), terminated.int("/signal")) {
        ("", 0) => format!("{prefix}ExitCode:{}", terminated.int("/exitCode")),
        ("", signal) => format!("{prefix}Signal:{signal}"),
        (reason, _) => format!("{prefix}{reason}"),
    }
}

/// Counts of ready containers and restarts, and the word that sums the pod up.
struct Summary {
    ready: usize,
    total: usize,
    restarts: Restarts,
    reason: String,
}

fn summary(pod: &Value) -> Summary {
    let status = pod.at("/status");
    let phase = status.text("/phase");
    let mut reason = match status.text("/reason") {
        "" => phase.to_string(),
        reason => reason.to_string(),
    };
    let condition = |kind: &'static str| {
        status
            .items("/conditions")
            .iter()
            .filter(move |c| c.text("/type") == kind)
    };
    if condition("PodScheduled").any(|c| c.text("/reason") == "SchedulingGated") {
        reason = "SchedulingGated".into();
    }
    let inits = pod.items("/spec/initContainers");
    let sidecar = |name: &str| inits.iter().rfind(|c| c.text("/name") == name).is_some_and(is_sidecar);
    let total = pod.items("/spec/containers").len() + inits.iter().filter(|c| is_sidecar(c)).count();
    let (mut restarts, mut sidecar_restarts) = (Restarts::default(), Restarts::default());
    let mut ready = 0;
    let mut initializing = false;
    for (i, container) in status.items("/initContainerStatuses").iter().enumerate() {
        restarts.add(container);
        let beside = sidecar(container.text("/name"));
        if beside {
            sidecar_restarts.add(container);
        }
        let state = container.at("/state");
        let waiting = state.text("/waiting/reason");
        if state.has("/terminated") && state.int("/terminated/exitCode") == 0 {
            continue;
        }
        if beside && container.flag("/started") {
            ready += usize::from(container.flag("/ready"));
            continue;
        }
        reason = if state.has("/terminated") {
            ended(state, "Init:")
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{i}/{}", inits.len())
        };
        initializing = true;
        break;
    }
    let initialized = condition("Initialized")
        .next()
        .is_some_and(|c| c.text("/status") == "True");
    if !initializing || initialized {
        restarts = sidecar_restarts;
        let mut running = false;
        let mut error = String::new();
        for container in status.items("/containerStatuses").iter().rev() {
            restarts.add(container);
            let state = container.at("/state");
            if !state.text("/waiting/reason").is_empty() {
                reason = state.text("/waiting/reason").to_string();
            } else if state.has("/terminated") {
                reason = ended(state, "");
                if state.int("/terminated/exitCode") != 0 {
                    error.clone_from(&reason);
                }
            } else if container.flag("/ready") && state.has("/running") {
                running = true;
                ready += 1;
            }
        }
        if reason == "Completed" {
            if running && condition("Ready").any(|c| c.text("/status") == "True") {
                reason = "Running".into();
            } else if !error.is_empty() {
                reason = error;
            } else if running {
                reason = "NotReady".into();
            }
        }
    }
    if pod.has("/metadata/deletionTimestamp") {
        if status.text("/reason") == "NodeLost" {
            reason = "Unknown".into();
        } else if !matches!(phase, "Failed" | "Succeeded") {
            reason = "Terminating".into();
        }
    }
    Summary {
        ready,
        total,
        restarts,
        reason,
    }
}

pub fn row(pod: &Value, now: &Timestamp) -> Vec<Value> {
    let Summary {
        ready,
        total,
        restarts,
        reason,
    } = summary(pod);
    let restarts = match restarts.last {
        Some(last) if restarts.count != 0 => format!("{} ({} ago)", restarts.count, since(&last.to_string(), now)),
        _ => restarts.count.to_string(),
    };
    let or_none = |text: &str| Value::from(if text.is_empty() { "<none>" } else { text });
    let gates = pod.items("/spec/readinessGates");
    let holds = |gate: &&Value| {
        let found = pod
            .items("/status/conditions")
            .iter()
            .find(|c| c.text("/type") == gate.text("/conditionType"));
        found.is_some_and(|c| c.text("/status") == "True")
    };
    let gates = match gates.len() {
        0 => "<none>".to_string(),
        n => format!("{}/{n}", gates.iter().filter(holds).count()),
    };
    vec![
        pod.text("/metadata/name").into(),
        format!("{ready}/{total}").into(),
        reason.into(),
        restarts.into(),
        age(pod, now),
        or_none(pod.items("/status/podIPs").first().map_or("", |ip| ip.text("/ip"))),
        or_none(pod.text("/spec/nodeName")),
        or_none(pod.text("/status/nominatedNodeName")),
        gates.into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(status: Value, spec: Value) -> (String, String, String) {
        let pod = json!({"metadata": {"name": "p"}, "spec": spec, "status": status});
        let now = "2026-01-01T00:10:00Z".parse().unwrap_or(Timestamp::UNIX_EPOCH);
        let cells = row(&pod, &now);
        let text = |i: usize| cells[i].as_str().unwrap_or_default().to_string();
        (text(1), text(2), text(3))
    }

    #[test]
    fn the_status_sums_up_phase_and_containers() {
        let one = json!({"containers": [{"name": "a"}]});
        let two = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        let init = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]});
        for (status, spec, want) in [
            (json!({"phase": "Pending"}), &one, ("0/1", "Pending", "0")),
            (
                json!({"phase": "Running", "containerStatuses": [{"ready": true, "restartCount": 3, "state": {"running": {}},
                    "lastState": {"terminated": {"finishedAt": "2026-01-01T00:05:00Z"}}}]}),
                &one,
                ("1/1", "Running", "3 (5m ago)"),
            ),
            (
                json!({"phase": "Running", "containerStatuses": [{"restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
                &one,
                ("0/1", "CrashLoopBackOff", "2"),
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}),
                &init,
                ("0/2", "Init:0/2", "0"),
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}),
                &init,
                ("0/2", "Init:Error", "0"),
            ),
            (
                json!({"phase": "Running", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 0}}},
                    {"name": "s", "started": true, "ready": true, "restartCount": 1, "state": {"running": {}}}],
                    "containerStatuses": [{"name": "a", "ready": true, "state": {"running": {}}}]}),
                &init,
                ("2/2", "Running", "1"),
            ),
            (
                json!({"phase": "Running", "containerStatuses": [{"ready": true, "state": {"running": {}}},
                    {"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}),
                &two,
                ("1/2", "NotReady", "0"),
            ),
            (
                json!({"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}),
                &one,
                ("0/1", "Completed", "0"),
            ),
            (
                json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 137, "signal": 9}}}]}),
                &one,
                ("0/1", "Signal:9", "0"),
            ),
            (
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
                &one,
                ("0/1", "SchedulingGated", "0"),
            ),
        ] {
            let got = shown(status.clone(), spec.clone());
            assert_eq!((got.0.as_str(), got.1.as_str(), got.2.as_str()), want, "{status}");
        }
    }

    #[test]
    fn a_dying_pod_is_terminating_until_it_is_done() {
        let mut pod =
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"}});
        assert_eq!(summary(&pod).reason, "Terminating");
        pod["status"]["phase"] = json!("Succeeded");
        assert_eq!(summary(&pod).reason, "Succeeded");
        assert_eq!(conditions(&pod)[0]["type"], "Completed");
    }
}
