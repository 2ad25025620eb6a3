//! Container statuses: state, last state, restart count, readiness.

use steersman_types::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    ContainerUser, LinuxContainerUser, Pod, PodStatus, ResourceRequirements, VolumeMountStatus,
};
use steersman_types::jiff::Timestamp;
use steersman_types::meta::Time;

use super::super::seen::{ContainerSeen, PodSeen, State};
use super::super::{Kind, ephemeral_containers, init_containers, is_sidecar, main_containers, restart};

/// The API's times are whole seconds; comparing with what the API holds needs the same.
#[must_use]
pub fn second(t: Timestamp) -> Timestamp {
    Timestamp::from_second(t.as_second()).unwrap_or(t)
}

/// Fills the three lists of container statuses.
pub fn fill(pod: &Pod, seen: &PodSeen, old: &PodStatus, new: &mut PodStatus) {
    let has_init = !init_containers(pod).is_empty();
    let list = |containers: &[Container], before: &Option<Vec<ContainerStatus>>, kind: Kind| -> Vec<ContainerStatus> {
        let before = before.as_deref().unwrap_or_default();
        containers
            .iter()
            .map(|c| one(pod, c, kind, has_init, seen, before.iter().find(|s| s.name == c.name)))
            .collect()
    };
    let mut main = list(main_containers(pod), &old.container_statuses, Kind::Main);
    main.sort_by(|a, b| a.name.cmp(&b.name));
    new.container_statuses = Some(main);
    let init = list(init_containers(pod), &old.init_container_statuses, Kind::Init);
    new.init_container_statuses = (!init.is_empty()).then_some(init);
    let extra = list(
        &ephemeral_containers(pod),
        &old.ephemeral_container_statuses,
        Kind::Ephemeral,
    );
    new.ephemeral_container_statuses = (!extra.is_empty()).then_some(extra);
}

fn one(
    pod: &Pod,
    c: &Container,
    kind: Kind,
    has_init: bool,
    seen: &PodSeen,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let mut instances = seen.containers.iter().filter(|s| s.name == c.name);
    let mut status = match instances.next() {
        Some(newest) => {
            let mut status = from_runtime(c, newest, old, seen.actuated.get(&c.name));
            if let Some(previous) = instances.next().and_then(ended) {
                status.last_state = Some(ContainerState {
                    terminated: Some(previous),
                    ..Default::default()
                });
            }
            status
        }
        None => without_runtime(pod, c, has_init, old),
    };
    waiting(pod, c, kind, seen, &mut status);
    if kind != Kind::Ephemeral {
        readiness(c, kind, seen, old, &mut status);
    }
    status
}

fn mounts(c: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = c.volume_mounts.as_ref()?;
    let one = |m: &steersman_types::api::core::v1::VolumeMount| VolumeMountStatus {
        name: m.name.clone(),
        mount_path: m.mount_path.clone(),
        read_only: m.read_only,
        recursive_read_only: (m.read_only == Some(true)).then(|| "Disabled".to_owned()),
        ..Default::default()
    };
    Some(mounts.iter().map(one).collect())
}

fn ended(c: &ContainerSeen) -> Option<ContainerStateTerminated> {
    let exit = c.exit()?;
    Some(ContainerStateTerminated {
        container_id: Some(id(c)),
        exit_code: exit.code,
        finished_at: Some(Time(second(exit.finished))),
        message: (!exit.message.is_empty()).then(|| exit.message.clone()),
        reason: (!exit.reason.is_empty()).then(|| exit.reason.clone()),
        started_at: Some(Time(second(c.started.unwrap_or(Timestamp::UNIX_EPOCH)))),
        signal: None,
    })
}

fn id(c: &ContainerSeen) -> String {
    format!("containerd://{}", c.id)
}

fn from_runtime(
    c: &Container,
    newest: &ContainerSeen,
    old: Option<&ContainerStatus>,
    actuated: Option<&ResourceRequirements>,
) -> ContainerStatus {
    let mut state = ContainerState::default();
    let mut restart_count = newest.restart_count;
    match &newest.state {
        State::Running => {
            let started_at = newest.started.map(|t| Time(second(t)));
            state.running = Some(ContainerStateRunning { started_at });
        }
        State::Exited(_) => state.terminated = ended(newest),
        State::Unknown if was_running(old) => {
            state.terminated = Some(lost("The container could not be located when the pod was terminated"));
            restart_count = old.map_or(0, |o| o.restart_count) + 1;
        }
        State::Created | State::Unknown => state.waiting = Some(ContainerStateWaiting::default()),
    }
    let user = newest.user.as_ref().map(|u| ContainerUser {
        linux: Some(LinuxContainerUser {
            uid: u.uid,
            gid: u.gid,
            supplemental_groups: Some(u.groups.clone()),
        }),
    });
    // What the API already says about an earlier end is kept if the runtime no longer has it.
    let last_state = old.and_then(|o| {
        let same = o.container_id.as_deref() == Some(&id(newest));
        let ended_before = o.state.as_ref().filter(|s| s.terminated.is_some() && !same);
        ended_before.or(o.last_state.as_ref()).cloned()
    });
    ContainerStatus {
        name: c.name.clone(),
        container_id: Some(id(newest)),
        image: newest.image.clone(),
        image_id: newest.image_ref.clone(),
        restart_count: restart_count.max(old.map_or(0, |o| o.restart_count)),
        state: Some(state),
        last_state: Some(last_state.unwrap_or_default()),
        // One that runs has what the runtime was told, any other one will get what the node agreed to.
        resources: actuated
            .filter(|_| newest.is_running())
            .map(|given| shown(given, c))
            .or_else(|| c.resources.clone())
            .or_else(|| Some(Default::default())),
        allocated_resources: c.resources.as_ref().and_then(|r| r.requests.clone()),
        user,
        volume_mounts: mounts(c),
        ..ContainerStatus::default()
    }
}

/// The pod's limits that hold for the container are told only beside limits of its own.
fn shown(given: &ResourceRequirements, c: &Container) -> ResourceRequirements {
    let own = c.resources.as_ref().and_then(|r| r.limits.as_ref());
    let limits = given.limits.clone().filter(|_| own.is_some_and(|l| !l.is_empty()));
    ResourceRequirements {
        limits,
        ..given.clone()
    }
}

fn was_running(old: Option<&ContainerStatus>) -> bool {
    old.and_then(|o| o.state.as_ref()).is_some_and(|s| s.running.is_some())
}

fn lost(message: &str) -> ContainerStateTerminated {
    ContainerStateTerminated {
        reason: Some("ContainerStatusUnknown".into()),
        message: Some(message.into()),
        exit_code: 137,
        ..Default::default()
    }
}

/// The runtime knows no instance: not started yet, or removed.
fn without_runtime(pod: &Pod, c: &Container, has_init: bool, old: Option<&ContainerStatus>) -> ContainerStatus {
    if let Some(old) = old
        && old.state.as_ref().is_some_and(|s| s.terminated.is_some())
    {
        return old.clone();
    }
    let reason = if has_init {
        "PodInitializing"
    } else {
        "ContainerCreating"
    };
    let waiting = ContainerStateWaiting {
        reason: Some(reason.into()),
        message: None,
    };
    let mut status = ContainerStatus {
        name: c.name.clone(),
        image: c.image.clone().unwrap_or_default(),
        state: Some(ContainerState {
            waiting: Some(waiting),
            ..Default::default()
        }),
        last_state: Some(old.and_then(|o| o.last_state.clone()).unwrap_or_default()),
        restart_count: old.map_or(0, |o| o.restart_count),
        volume_mounts: mounts(c),
        ..ContainerStatus::default()
    };
    if was_running(old) && status.last_state.as_ref().is_none_or(|s| s.terminated.is_none()) {
        let message = "The container could not be located when the pod was deleted.  The container used to be Running";
        status.last_state = Some(ContainerState {
            terminated: Some(lost(message)),
            ..Default::default()
        });
        if pod.metadata.deletion_timestamp.is_none() {
            status.restart_count += 1;
        }
    }
    status
}

/// A container that should start but could not is waiting, with the reason.
fn waiting(pod: &Pod, c: &Container, kind: Kind, seen: &PodSeen, status: &mut ContainerStatus) {
    let completed = || {
        seen.container(&c.name)
            .and_then(ContainerSeen::exit)
            .is_some_and(|e| e.code == 0)
    };
    if kind == Kind::Init {
        if completed() && !is_sidecar(c) {
            return;
        }
        let main_seen = main_containers(pod).iter().any(|m| seen.container(&m.name).is_some());
        let state = status.state.get_or_insert_default();
        if seen.container(&c.name).is_none() && main_seen && !is_sidecar(c) && state.waiting.is_some() {
            let message = "Unable to get init container status from container runtime and pod has been initialized, \
                           treat it as exited normally";
            *state = ContainerState {
                terminated: Some(ContainerStateTerminated {
                    reason: Some("Completed".into()),
                    message: Some(message.into()),
                    ..Default::default()
                }),
                ..Default::default()
            };
            return;
        }
    }
    let Some(trouble) = seen.trouble.get(&c.name) else {
        return;
    };
    if !restart::wanted(c, pod, seen) {
        return;
    }
    if let Some(state) = status.state.take()
        && state.terminated.is_some()
    {
        status.last_state = Some(state);
    }
    let message = (!trouble.message.is_empty()).then(|| trouble.message.clone());
    let waiting = ContainerStateWaiting {
        reason: Some(trouble.reason.clone()),
        message,
    };
    status.state = Some(ContainerState {
        waiting: Some(waiting),
        ..Default::default()
    });
}

/// `started` and `ready`, from the state and the probes.
fn readiness(c: &Container, kind: Kind, seen: &PodSeen, old: Option<&ContainerStatus>, status: &mut ContainerStatus) {
    let running = status.state.as_ref().is_some_and(|s| s.running.is_some());
    let ended_well = status
        .state
        .as_ref()
        .and_then(|s| s.terminated.as_ref())
        .is_some_and(|t| t.exit_code == 0);
    let probes = seen.container(&c.name).map(|l| seen.probes_of(l)).unwrap_or_default();
    // The same container as was reported before: until its probes have spoken in this process, nothing changes. So a
    // restart of the agent does not flip readiness.
    let same = old.filter(|o| running && o.container_id.is_some() && o.container_id == status.container_id);
    let started = running
        && match (&c.startup_probe, probes.startup) {
            (None, _) => true,
            (Some(_), Some(verdict)) => verdict,
            (Some(_), None) => same.is_some_and(|o| o.started == Some(true)),
        };
    status.started = Some(started);
    if kind == Kind::Init && !is_sidecar(c) {
        status.ready = ended_well;
        return;
    }
    status.ready = started
        && match (&c.readiness_probe, probes.readiness) {
            (None, _) => true,
            (Some(_), Some(verdict)) => verdict,
            (Some(_), None) => same.is_some_and(|o| o.ready),
        };
}
