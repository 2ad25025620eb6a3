//! The pod's conditions, with upstream's reasons and messages.

use steersman_types::api::core::v1::{Container, ContainerStatus, Pod, PodCondition, PodStatus};
use steersman_types::meta::Time;

use super::super::decide::sandbox_changed;
use super::super::seen::{Ending, PodSeen};
use super::super::{init_containers, is_sidecar, main_containers};
use super::containers::second;

/// The types that the agent writes; all others are kept.
const OWN: [&str; 7] = [
    super::super::resize::PENDING,
    super::super::resize::IN_PROGRESS,
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
];

/// A verdict: true, or false with reason and message.
type Verdict = Result<Option<&'static str>, (&'static str, String)>;

/// All conditions, in upstream's order: those of others first.
pub fn conditions(pod: &Pod, seen: &PodSeen, old: &PodStatus, new: &PodStatus) -> Vec<PodCondition> {
    let in_api = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let mut all: Vec<PodCondition> = in_api.filter(|c| !OWN.contains(&c.type_.as_str())).cloned().collect();
    let kept = old
        .conditions
        .iter()
        .flatten()
        .filter(|c| c.type_ == "DisruptionTarget");
    for c in kept {
        if !all.iter().any(|a| a.type_ == c.type_) {
            all.push(c.clone());
        }
    }
    let phase = new.phase.as_deref().unwrap_or_default();
    if let Some(disrupted) = seen.disrupted.as_ref().filter(|_| phase == "Failed") {
        let before = all
            .iter()
            .find(|c| c.type_ == disrupted.type_ && c.status == disrupted.status);
        let since = before.and_then(|c| c.last_transition_time.clone());
        let disrupted = PodCondition {
            last_transition_time: Some(since.unwrap_or_else(|| Time(second(seen.now)))),
            ..disrupted.clone()
        };
        all.retain(|c| c.type_ != disrupted.type_);
        all.push(disrupted);
    }
    let containers = containers_ready(pod, new, phase);
    let ready = match &containers {
        Ok(_) => gates(pod, &all),
        Err(e) => Err(e.clone()),
    };
    let sandbox = if sandbox_changed(pod, seen).0 {
        Err(("", String::new()))
    } else {
        Ok(None)
    };
    let verdicts = [
        ("PodReadyToStartContainers", sandbox),
        ("Initialized", initialized(pod, old, new, phase)),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", Ok(None)),
    ];
    if seen.ending == Ending::No {
        all.extend(seen.resize.iter().cloned());
    }
    for (name, verdict) in verdicts {
        all.push(condition(name, verdict, pod, seen, old));
    }
    all
}

fn condition(name: &str, verdict: Verdict, pod: &Pod, seen: &PodSeen, old: &PodStatus) -> PodCondition {
    let (status, reason, message) = match verdict {
        Ok(reason) => ("True", reason.unwrap_or_default(), String::new()),
        Err((reason, message)) => ("False", reason, message),
    };
    let before = old.conditions.iter().flatten().find(|c| c.type_ == name);
    let since = before
        .filter(|c| c.status == status)
        .and_then(|c| c.last_transition_time.clone());
    PodCondition {
        type_: name.into(),
        status: status.into(),
        reason: (!reason.is_empty()).then(|| reason.into()),
        message: (!message.is_empty()).then_some(message),
        observed_generation: pod.metadata.generation,
        last_transition_time: Some(since.unwrap_or_else(|| Time(second(seen.now)))),
        last_probe_time: None,
    }
}

fn find<'a>(new: &'a PodStatus, c: &Container) -> Option<&'a ContainerStatus> {
    let lists = new.init_container_statuses.iter().chain(&new.container_statuses);
    lists.flatten().find(|s| s.name == c.name)
}

/// Go prints a list of names as `[a b]`.
fn names(list: &[&str]) -> String {
    format!("[{}]", list.join(" "))
}

fn containers_ready(pod: &Pod, new: &PodStatus, phase: &str) -> Verdict {
    let counted = init_containers(pod)
        .iter()
        .filter(|c| is_sidecar(c))
        .chain(main_containers(pod));
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    for c in counted {
        match find(new, c) {
            None => unknown.push(c.name.as_str()),
            Some(s) if !s.ready => unready.push(c.name.as_str()),
            Some(_) => {}
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return Err(("PodCompleted", String::new()));
    }
    if phase == "Failed" {
        return Err(("PodFailed", String::new()));
    }
    refuse("ContainersNotReady", &[("unknown", &unknown), ("unready", &unready)])
}

fn refuse(reason: &'static str, groups: &[(&str, &[&str])]) -> Verdict {
    let said: Vec<_> = groups
        .iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(what, list)| format!("containers with {what} status: {}", names(list)))
        .collect();
    if said.is_empty() {
        Ok(None)
    } else {
        Err((reason, said.join(", ")))
    }
}

fn gates(pod: &Pod, conditions: &[PodCondition]) -> Verdict {
    let mut said = Vec::new();
    for gate in super::super::spec(pod).readiness_gates.iter().flatten() {
        let name = &gate.condition_type;
        match conditions.iter().find(|c| c.type_ == *name) {
            None => said.push(format!(
                "corresponding condition of pod readiness gate {name:?} does not exist."
            )),
            Some(c) if c.status != "True" => {
                said.push(format!(
                    "the status of pod readiness gate {name:?} is not \"True\", but {}",
                    c.status
                ));
            }
            Some(_) => {}
        }
    }
    if said.is_empty() {
        Ok(None)
    } else {
        Err(("ReadinessGatesNotReady", said.join(", ")))
    }
}

fn initialized(pod: &Pod, old: &PodStatus, new: &PodStatus, phase: &str) -> Verdict {
    let (mut unknown, mut incomplete) = (Vec::new(), Vec::new());
    for c in init_containers(pod) {
        match find(new, c) {
            None => unknown.push(c.name.as_str()),
            Some(s) if is_sidecar(c) && s.started != Some(true) => incomplete.push(c.name.as_str()),
            Some(s) if !is_sidecar(c) && !s.ready => incomplete.push(c.name.as_str()),
            Some(_) => {}
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return Ok(Some("PodCompleted"));
    }
    let main_started = main_containers(pod).iter().any(|c| {
        let state = |s: &ContainerStatus| {
            s.state
                .as_ref()
                .is_some_and(|s| s.running.is_some() || s.terminated.is_some())
        };
        find(new, c).is_some_and(|s| state(s) || s.last_state.as_ref().is_some_and(|l| l.terminated.is_some()))
    });
    let before = old
        .conditions
        .iter()
        .flatten()
        .any(|c| c.type_ == "Initialized" && c.status == "True");
    if main_started || (before && !init_containers(pod).is_empty()) {
        return Ok(None);
    }
    refuse(
        "ContainersNotInitialized",
        &[("unknown", &unknown), ("incomplete", &incomplete)],
    )
}
