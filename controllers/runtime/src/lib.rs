//! What every program of the cluster needs to be a good client of the API server.
//!
//! Callers: the controllers, the scheduler, the node agent, the service proxy and the cluster DNS. Each of them is an
//! ordinary client with its own credentials; this crate holds what they share:
//!
//! | module | what |
//! |---|---|
//! | [`client`] | typed calls over JSON, errors from `Status`, a transport that can be replaced |
//! | [`informer`] | list and watch into a local store: old and new object per event, indexes, several subscribers |
//! | [`queue`], [`queue_metrics`] | work queue: one key at most once, back-off, delayed adds; what it tells about itself |
//! | [`labels`] | label selectors of objects against labels |
//! | [`leader`] | leader election on a Lease with upstream's timings |
//! | [`events`] | recorder of core/v1 events with upstream's aggregation |
//! | [`serve`] | the HTTPS port: health, metrics, delegated authentication and authorization |
//! | [`flags`], [`logging`], [`shutdown`] | command lines, log output, signals |
//!
//! What stays true: nothing here knows a particular controller; nothing is unbounded; a lost connection is retried
//! with back-off and never ends an informer. What it does not do: server-side logic, protobuf, HTTP/2.

pub mod backoff;
pub mod client;
pub mod events;
pub mod flags;
pub mod informer;
pub mod labels;
pub mod leader;
pub mod logging;
pub mod metrics;
pub mod pki;
pub mod queue;
pub mod queue_metrics;
pub mod serve;
pub mod shutdown;

pub use client::{ApiError, Client, DeleteOptions, ListOptions, Patch};
pub use informer::{Event, Informer, Informers, Key};
pub use queue::WorkQueue;
