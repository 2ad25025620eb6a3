//! Pods from files of the node (static pods), and the API's picture of them (mirror pods).
//!
//! | part | what |
//! |---|---|
//! | [`manifest`], [`defaults`] | a file's text as a pod; pure |
//! | [`files`] | looks at the files, tells [`crate::pods`] which pods there are |
//! | [`mirror`] | what to do about an object of the API that shows a static pod; pure |
//! | [`keeper`] | does it |
//!
//! What stays true: a static pod runs whether or not there is an API server; nothing that happens to its picture
//! touches it. What it does not do: pods from a URL.

mod defaults;
pub mod files;
pub mod keeper;
pub mod manifest;
pub mod mirror;

pub use keeper::Mirrors;
