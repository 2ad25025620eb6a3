//! One line per case.

use super::*;
use crate::pod::testing::{pod, seen};
use steersman_types::api::core::v1::ContainerStatus;

/// `Phase | container statuses | conditions that are not true`.
fn text(status: &PodStatus) -> String {
    let one = |c: &ContainerStatus| {
        let state = c.state.clone().unwrap_or_default();
        let state = if state.running.is_some() {
            "running".to_owned()
        } else if let Some(t) = state.terminated {
            format!("{} {}", t.reason.unwrap_or_default(), t.exit_code)
        } else {
            state.waiting.and_then(|w| w.reason).unwrap_or_else(|| "waiting".into())
        };
        let last = c
            .last_state
            .as_ref()
            .and_then(|s| s.terminated.as_ref())
            .map(|t| format!(" last {}", t.exit_code));
        let ready = if c.ready { " ready" } else { "" };
        format!(
            "{}#{} {state}{}{ready}",
            c.name,
            c.restart_count,
            last.unwrap_or_default()
        )
    };
    let lists = status.init_container_statuses.iter().chain(&status.container_statuses);
    let containers: Vec<_> = lists.flatten().map(one).collect();
    let conditions = status.conditions.iter().flatten().filter(|c| c.status != "True");
    let conditions: Vec<_> = conditions
        .map(|c| {
            format!(
                "{}{}",
                c.type_,
                c.reason.as_ref().map(|r| format!("={r}")).unwrap_or_default()
            )
        })
        .collect();
    format!(
        "{} | {} | {}",
        status.phase.clone().unwrap_or_default(),
        containers.join(", "),
        conditions.join(" ")
    )
}

fn check(containers: &str, policy: &str, facts: &str, expected: &str) {
    let pod = pod(containers, policy);
    let status = status(&pod, &seen(&pod, facts), &PodStatus::default());
    assert_eq!(text(&status), expected, "{containers} {policy}: {facts}");
}

const UNREADY: &str = "Ready=ContainersNotReady ContainersReady=ContainersNotReady";

#[test]
fn a_pod_goes_from_pending_over_running_to_its_end() {
    let nothing = format!("Pending | a#0 ContainerCreating | PodReadyToStartContainers {UNREADY}");
    check("a", "Always", "", &nothing);
    check(
        "a",
        "Always",
        "sandbox ready",
        &format!("Pending | a#0 ContainerCreating | {UNREADY}"),
    );
    check(
        "a",
        "Always",
        "sandbox ready; a running",
        "Running | a#0 running ready | ",
    );
    let half = format!("Pending | a#0 running ready, b#0 ContainerCreating | {UNREADY}");
    check("a b", "Always", "sandbox ready; a running", &half);
    check(
        "a",
        "Always",
        "sandbox ready; a exited 1 5",
        &format!("Running | a#0 Error 1 | {UNREADY}"),
    );
    let over = "| PodReadyToStartContainers Ready=PodCompleted ContainersReady=PodCompleted";
    check(
        "a",
        "Never",
        "sandbox dead; a exited 0 5",
        &format!("Succeeded | a#0 Completed 0 {over}"),
    );
    let failed = "| PodReadyToStartContainers Ready=PodFailed ContainersReady=PodFailed";
    check(
        "a",
        "Never",
        "sandbox dead; a exited 3 5",
        &format!("Failed | a#0 Error 3 {failed}"),
    );
    check(
        "a",
        "OnFailure",
        "sandbox ready; a exited 3 5",
        &format!("Running | a#0 Error 3 | {UNREADY}"),
    );
    check(
        "a b",
        "Never",
        "sandbox ready; a exited 3 5; b running",
        &format!("Running | a#0 Error 3, b#0 running ready | {UNREADY}"),
    );
}

#[test]
fn a_container_that_waits_says_why_and_keeps_its_last_end() {
    let crash = format!("Running | a#2 CrashLoopBackOff last 1 | {UNREADY}");
    check(
        "a",
        "Always",
        "sandbox ready; a#2 exited 1 5; trouble a CrashLoopBackOff",
        &crash,
    );
    let pull = format!("Pending | a#0 ErrImagePull | {UNREADY}");
    check("a", "Always", "sandbox ready; trouble a ErrImagePull", &pull);
    let second = "Running | a#3 running last 1 ready | ";
    check("a", "Always", "sandbox ready; a#3 running; a#2 exited 1 5", second);
}

#[test]
fn init_containers_hold_the_others_back() {
    let init = |state: &str| {
        format!("Pending | {state}, a#0 PodInitializing | Initialized=ContainersNotInitialized {UNREADY}")
    };
    check("a init:i", "Always", "sandbox ready; i running", &init("i#0 running"));
    check(
        "a init:i",
        "Always",
        "sandbox ready; i#1 exited 1 5; trouble i CrashLoopBackOff",
        &init("i#1 CrashLoopBackOff last 1"),
    );
    let done = format!("Pending | i#0 Completed 0 ready, a#0 PodInitializing | {UNREADY}");
    check("a init:i", "Always", "sandbox ready; i exited 0 5", &done);
    check(
        "a init:i",
        "Always",
        "sandbox ready; a running; i exited 0 5",
        "Running | i#0 Completed 0 ready, a#0 running ready | ",
    );
    // Removed from the runtime, and the main container is proof that it was there.
    check(
        "a init:i",
        "Always",
        "sandbox ready; a running",
        "Running | i#0 Completed 0 ready, a#0 running ready | ",
    );
    let failed = "Failed | i#0 Error 1, a#0 PodInitializing | PodReadyToStartContainers \
                  Initialized=ContainersNotInitialized Ready=PodFailed ContainersReady=PodFailed";
    check("a init:i", "Never", "sandbox dead; i exited 1 5", failed);
}

#[test]
fn probes_decide_about_readiness() {
    let not = |facts: &str| {
        check(
            "probed:a",
            "Always",
            facts,
            &format!("Running | a#0 running | {UNREADY}"),
        )
    };
    not("sandbox ready; a running");
    not("sandbox ready; a running; probe a startup yes");
    not("sandbox ready; a running; probe a startup yes; probe a readiness no");
    let yes = "sandbox ready; a running; probe a startup yes; probe a readiness yes";
    check("probed:a", "Always", yes, "Running | a#0 running ready | ");
}

#[test]
fn a_restarted_agent_reports_what_was_reported_until_its_probes_have_spoken() {
    let pod = pod("probed:a", "Always");
    let before = seen(
        &pod,
        "sandbox ready; a running; probe a startup yes; probe a readiness yes",
    );
    let first = status(&pod, &before, &PodStatus::default());
    let after = status(&pod, &seen(&pod, "sandbox ready; a running"), &first);
    assert_eq!(after, first);
    let other = seen(
        &pod,
        "sandbox ready; a running; probe a readiness no; probe a startup yes",
    );
    assert_eq!(
        text(&status(&pod, &other, &first)),
        format!("Running | a#0 running | {UNREADY}")
    );
}

#[test]
fn a_terminal_phase_is_never_left_and_refused_pods_say_why() {
    let pod = pod("a", "Always");
    let old = PodStatus {
        phase: Some("Failed".into()),
        reason: Some("Evicted".into()),
        ..PodStatus::default()
    };
    let later = status(&pod, &seen(&pod, "sandbox ready; a running"), &old);
    assert_eq!(
        (later.phase.as_deref(), later.reason.as_deref()),
        (Some("Failed"), Some("Evicted"))
    );
    let refused = status(&pod, &seen(&pod, "failed OutOfcpu"), &PodStatus::default());
    let got = (
        refused.phase.as_deref(),
        refused.reason.as_deref(),
        refused.message.as_deref(),
    );
    assert_eq!(got, (Some("Failed"), Some("OutOfcpu"), Some("why")));
    assert_eq!(refused.container_statuses, None);
}

#[test]
fn a_pod_that_was_refused_before_the_agent_began_has_no_containers_either() {
    let pod = pod("a", "Always");
    let refused = status(&pod, &seen(&pod, "failed Evicted"), &PodStatus::default());
    assert_eq!(refused.container_statuses, None);
    let again = status(&pod, &seen(&pod, "stopped"), &refused);
    assert_eq!(again.container_statuses, None);
    assert_eq!(
        (again.phase, again.reason),
        (Some("Failed".into()), Some("Evicted".into()))
    );
}

#[test]
fn a_pod_that_the_node_ends_is_over_only_when_its_containers_are() {
    let pod = pod("a", "Always");
    let running = status(&pod, &seen(&pod, "sandbox ready; a running"), &PodStatus::default());
    let ending = seen(&pod, "sandbox ready; a running; failed Evicted; stopping");
    let under_way = status(&pod, &ending, &running);
    assert_eq!(
        (under_way.phase.as_deref(), under_way.reason.as_deref()),
        (Some("Running"), None)
    );
    let ended = seen(&pod, "sandbox dead; a exited 137 1s; failed Evicted; stopped");
    let over = status(&pod, &ended, &under_way);
    assert_eq!(
        (over.phase.as_deref(), over.reason.as_deref()),
        (Some("Failed"), Some("Evicted"))
    );
}

#[test]
fn a_deleted_pod_ends_by_what_its_containers_said_whatever_the_policy() {
    check(
        "a",
        "Always",
        "sandbox dead; a exited 0 5; stopped",
        "Succeeded | a#0 Completed 0 | PodReadyToStartContainers Ready=PodCompleted ContainersReady=PodCompleted",
    );
    check(
        "a",
        "Always",
        "sandbox dead; a exited 143 5; stopped",
        "Failed | a#0 Error 143 | PodReadyToStartContainers Ready=PodFailed ContainersReady=PodFailed",
    );
    check(
        "a",
        "Always",
        "stopped",
        "Failed | a#0 ContainerCreating | PodReadyToStartContainers Ready=PodFailed ContainersReady=PodFailed",
    );
}

#[test]
fn conditions_of_others_and_times_of_unchanged_ones_are_kept() {
    let mut pod = pod("a", "Always");
    let gate = serde_json::json!([{"type": "example.com/gate", "status": "False"}]);
    if let Some(spec) = pod.spec.as_mut() {
        spec.readiness_gates =
            serde_json::from_value(serde_json::json!([{"conditionType": "example.com/gate"}])).unwrap();
    }
    let missing = status(&pod, &seen(&pod, "sandbox ready; a running"), &PodStatus::default());
    assert_eq!(
        text(&missing),
        "Running | a#0 running ready | Ready=ReadinessGatesNotReady"
    );
    pod.status = Some(PodStatus {
        conditions: serde_json::from_value(gate).unwrap(),
        ..PodStatus::default()
    });
    let mut later = seen(&pod, "sandbox ready; a running");
    later.now = steersman_types::jiff::Timestamp::from_second(200_000).unwrap();
    let second = status(&pod, &later, &missing);
    let conditions = second.conditions.clone().unwrap();
    assert_eq!(conditions[0].type_, "example.com/gate");
    let ready = conditions.iter().find(|c| c.type_ == "Ready").unwrap();
    let message = "the status of pod readiness gate \"example.com/gate\" is not \"True\", but False";
    assert_eq!(ready.message.as_deref(), Some(message));
    assert_eq!(ready.last_transition_time.as_ref().unwrap().0.as_second(), 100_000);
}
