#![allow(clippy::unwrap_used)]

mod generate;
mod golden;
mod json;
mod properties;
