//! The agent's door to the container runtime (CRI v1).
//!
//! [`Runtime`] holds the calls that the agent makes and nothing else. [`Client`] speaks them to a runtime over its Unix
//! socket; [`fake::Fake`] is a runtime in memory that records its calls and can be told to fail at the n-th one, for
//! tests of the code above.
//!
//! What stays true: only this crate knows gRPC. Every failure is a [`CriError`] that names the call. No call retries by
//! itself, and a deadline belongs to the call (upstream's `runtimeRequestTimeout`), never to the connection: the client
//! connects again by itself after the runtime has restarted.

mod client;
pub mod fake;
pub mod health;
mod runtime;

pub use client::Client;
pub use runtime::{CriError, Runtime};

/// The messages of CRI v1, generated from `proto/cri.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}
