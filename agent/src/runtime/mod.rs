//! What the agent tells the container runtime about a pod: names, labels, limits, security, and how it reads them back.
//!
//! Everything here is a pure translation between the API's words and CRI's. Labels and annotations are upstream's, so
//! either agent can take over the other's containers.

pub mod container;
pub mod hugepages;
pub mod labels;
pub mod resources;
pub mod sandbox;
pub mod security;
