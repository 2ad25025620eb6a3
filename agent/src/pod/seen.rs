//! What is known of a pod at one moment: the input of every decision, as plain data.
//!
//! Made by [`super::observe`] and by tests. Holds no handle and no clock: `now` is a field.

use std::collections::BTreeMap;

use steersman_types::api::core::v1::{PodCondition, ResourceRequirements};
use steersman_types::jiff::Timestamp;

use super::backoff::Backoff;

/// Everything that [`super::decide::decide`] and [`super::status::status`] may look at besides the pod itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodSeen {
    pub now: Timestamp,
    /// Newest first.
    pub sandboxes: Vec<SandboxSeen>,
    /// Newest first, over all sandboxes.
    pub containers: Vec<ContainerSeen>,
    /// By container name: why the last attempt to start it failed. Gone once it has started.
    pub trouble: BTreeMap<String, Trouble>,
    /// By container name: crash back-off.
    pub backoff: BTreeMap<String, Backoff>,
    /// By container id.
    pub probes: BTreeMap<String, ProbesSeen>,
    /// By container name: one more than the highest attempt whose log is on disk. Counts restarts when the runtime
    /// has forgotten the containers (node restart).
    pub logged_attempts: BTreeMap<String, i32>,
    /// The node's addresses, primary first.
    pub host_ips: Vec<String>,
    pub ending: Ending,
    /// The pod was refused or ended by the node itself; its phase is Failed.
    pub failed: Option<Trouble>,
    /// Why the node ended it, to be shown once it has ended.
    pub disrupted: Option<PodCondition>,
    /// By container name: the resources that the runtime was told.
    pub actuated: BTreeMap<String, ResourceRequirements>,
    /// The conditions of a change of resources that is not complete.
    pub resize: Vec<PodCondition>,
    /// The longest crash back-off.
    pub max_backoff_seconds: i64,
}

/// Is the pod being stopped for good?
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ending {
    #[default]
    No,
    /// Containers are being stopped; none may start.
    Stopping,
    /// No container runs any more and none will.
    Stopped,
}

/// A reason in upstream's words and the details.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trouble {
    pub reason: String,
    pub message: String,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct SandboxSeen {
    pub id: String,
    pub attempt: u32,
    pub ready: bool,
    pub created: Timestamp,
    /// Primary first; empty with host network.
    pub ips: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerSeen {
    pub id: String,
    pub name: String,
    pub sandbox: String,
    pub state: State,
    pub created: Timestamp,
    pub started: Option<Timestamp>,
    /// From the container's annotations: how often its predecessors ended.
    pub restart_count: i32,
    /// From the container's annotations: a hash of the parts of its spec that must not change.
    pub hash: String,
    /// As given in the spec, resolved by the runtime, and the runtime's reference (`imageID` of the API).
    pub image: String,
    pub image_ref: String,
    pub user: Option<UserSeen>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub enum State {
    Created,
    Running,
    Exited(Exit),
    #[default]
    Unknown,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exit {
    pub code: i32,
    pub reason: String,
    /// The termination message, already read and cut.
    pub message: String,
    pub finished: Timestamp,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct UserSeen {
    pub uid: i64,
    pub gid: i64,
    pub groups: Vec<i64>,
}

/// Results of a container's probes; `None` while a probe has given no verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProbesSeen {
    pub startup: Option<bool>,
    pub liveness: Option<bool>,
    pub readiness: Option<bool>,
}

impl PodSeen {
    /// The newest container of that name.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<&ContainerSeen> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// What is known of a container's probes.
    #[must_use]
    pub fn probes_of(&self, container: &ContainerSeen) -> ProbesSeen {
        self.probes.get(&container.id).copied().unwrap_or_default()
    }
}

impl ContainerSeen {
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state == State::Running
    }

    #[must_use]
    pub fn exit(&self) -> Option<&Exit> {
        match &self.state {
            State::Exited(exit) => Some(exit),
            _ => None,
        }
    }
}
