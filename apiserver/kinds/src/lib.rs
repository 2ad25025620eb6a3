//! What each built-in kind decides for itself: defaulting that is not static, validation, who may write which half,
//! warnings, selectable fields, table columns.
//!
//! A kind is one file and one line in the list below. [`Kind`] is the contract between such a file and the generic
//! request path of the API server, the only caller besides tests. Resources of the table of facts without a file of
//! their own get a generic [`Kind`] ([`fallback`]): metadata rules, status kept apart, generation counted.
//!
//! Everything here is a pure function of its arguments. No function here talks to the store; what needs other objects
//! (quota, allocation of addresses, ownership) belongs to admission or to the server.

pub mod again;
pub mod diff;
pub mod fallback;
pub mod internal;
pub mod kind;
pub mod meta;
pub mod nothing;
mod others;
pub mod resources;
pub mod scale;
pub mod selector;
pub mod table;
pub mod view;
pub mod workload;

pub use kind::{Column, Context, Kind, Scale, Status, Table};

use std::collections::HashMap;
use std::sync::LazyLock;

/// Declares the module of each kind and lists its `KIND`.
macro_rules! kinds {
    ($($module:ident;)*) => {
        $(pub mod $module;)*
        /// The kinds that have a file of their own.
        fn own() -> Vec<&'static Kind> {
            let mut list: Vec<&'static Kind> = Vec::new();
            $(list.extend($module::KINDS);)*
            list
        }
    };
}

kinds! {
    autoscaler;
    certificate;
    claim;
    configmap;
    controllerrevision;
    cronjob;
    daemonset;
    deployment;
    disruptionbudget;
    endpoints;
    endpointslice;
    event;
    job;
    lease;
    limitrange;
    namespace;
    node;
    pod;
    priorityclass;
    quota;
    rbac;
    replicaset;
    secret;
    service;
    serviceaccount;
    statefulset;
}

static ALL: LazyLock<Vec<&'static Kind>> = LazyLock::new(|| {
    let mut list = own();
    list.extend(fallback::others(&list));
    list
});

static INDEX: LazyLock<HashMap<(&'static str, &'static str, &'static str), &'static Kind>> =
    LazyLock::new(|| ALL.iter().map(|k| ((k.group, k.version, k.plural), *k)).collect());

/// Every kind: those with their own file first, then the generic ones, in the table's order.
pub fn all() -> &'static [&'static Kind] {
    &ALL
}

/// The kind behind a resource: `find("apps", "v1", "deployments")`.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    INDEX.get(&(group, version, plural)).copied()
}

#[cfg(test)]
mod tests;
