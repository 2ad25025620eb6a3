//! Signals to the cluster's programs, and background processes of a test.

use std::process::Child;

use crate::{Cluster, eventually};

/// Kills a program with SIGKILL and waits until its supervisor has started it again.
///
/// # Panics
/// When it does not run, or does not come back.
pub fn kill_and_wait(cluster: &Cluster, name: &str) {
    let old = cluster.pid(name).unwrap_or_else(|| panic!("{name} is not running"));
    signal(old, libc::SIGKILL);
    eventually(&format!("{name} runs again"), 30, || match cluster.pid(name) {
        Some(pid) if pid != old => Ok(()),
        other => Err(other),
    });
}

/// Sends a signal to a process that the cluster started.
///
/// # Panics
/// When there is no such process.
pub fn signal(pid: i32, signal: i32) {
    // SAFETY: kill has no memory effects; the pid is one that hack/up wrote.
    #[allow(unsafe_code)]
    let result = unsafe { libc::kill(pid, signal) };
    assert_eq!(
        result,
        0,
        "signal {signal} to {pid}: {}",
        std::io::Error::last_os_error()
    );
}

/// A process that ends with the test.
pub struct Background(pub Child);

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
