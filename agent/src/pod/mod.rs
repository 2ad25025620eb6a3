//! One pod on this node: what is seen of it, what to do about it, what to report, and the task that does it.
//!
//! [`seen`] is plain data; [`decide`] and [`status`] are pure functions over it; [`worker`] is the only part that awaits.

pub mod backoff;
pub mod decide;
pub mod demand;
pub mod observe;
pub mod qos;
pub mod resize;
pub mod restart;
pub mod seen;
pub mod start;
pub mod status;
pub mod stop;
#[cfg(test)]
pub mod testing;
pub mod worker;

use steersman_types::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};

/// Which list of the pod's spec a container comes from; the order is that of starting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Ephemeral,
    /// Runs to completion before the next one starts; one with `restartPolicy: Always` is a sidecar.
    Init,
    Main,
}

/// The pod's spec; a pod without one cannot exist in the API.
#[must_use]
pub fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

#[must_use]
pub fn init_containers(pod: &Pod) -> &[Container] {
    spec(pod).init_containers.as_deref().unwrap_or_default()
}

#[must_use]
pub fn main_containers(pod: &Pod) -> &[Container] {
    &spec(pod).containers
}

/// The pod's ephemeral containers, as ordinary ones.
#[must_use]
pub fn ephemeral_containers(pod: &Pod) -> Vec<Container> {
    spec(pod).ephemeral_containers.iter().flatten().map(ordinary).collect()
}

/// Every container with its kind, in the order of the spec: init, main, ephemeral.
pub fn all_containers(pod: &Pod) -> impl Iterator<Item = (Kind, Container)> + '_ {
    let init = init_containers(pod).iter().map(|c| (Kind::Init, c.clone()));
    let main = main_containers(pod).iter().map(|c| (Kind::Main, c.clone()));
    init.chain(main)
        .chain(ephemeral_containers(pod).into_iter().map(|c| (Kind::Ephemeral, c)))
}

/// The container of that name, of whatever kind.
#[must_use]
pub fn find_container(pod: &Pod, name: &str) -> Option<(Kind, Container)> {
    all_containers(pod).find(|(_, c)| c.name == name)
}

/// An init container that keeps running beside the main ones.
#[must_use]
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

#[must_use]
pub fn is_host_network(pod: &Pod) -> bool {
    spec(pod).host_network == Some(true)
}

#[must_use]
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

#[must_use]
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

#[must_use]
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    Some(pod.metadata.annotations.as_ref()?.get(name)?.as_str())
}

/// Where a pod that is not the API's comes from.
pub const SOURCE: &str = "kubernetes.io/config.source";
/// On an object of the API that only shows a static pod: which one.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
/// Identifies a version of a static pod.
pub const HASH: &str = "kubernetes.io/config.hash";

/// The [`SOURCE`] of a pod from a file of this node.
pub const FILE: &str = "file";
/// The [`SOURCE`] of a pod from a URL.
pub const HTTP: &str = "http";

/// Where the pod comes from; a pod of the API need not say.
#[must_use]
pub fn source(pod: &Pod) -> &str {
    annotation(pod, SOURCE).unwrap_or("api")
}

/// A pod from a file of this node, or from a URL that it asks.
#[must_use]
pub fn is_static(pod: &Pod) -> bool {
    source(pod) != "api"
}

/// The API's picture of a static pod.
#[must_use]
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, MIRROR).is_some()
}

/// From here on, a priority says that the cluster or the node needs the pod.
const CRITICAL: i32 = 2_000_000_000;

/// A pod that the node must not end by itself and takes even when it lacks something.
#[must_use]
pub fn is_critical(pod: &Pod) -> bool {
    is_static(pod) || is_mirror(pod) || spec(pod).priority.is_some_and(|p| p >= CRITICAL)
}

/// How upstream's messages name a pod: `name_namespace(uid)`.
#[must_use]
pub fn full_name(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// `restartPolicy` is defaulted by the API server.
#[must_use]
pub fn restart_policy(pod: &Pod) -> &str {
    spec(pod).restart_policy.as_deref().unwrap_or("Always")
}

fn ordinary(c: &EphemeralContainer) -> Container {
    Container {
        args: c.args.clone(),
        command: c.command.clone(),
        env: c.env.clone(),
        env_from: c.env_from.clone(),
        image: c.image.clone(),
        image_pull_policy: c.image_pull_policy.clone(),
        name: c.name.clone(),
        security_context: c.security_context.clone(),
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        termination_message_path: c.termination_message_path.clone(),
        termination_message_policy: c.termination_message_policy.clone(),
        tty: c.tty,
        volume_mounts: c.volume_mounts.clone(),
        working_dir: c.working_dir.clone(),
        ..Container::default()
    }
}
