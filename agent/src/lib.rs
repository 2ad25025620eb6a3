//! The node agent: runs the pods that the API assigns to its node, and reports what became of them.
//!
//! Program: `kubelet`. It is an ordinary client of the API server (see `steersman-runtime`) and of the container runtime
//! (see `steersman-cri`), and a small HTTPS server itself.
//!
//! | part | what |
//! |---|---|
//! | [`app`] | flags, wiring, the order of starting |
//! | [`pods`], [`pod`] | one worker per pod: observe, decide, act, report |
//! | [`statics`] | pods from files of the node |
//! | [`runtime`] | a pod in CRI's words |
//! | [`mod@env`], [`volumes`], [`sources`], [`hosts`], [`dns`] | what a container finds inside |
//! | [`images`], [`probes`], [`lifecycle`], [`logs`], [`cgroups`] | what surrounds it |
//! | [`turns`] | which pod goes next when many want to start or stop |
//! | [`node`] | the node's object, status and lease |
//! | [`stats`], [`eviction`], [`gc`] | what is used, and what happens when it gets short |
//! | [`certs`] | the agent's own certificates |
//! | [`server`] | the agent's API: logs, exec, figures |
//!
//! What stays true: a restart of the agent touches no container; what must survive it lies in CRI labels and in files
//! below the root directory that can be made again. What it does not do: persistent volumes, device plugins.

pub mod admit;
pub mod allocations;
pub mod api;
pub mod app;
pub mod certs;
pub mod cgroups;
pub mod config;
pub mod context;
pub mod dns;
pub mod env;
pub mod events;
pub mod eviction;
pub mod gc;
pub mod hosts;
pub mod images;
pub mod lifecycle;
pub mod logs;
pub mod node;
pub mod overrides;
pub mod pod;
pub mod pods;
pub mod probes;
pub mod pull_secrets;
pub mod pulled;
pub mod quantity;
pub mod report;
pub mod runtime;
pub mod server;
pub mod sources;
pub mod statics;
pub mod stats;
pub mod turns;
pub mod volumes;
