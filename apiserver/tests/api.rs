//! The API server in one process over the memory store, asked over real TLS and HTTP.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

#[path = "api/apply.rs"]
mod apply;
#[path = "api/harness.rs"]
mod harness;
#[path = "api/reads.rs"]
mod reads;
#[path = "api/refusals.rs"]
mod refusals;
#[path = "api/services.rs"]
mod services;
#[path = "api/stages.rs"]
mod stages;
#[path = "api/watches.rs"]
mod watches;
#[path = "api/writes.rs"]
mod writes;
