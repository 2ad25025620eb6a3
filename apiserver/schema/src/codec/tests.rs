#![allow(clippy::unwrap_used)]

mod golden;
mod json;
