//! Figures of a running cluster, printed: start-up, idle memory, writes, lists, pod start. No test: nothing passes or fails.
//!
//! `bench [start] [memory] [writes] [list] [pods]`, all of them by default, against the cluster of `hack/up`. Work is
//! bounded in count; what it makes, it removes.

mod api;
mod list;
mod memory;
mod pods;
mod start;
mod writes;

use anyhow::{Result, bail};
use steersman_conformance::Cluster;

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    // Fails only when there is one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let known = ["start", "memory", "writes", "list", "pods"];
    if let Some(other) = wanted.iter().find(|w| !known.contains(&w.as_str())) {
        bail!("unknown benchmark {other}; there are: {}", known.join(" "));
    }
    let cluster = Cluster::here();
    for name in known
        .into_iter()
        .filter(|name| wanted.is_empty() || wanted.iter().any(|w| w == name))
    {
        match name {
            "start" => start::run(&cluster).await?,
            "memory" => memory::run(&cluster)?,
            "writes" => writes::run(&cluster).await?,
            "list" => list::run(&cluster).await?,
            _ => pods::run(&cluster).await?,
        }
    }
    Ok(())
}

/// The middle one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
