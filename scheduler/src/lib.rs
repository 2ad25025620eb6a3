//! The scheduler: gives every pod that waits for one a node.
//!
//! An ordinary client of the API server (own credentials, own leader lease). The path of a pod, one file each:
//! informer event -> [`state`] ([`queue`], [`snapshot`]) -> [`decide`] over [`plugins`] -> assume -> bind ([`run`]).
//!
//! What stays true: decisions are pure functions of pod and snapshot; a pod is in the queue once or on a node once;
//! an assumed pod counts until its binding is seen or has failed, so no node is given away twice.
//! A pod that fits nowhere may make room for itself ([`preempt`] decides, [`victims`] does).
//! What it does not do yet: volumes, claims of devices, extenders.

pub mod arguments;
pub mod cycle;
pub mod decide;
pub mod event;
pub mod metrics;
pub mod options;
pub mod plugins;
pub mod pod;
pub mod preempt;
pub mod profiles;
pub mod queue;
pub mod resources;
pub mod run;
pub mod selector;
pub mod snapshot;
pub mod spreading;
pub mod state;
pub mod terms;
pub mod trim;
pub mod victims;
