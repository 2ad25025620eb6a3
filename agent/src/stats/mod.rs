//! Figures about the node, its pods and their containers: what they use of processor, memory, disk and network.
//!
//! Asked by the agent's API (`/stats/summary`, `/metrics/*`) and by [`crate::eviction`], which must see the same. Each
//! question is answered afresh: processor and memory from the kernel's groups and the runtime, disk by looking. What it
//! does not do: keep a history, other than one earlier value per subject for rates.

pub mod collect;
pub mod disk;
pub mod machine;
pub mod rate;
pub mod types;

pub use collect::Figures;
