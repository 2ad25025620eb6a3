//! Would a container that ended be started again? Policies of the pod, of the container, and rules on exit codes.

use steersman_types::api::core::v1::{Container, Pod};

use super::seen::{PodSeen, State};

/// After an exit with `code`. A container's own rules come first, then its own policy, then the pod's.
#[must_use]
pub fn after_exit(container: &Container, pod: &Pod, code: i32) -> bool {
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(on) = &rule.exit_codes else { continue };
        let listed = on.values.iter().flatten().any(|v| *v == code);
        let holds = match on.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        if holds {
            return rule.action == "Restart";
        }
    }
    match container
        .restart_policy
        .as_deref()
        .unwrap_or_else(|| super::restart_policy(pod))
    {
        "Never" => false,
        "OnFailure" => code != 0,
        _ => true,
    }
}

/// After the agent itself ended it because of a probe or a changed definition: exit codes do not count.
#[must_use]
pub fn after_kill(container: &Container, pod: &Pod) -> bool {
    container
        .restart_policy
        .as_deref()
        .unwrap_or_else(|| super::restart_policy(pod))
        != "Never"
}

/// Should there be a (new) instance of this container, as far as its last one tells?
#[must_use]
pub fn wanted(container: &Container, pod: &Pod, seen: &PodSeen) -> bool {
    if pod.metadata.deletion_timestamp.is_some() || seen.failed.is_some() {
        return false;
    }
    match seen.container(&container.name).map(|c| &c.state) {
        None | Some(State::Created | State::Unknown) => true,
        Some(State::Running) => false,
        Some(State::Exited(exit)) => after_exit(container, pod, exit.code),
    }
}
