//! Logs go to standard error; `-v` sets how much: 0 info, 1–3 more of ours, 4 and above everything of ours.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::flags::Logs;

/// Sets the process's log up. Called once, first thing.
pub fn init(flags: &Logs) {
    let level = match flags.v {
        ..=1 => "info,h2=error,rustls=error",
        2..=5 => "info,steersman_apiserver=debug,steersman_auth=debug,steersman_storage=debug",
        _ => "debug,h2=info,hyper=info,rustls=info,tower=info",
    };
    let builder = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(EnvFilter::new(level));
    // A second subscriber in one process (tests) is no reason to fail.
    let _ = if flags.logging_format == "json" {
        builder.json().try_init()
    } else {
        builder.try_init()
    };
}
