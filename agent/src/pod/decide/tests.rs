//! One line per case; safety as properties.

use proptest::prelude::*;

use super::*;
use crate::pod::seen::Exit;
use crate::pod::testing::{now, pod, seen};

/// A plan as one line.
fn text(plan: &PodPlan) -> String {
    let mut steps = Vec::new();
    if plan.kill_pod {
        steps.push("kill pod".to_owned());
    }
    steps.extend(plan.kill.iter().map(|k| format!("kill {} ({})", k.name, k.message)));
    steps.extend(plan.create_sandbox.map(|attempt| format!("sandbox {attempt}")));
    steps.extend(
        plan.start
            .iter()
            .map(|s| format!("start {}#{}", s.name, s.restart_count)),
    );
    steps.extend(
        plan.held
            .iter()
            .map(|h| format!("hold {} {}", h.name, h.until.as_second() - now().as_second())),
    );
    steps.join(", ")
}

fn check(containers: &str, policy: &str, facts: &str, expected: &str) {
    let pod = pod(containers, policy);
    let plan = decide(&pod, &seen(&pod, facts));
    assert_eq!(text(&plan), expected, "{containers} {policy}: {facts}");
}

#[test]
fn a_pod_starts_with_its_sandbox_and_then_its_containers() {
    check("a b", "Always", "", "sandbox 0");
    check("a b", "Always", "sandbox ready", "start a#0, start b#0");
    check("a b", "Always", "sandbox ready; a running", "start b#0");
    check("a b", "Always", "sandbox ready; a running; b running", "");
    check("a", "Always", "sandbox ready; a created", "start a#1");
}

#[test]
fn restart_policies_decide_what_follows_an_exit() {
    check("a", "Always", "sandbox ready; a exited 0 5", "start a#1");
    check("a", "OnFailure", "sandbox ready; a#2 exited 1 5", "start a#3");
    check("a", "OnFailure", "sandbox ready; a exited 0 5", "kill pod");
    check("a", "Never", "sandbox ready; a exited 1 5", "kill pod");
    check("a b", "Never", "sandbox ready; a exited 1 5; b running", "");
    check(
        "a b",
        "OnFailure",
        "sandbox ready; a exited 0 5; b exited 1 5",
        "start b#1",
    );
    check("a", "Never", "sandbox dead; a exited 1 5", "");
}

#[test]
fn a_crashing_container_waits_longer_each_time() {
    check(
        "a",
        "Always",
        "sandbox ready; a#1 exited 1 3; backoff a 10s 8s",
        "hold a 7",
    );
    check(
        "a",
        "Always",
        "sandbox ready; a#1 exited 1 10; backoff a 10s 12s",
        "start a#2",
    );
    check(
        "a b",
        "Always",
        "sandbox ready; a#3 exited 1 3; b exited 1 3; backoff a 40s 8s",
        "start b#1, hold a 37",
    );
    // Ten minutes of running well are forgiven.
    check(
        "a",
        "Always",
        "sandbox ready; a#3 exited 1 1; backoff a 300s 700s",
        "start a#4",
    );
}

#[test]
fn a_held_container_says_why_in_upstreams_words() {
    let pod = pod("a", "Always");
    let plan = decide(&pod, &seen(&pod, "sandbox ready; a#4 exited 1 3; backoff a 80s 8s"));
    assert_eq!(plan.held[0].trouble.reason, "CrashLoopBackOff");
    assert_eq!(
        plan.held[0].trouble.message,
        "back-off 1m20s restarting failed container=a pod=p_ns(u)"
    );
    assert_eq!(plan.wake_at, Some(plan.held[0].until));
}

#[test]
fn init_containers_run_one_after_the_other_before_all_others() {
    check("a init:i init:j", "Always", "sandbox ready", "start i#0");
    check("a init:i init:j", "Always", "sandbox ready; i running", "");
    check("a init:i init:j", "Always", "sandbox ready; i exited 0 5", "start j#0");
    check(
        "a init:i init:j",
        "Always",
        "sandbox ready; j exited 0 5; i exited 0 9",
        "start a#0",
    );
    // The first has been removed from the runtime: the second is proof enough.
    check("a init:i init:j", "Always", "sandbox ready; j exited 0 5", "start a#0");
    check("a init:i init:j", "Always", "sandbox ready; j running", "");
    check("a init:i init:j", "Always", "sandbox ready; a exited 1 5", "start a#1");
    check("a init:i", "Always", "sandbox ready; i exited 1 5", "start i#1");
    check("a init:i", "Never", "sandbox ready; i exited 1 5", "kill pod");
    check(
        "a init:i",
        "Always",
        "sandbox ready; i#1 exited 1 2; backoff i 10s 8s",
        "hold i 8",
    );
}

#[test]
fn sidecars_start_before_what_follows_them_and_are_kept_running() {
    check("a side:s init:i", "Always", "sandbox ready", "start s#0");
    check("a side:s init:i", "Always", "sandbox ready; s running", "start i#0");
    check(
        "a side:s init:i",
        "Always",
        "sandbox ready; s exited 1 5; i running",
        "start s#1",
    );
    check(
        "a side:s init:i",
        "Always",
        "sandbox ready; s running; i exited 0 5",
        "start a#0",
    );
    check(
        "a side:s",
        "Always",
        "sandbox ready; s exited 0 5; a running",
        "start s#1",
    );
    // They do not keep a finished pod alive.
    check(
        "a side:s",
        "Never",
        "sandbox ready; s running; a exited 0 5",
        "kill pod",
    );
    check(
        "a side:s",
        "Never",
        "sandbox ready; s exited 1 5; a exited 0 5",
        "kill pod",
    );
}

#[test]
fn failed_probes_and_changed_definitions_end_a_container() {
    let again = "sandbox ready; a running; probe a startup yes; probe a liveness no";
    check(
        "probed:a",
        "Always",
        again,
        "kill a (Container a failed liveness probe, will be restarted)",
    );
    check("probed:a", "Never", again, "kill pod");
    let startup = "sandbox ready; a running; probe a startup no";
    check(
        "probed:a",
        "Always",
        startup,
        "kill a (Container a failed startup probe, will be restarted)",
    );
    check(
        "probed:a",
        "Always",
        "sandbox ready; a running; probe a readiness no",
        "",
    );
    let pod = pod("a", "Never");
    let mut changed = seen(&pod, "sandbox ready; a running");
    changed.containers[0].hash = "other".into();
    let plan = decide(&pod, &changed);
    assert_eq!(
        text(&plan),
        "kill a (Container a definition changed, will be restarted)"
    );
}

#[test]
fn a_container_whose_state_is_not_known_is_stopped_before_another_starts() {
    let text = "kill a (Container is in \"unknown\" state, try killing it before restart)";
    check("a", "Always", "sandbox ready; a unknown", text);
}

#[test]
fn a_lost_sandbox_is_replaced() {
    check("a", "Always", "sandbox dead; a exited 137 5", "sandbox 1");
    check("a", "Always", "sandbox dead; a running", "kill pod, sandbox 1");
    check("a", "Always", "sandbox dead 4", "sandbox 5");
    check("a", "OnFailure", "sandbox dead; a exited 0 5", "");
}

#[test]
fn an_ending_pod_is_only_ever_stopped() {
    check("a", "Always", "sandbox ready; a running; stopping", "kill pod");
    check("a", "Always", "sandbox dead; a exited 0 5; stopping", "");
    check("a", "Always", "stopped", "");
    check("a", "Always", "sandbox ready; a running; failed Evicted", "kill pod");
    check("a", "Always", "failed OutOfcpu", "");
}

#[test]
fn rules_on_exit_codes_come_before_policies() {
    let mut pod = pod("a", "Never");
    if let Some(spec) = pod.spec.as_mut() {
        let rules = serde_json::json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
        spec.containers[0].restart_policy = Some("Never".into());
        spec.containers[0].restart_policy_rules = serde_json::from_value(rules).unwrap();
    }
    let plan = |facts| text(&decide(&pod, &seen(&pod, facts)));
    assert_eq!(plan("sandbox ready; a exited 42 5"), "start a#1");
    assert_eq!(plan("sandbox ready; a exited 1 5"), "kill pod");
}

/// Carries out a plan on the observation, as a runtime that never fails would.
fn carried_out(plan: &PodPlan, mut seen: PodSeen, pod: &Pod) -> PodSeen {
    let end = |c: &mut ContainerSeen| {
        c.state = State::Exited(Exit {
            code: 137,
            reason: "Error".into(),
            finished: now(),
            ..Exit::default()
        });
    };
    if plan.kill_pod {
        seen.containers
            .iter_mut()
            .filter(|c| c.is_running() || c.state == State::Unknown)
            .for_each(end);
        seen.sandboxes.iter_mut().for_each(|s| s.ready = false);
        return seen;
    }
    for kill in &plan.kill {
        seen.containers.iter_mut().filter(|c| c.id == kill.id).for_each(end);
    }
    if !plan.kill.is_empty() {
        return seen;
    }
    if let Some(attempt) = plan.create_sandbox {
        let id = format!("new{attempt}");
        let sandbox = crate::pod::seen::SandboxSeen {
            id,
            attempt,
            ready: true,
            created: now(),
            ips: vec!["10.0.0.8".into()],
        };
        seen.sandboxes.insert(0, sandbox);
        seen.containers
            .retain(|c| !crate::pod::init_containers(pod).iter().any(|i| i.name == c.name));
        return seen;
    }
    for start in &plan.start {
        let (kind, spec) = crate::pod::find_container(pod, &start.name).unwrap();
        let ends_at_once = kind == Kind::Init && !is_sidecar(&spec);
        let exit = Exit {
            code: 0,
            reason: "Completed".into(),
            finished: now(),
            ..Exit::default()
        };
        let container = ContainerSeen {
            id: format!("{}-{}", start.name, start.restart_count),
            name: start.name.clone(),
            sandbox: seen.sandboxes[0].id.clone(),
            state: if ends_at_once {
                State::Exited(exit)
            } else {
                State::Running
            },
            created: now(),
            started: Some(now()),
            restart_count: start.restart_count,
            hash: container_hash(&spec),
            ..ContainerSeen::default()
        };
        seen.containers.insert(0, container);
    }
    seen
}

fn facts() -> impl Strategy<Value = String> {
    let state = prop_oneof![
        Just("running".to_owned()),
        Just("created".to_owned()),
        Just("unknown".to_owned()),
        (0..3_i32, 0..20_i32).prop_map(|(code, when)| format!("exited {code} {when}")),
    ];
    let container = |name: &'static str| {
        proptest::option::of((state.clone(), 0..4_i32))
            .prop_map(move |s| s.map_or(String::new(), |(state, n)| format!("{name}#{n} {state};")))
    };
    let sandbox = prop_oneof![
        Just(""),
        Just("sandbox ready;"),
        Just("sandbox dead 2;"),
        Just("sandbox ready 1; sandbox ready;")
    ];
    let ending = prop_oneof![4 => Just(""), 1 => Just("stopping")];
    (
        sandbox,
        container("a"),
        container("b"),
        container("i"),
        container("s"),
        ending,
    )
        .prop_map(|(sandbox, a, b, i, s, ending)| format!("{sandbox}{a}{b}{i}{s}{ending}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn carrying_plans_out_comes_to_rest_and_is_safe_at_each_step(
        facts in facts(), policy in prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")]
    ) {
        let pod = pod("a b side:s init:i", policy);
        let mut now_seen = seen(&pod, &facts);
        for round in 0..20 {
            let plan = decide(&pod, &now_seen);
            if plan == PodPlan::default() {
                return Ok(());
            }
            prop_assert!(round < 19, "no rest after {} rounds: {}", round, text(&plan));
            let ending = now_seen.ending != Ending::No;
            prop_assert!(!ending || (plan.start.is_empty() && plan.create_sandbox.is_none()), "an ending pod starts something");
            for start in &plan.start {
                let last = now_seen.container(&start.name);
                prop_assert!(!last.is_some_and(ContainerSeen::is_running), "{} would run twice", start.name);
                prop_assert!(last.is_none_or(|l| start.restart_count > l.restart_count), "{} counts backwards", start.name);
            }
            let names: std::collections::BTreeSet<_> = plan.start.iter().map(|s| &s.name).collect();
            prop_assert_eq!(names.len(), plan.start.len(), "a container is started twice");
            now_seen = carried_out(&plan, now_seen, &pod);
            for name in ["a", "b", "i", "s"] {
                let live = now_seen.containers.iter().filter(|c| c.name == name && c.is_running()).count();
                prop_assert!(live <= 1, "{} runs {} times", name, live);
            }
        }
    }
}
