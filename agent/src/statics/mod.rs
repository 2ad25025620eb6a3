//! Pods from files of the node or from a URL (static pods), and the API's picture of them (mirror pods).
//!
//! | part | what |
//! |---|---|
//! | [`manifest`], [`defaults`] | a text as pods; pure |
//! | [`files`], [`url`] | look at the files, ask the URL, tell [`crate::pods`] which pods there are |
//! | [`mirror`] | what to do about an object of the API that shows a static pod; pure |
//! | [`keeper`] | does it |
//!
//! What stays true: a static pod runs whether or not there is an API server; nothing that happens to its picture
//! touches it.

mod defaults;
pub mod files;
pub mod keeper;
pub mod manifest;
pub mod mirror;
pub mod url;

pub use keeper::Mirrors;
