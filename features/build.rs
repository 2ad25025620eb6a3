//! Needed for the manifest's build dependencies to count.
fn main() {}
