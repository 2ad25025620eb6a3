//! The node as an object of the API: registered at start, its status kept true, its lease renewed.

pub mod lease;
pub mod machine;
pub mod patch;
pub mod status;
pub mod update;

/// The version that the agent reports: upstream's, whose behaviour it has.
pub const VERSION: &str = "v1.36.2";
