//! Log output of all programs: one line per record on standard error.
//!
//! `--v` as upstream: 0–1 info, 2–3 info (more of it is not written by us), 4–5 debug, 6 and more trace. The environment
//! variable `RUST_LOG` overrides it for single modules.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

/// Installs the subscriber for this process; a second call changes nothing.
pub fn init(verbosity: u8) {
    let level = match verbosity {
        0..=3 => "info",
        4..=5 => "debug",
        _ => "trace",
    };
    // What the libraries below say at our levels is about single connections: only from --v=8 on. kube's client logs as
    // an error what we see as a result and report ourselves.
    let ours = if verbosity >= 8 {
        level.to_owned()
    } else {
        format!("{level},hyper=warn,hyper_util=warn,h2=warn,rustls=warn,tower=warn,kube_client=off")
    };
    let filter = std::env::var("RUST_LOG")
        .ok()
        .and_then(|text| EnvFilter::try_new(text).ok());
    let filter = filter.unwrap_or_else(|| EnvFilter::new(ours));
    let ansi = false;
    let _ = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .try_init();
}
