//! A test against the kernel of the machine, with either version of cgroups: what is written is accepted and has effect.
//!
//! Works in a group of its own. Where groups may not be made (no root, a container without its own hierarchy), it has
//! nothing to say.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use steersman_types::Typed;
use steersman_types::api::core::v1::Pod;

use super::{Cgroups, MOUNT, NodeShare, V1};

/// Ends the process and removes the groups, whatever becomes of the test.
struct Own {
    root: String,
    groups: Cgroups,
    process: Option<Child>,
}

impl Own {
    fn bases(&self) -> Vec<PathBuf> {
        if self.groups.is_v2() {
            return vec![MOUNT.into()];
        }
        V1.iter().map(|c| PathBuf::from(MOUNT).join(c)).collect()
    }

    /// A file of the pod's group.
    fn read(&self, controller: &str, file: &str) -> String {
        self.groups
            .read(controller, &format!("{}/podu1", self.groups.root), file)
            .trim()
            .to_owned()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = self.groups.remove_pod("u1");
        for base in self.bases() {
            for below in ["/kubepods/burstable", "/kubepods/besteffort", "/kubepods", ""] {
                let _ = std::fs::remove_dir(base.join(format!("{}{below}", self.root.trim_start_matches('/'))));
            }
        }
    }
}

/// A guaranteed pod with so much memory, in Mi.
fn pod(memory: u64) -> Pod {
    let amounts = serde_json::json!({"cpu": "500m", "memory": format!("{memory}Mi")});
    let resources = serde_json::json!({"limits": amounts, "requests": amounts});
    Pod::from_value(&serde_json::json!({"metadata": {"uid": "u1"},
        "spec": {"containers": [{"name": "c", "resources": resources}]}}))
    .unwrap()
}

#[test]
fn this_machines_kernel_takes_what_is_written_and_counts_what_is_used() {
    let root = format!("/steersman-test-{}", std::process::id());
    let mut own = Own {
        groups: Cgroups::new(&root, true, 100_000, 64),
        root,
        process: None,
    };
    let share = NodeShare {
        cpu: 2000,
        memory: 1 << 40,
        processes: Some(4000),
    };
    if let Err(e) = own.groups.init().and_then(|()| own.groups.limit_pods(share)) {
        eprintln!("no groups can be made here: {e}");
        return;
    }
    let before = pod(64);
    own.groups.make_pod(&before).unwrap();
    own.groups.make_pod(&before).unwrap();
    assert_eq!(own.read("pids", "pids.max"), "64");
    if own.groups.is_v2() {
        assert_eq!(own.read("cpu", "cpu.max"), "50000 100000");
        assert_eq!(own.read("cpu", "cpu.weight"), "20");
        assert_eq!(own.read("memory", "memory.max"), "67108864");
    } else {
        assert_eq!(own.read("cpu", "cpu.cfs_quota_us"), "50000");
        assert_eq!(own.read("cpu", "cpu.shares"), "512");
        assert_eq!(own.read("memory", "memory.limit_in_bytes"), "67108864");
    }

    // As a runtime does it: a group for the container below the pod's.
    let container = own.groups.container_path(&before, "id");
    own.groups.make(&container).unwrap();
    let files = own
        .bases()
        .into_iter()
        .map(|base| base.join(container.trim_start_matches('/')).join("cgroup.procs"));
    let files: Vec<String> = files.map(|f| f.display().to_string()).collect();
    let enter: String = files.iter().map(|f| format!("echo $$ >{f}; ")).collect();
    let started = Command::new("sh")
        .args(["-c", &format!("{enter}exec sleep 1000")])
        .spawn();
    own.process = Some(started.unwrap());
    let end = Instant::now() + Duration::from_secs(60);
    let used = loop {
        let usage = own.groups.of_pod(&before);
        let inside = own.groups.memory_of_container(&before, "id").unwrap_or(0);
        if usage.processes == Some(1) && inside > 0 {
            break usage;
        }
        assert!(Instant::now() < end, "{usage:?}, {inside} bytes in the container");
        std::thread::yield_now();
    };
    let memory = used.memory.unwrap();
    assert!(
        memory.usage > 0 && memory.working_set <= memory.usage && memory.limit == Some(64 << 20),
        "{memory:?}"
    );
    // v1 counts it in a hierarchy that is the runtime's business.
    assert!(used.cpu.is_some() || !own.groups.is_v2());

    let after = pod(128);
    own.groups.memory_fits(&before, &after, std::iter::empty()).unwrap();
    own.groups.grow(&before, &after).unwrap();
    assert_eq!(own.groups.of_pod(&before).memory.and_then(|m| m.limit), Some(128 << 20));
    let least = pod(0);
    assert_eq!(
        own.groups.memory_fits(&after, &least, std::iter::empty()),
        Ok(()),
        "0 is no limit"
    );
    own.groups
        .memory_fits(&after, &before, [("c", "id")].into_iter())
        .unwrap();
    own.groups.shrink(&after, &before).unwrap();
    assert_eq!(own.groups.of_pod(&before).memory.and_then(|m| m.limit), Some(64 << 20));
    let machine = own.groups.of_machine("");
    assert!(
        machine.cpu.is_some() && machine.memory.is_some_and(|m| m.usage > 0),
        "{machine:?}"
    );

    // Killed processes need a moment to go.
    while let Err(e) = own.groups.remove_pod("u1") {
        assert!(Instant::now() < end, "the group stays: {e}");
        std::thread::yield_now();
    }
    assert!(own.groups.pods().is_empty());
    let ended = own.process.take().unwrap().wait().unwrap();
    assert_eq!(ended.signal(), Some(9));
}
