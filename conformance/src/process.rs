//! Signals to the cluster's programs, what runs in containers, and background processes of a test.

use std::collections::BTreeSet;
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

/// The processes of a container by its id (with or without `containerd://`): process id and start time, so that a number
/// that is used again does not count. Asks the machine, not the cluster.
#[must_use]
pub fn in_container(id: &str) -> BTreeSet<(i32, u64)> {
    let id = id.rsplit('/').next().unwrap_or(id);
    assert!(!id.is_empty(), "a container without an id");
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // One that ends meanwhile is not there any more.
        let groups = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        if groups.contains(id)
            && let Some(start) = start_time(pid)
        {
            found.insert((pid, start));
        }
    }
    found
}

/// A container's first process: the same one as long as the container has not been restarted.
#[must_use]
pub fn first_in_container(id: &str) -> Option<(i32, u64)> {
    in_container(id).into_iter().min_by_key(|(_, start)| *start)
}

/// When a process started, in ticks since the machine did.
fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name in parentheses the state is the third field, the start time the 22nd.
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
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
