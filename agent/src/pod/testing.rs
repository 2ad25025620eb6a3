//! Pods and observations from one line of text, for tables of cases.

use steersman_types::Typed;
use steersman_types::api::core::v1::Pod;
use steersman_types::jiff::{SignedDuration, Timestamp};

use super::backoff::Backoff;
use super::seen::{ContainerSeen, Ending, Exit, PodSeen, SandboxSeen, State, Trouble};
use crate::runtime::labels::container_hash;

/// The moment of every observation.
pub fn now() -> Timestamp {
    Timestamp::from_second(100_000).unwrap()
}

/// `containers` as in `a b init:i1 side:s1`, and the restart policy.
pub fn pod(containers: &str, policy: &str) -> Pod {
    let mut main = Vec::new();
    let mut init = Vec::new();
    for word in containers.split_whitespace() {
        let (kind, name) = word.split_once(':').unwrap_or(("main", word));
        let mut container = serde_json::json!({"name": name, "image": "i"});
        match kind {
            "init" => init.push(container),
            "side" => {
                container["restartPolicy"] = "Always".into();
                init.push(container);
            }
            // With the three probes.
            "probed" => {
                for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
                    container[probe] = serde_json::json!({"exec": {"command": ["x"]}});
                }
                main.push(container);
            }
            _ => main.push(container),
        }
    }
    Pod::from_value(&serde_json::json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "generation": 1},
        "spec": {"restartPolicy": policy, "containers": main, "initContainers": init},
    }))
    .unwrap()
}

fn ago(text: &str) -> Timestamp {
    let seconds: i64 = text.trim_end_matches('s').parse().unwrap();
    now().checked_sub(SignedDuration::from_secs(seconds)).unwrap()
}

/// Facts separated by `;`, newest container instance of a name first:
/// `sandbox ready|dead [attempt]`, `NAME running`, `NAME created`, `NAME unknown`, `NAME exited CODE SECONDS`, each
/// name optionally with `#RESTARTS`; `probe NAME startup|liveness|readiness yes|no`; `backoff NAME DELAY RAISED`;
/// `trouble NAME REASON`; `stopping`; `stopped`; `failed REASON`.
pub fn seen(pod: &Pod, facts: &str) -> PodSeen {
    let mut seen = PodSeen {
        now: now(),
        max_backoff_seconds: 300,
        host_ips: vec!["192.0.2.1".into()],
        ..PodSeen::default()
    };
    for fact in facts.split(';').map(str::trim).filter(|f| !f.is_empty()) {
        let words: Vec<&str> = fact.split_whitespace().collect();
        match words.as_slice() {
            ["sandbox", state, rest @ ..] => seen.sandboxes.push(SandboxSeen {
                id: format!("s{}", seen.sandboxes.len()),
                attempt: rest.first().map_or(0, |a| a.parse().unwrap()),
                ready: *state == "ready",
                created: ago("100s"),
                ips: vec!["10.0.0.7".into()],
            }),
            ["probe", name, kind, verdict] => {
                let id = seen.container(name).unwrap().id.clone();
                let probes = seen.probes.entry(id).or_default();
                let verdict = Some(*verdict == "yes");
                match *kind {
                    "startup" => probes.startup = verdict,
                    "liveness" => probes.liveness = verdict,
                    _ => probes.readiness = verdict,
                }
            }
            ["backoff", name, delay, raised] => {
                let delay = SignedDuration::from_secs(delay.trim_end_matches('s').parse().unwrap());
                seen.backoff.insert(
                    (*name).into(),
                    Backoff {
                        delay,
                        raised: ago(raised),
                    },
                );
            }
            ["trouble", name, reason] => {
                let trouble = Trouble {
                    reason: (*reason).into(),
                    message: "why".into(),
                };
                seen.trouble.insert((*name).into(), trouble);
            }
            ["stopping"] => seen.ending = Ending::Stopping,
            ["stopped"] => seen.ending = Ending::Stopped,
            ["failed", reason] => {
                seen.failed = Some(Trouble {
                    reason: (*reason).into(),
                    message: "why".into(),
                });
            }
            [name, state, rest @ ..] => seen
                .containers
                .push(container(pod, name, state, rest, seen.containers.len())),
            other => panic!("no such fact: {other:?}"),
        }
    }
    seen
}

fn container(pod: &Pod, name: &str, state: &str, rest: &[&str], index: usize) -> ContainerSeen {
    let (name, restarts) = name.split_once('#').unwrap_or((name, "0"));
    let (_, spec) = super::find_container(pod, name).unwrap();
    let state = match (state, rest) {
        ("running", _) => State::Running,
        ("created", _) => State::Created,
        ("exited", [code, when]) => State::Exited(Exit {
            code: code.parse().unwrap(),
            reason: if *code == "0" { "Completed" } else { "Error" }.into(),
            message: String::new(),
            finished: ago(when),
        }),
        _ => State::Unknown,
    };
    ContainerSeen {
        id: format!("c{index}"),
        name: name.into(),
        sandbox: "s0".into(),
        created: ago("50s"),
        started: (state != State::Created).then(|| ago("50s")),
        state,
        restart_count: restarts.parse().unwrap(),
        hash: container_hash(&spec),
        image: "i".into(),
        ..ContainerSeen::default()
    }
}
