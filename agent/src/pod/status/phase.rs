//! The pod's phase, from its containers' states.

use steersman_types::api::core::v1::{Container, ContainerStateTerminated, ContainerStatus, Pod, PodStatus};

use super::super::seen::PodSeen;
use super::super::{init_containers, is_sidecar, main_containers, restart};

/// How a container stands, for counting.
enum Stands<'a> {
    Running,
    /// Not running now, but its last instance ended like this.
    Ended(&'a ContainerStateTerminated),
    NeverStarted,
    Unknown,
}

fn stands(status: Option<&ContainerStatus>) -> Stands<'_> {
    let Some(state) = status.and_then(|s| s.state.as_ref()) else {
        return Stands::Unknown;
    };
    if state.running.is_some() {
        return Stands::Running;
    }
    if let Some(ended) = &state.terminated {
        return Stands::Ended(ended);
    }
    match status
        .and_then(|s| s.last_state.as_ref())
        .and_then(|s| s.terminated.as_ref())
    {
        Some(ended) => Stands::Ended(ended),
        None => Stands::NeverStarted,
    }
}

/// `terminal`: no container runs any more and none will, whatever the restart policy.
pub fn phase(pod: &Pod, seen: &PodSeen, new: &PodStatus, terminal: bool) -> String {
    if seen.failed.is_some() {
        return "Failed".into();
    }
    let of =
        |list: &Option<Vec<ContainerStatus>>, c: &Container| list.iter().flatten().find(|s| s.name == c.name).cloned();
    let mut init_pending = 0;
    let mut sidecars_pending = 0;
    let (mut running, mut waiting, mut unknown) = (0, 0, 0);
    for c in init_containers(pod) {
        let status = of(&new.init_container_statuses, c);
        match (stands(status.as_ref()), is_sidecar(c)) {
            (Stands::Ended(ended), false) if ended.exit_code != 0 => {
                if !restart::after_exit(c, pod, ended.exit_code) {
                    return "Failed".into();
                }
            }
            (Stands::Ended(_), _) => {}
            (_, false) => init_pending += 1,
            (Stands::Running, true) => {
                running += 1;
                if status.and_then(|s| s.started) != Some(true) {
                    sidecars_pending += 1;
                }
            }
            (Stands::NeverStarted, true) => {
                sidecars_pending += 1;
                waiting += 1;
            }
            (Stands::Unknown, true) => unknown += 1,
        }
    }
    let (mut stopped, mut for_good, mut succeeded) = (0, 0, 0);
    for c in main_containers(pod) {
        let status = of(&new.container_statuses, c);
        match stands(status.as_ref()) {
            Stands::Running => running += 1,
            Stands::NeverStarted => waiting += 1,
            Stands::Unknown => unknown += 1,
            Stands::Ended(ended) => {
                stopped += 1;
                for_good += i32::from(!restart::after_exit(c, pod, ended.exit_code));
                let now = status
                    .as_ref()
                    .and_then(|s| s.state.as_ref())
                    .is_some_and(|s| s.terminated.is_some());
                succeeded += i32::from(now && ended.exit_code == 0);
            }
        }
    }
    let main_started = main_containers(pod)
        .iter()
        .any(|c| seen.container(&c.name).is_some_and(|c| c.started.is_some()));
    let result = if init_pending > 0 || (sidecars_pending > 0 && !main_started) || waiting > 0 {
        "Pending"
    } else if running > 0 && unknown == 0 {
        "Running"
    } else if running == 0 && stopped > 0 && unknown == 0 {
        match (terminal || stopped == for_good, stopped == succeeded) {
            (true, true) => "Succeeded",
            (true, false) => "Failed",
            // At least one is about to be started again.
            (false, _) => "Running",
        }
    } else {
        "Pending"
    };
    // Ended before anything could run: upstream's status manager makes that Failed before the pod is deleted.
    if terminal && result == "Pending" {
        "Failed".into()
    } else {
        result.into()
    }
}
