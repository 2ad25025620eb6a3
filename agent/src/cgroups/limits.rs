//! What pods together may use of the node, huge pages, swap, and whether memory may become less.
//!
//! Beside the limits of single pods, which [`super::Cgroups::make_pod`] sets.

use std::io;

use steersman_types::api::core::v1::Pod;

use super::{Cgroups, totals};
use crate::pod::{demand, find_container};
use crate::quantity::value_of;
use crate::runtime::hugepages;
use crate::runtime::resources::shares;

/// What is left for pods after what is reserved for the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeShare {
    /// In thousandths of a core.
    pub cpu: i64,
    /// In bytes.
    pub memory: i64,
    /// Processes and threads; `None` if not known.
    pub processes: Option<i64>,
}

impl Cgroups {
    /// Limits all pods together. Without this, a busy node gives all of them the weight of a single process of the system.
    ///
    /// # Errors
    /// The first refusal, after everything was tried: cgroup v1 refuses a limit below what is in use.
    pub fn limit_pods(&self, share: NodeShare) -> io::Result<()> {
        let memory = self.set_memory_limit(&self.root, Some(share.memory));
        let cpu = self.set_shares(&self.root, shares(share.cpu));
        let processes = share.processes.map_or(Ok(()), |most| {
            self.write("pids", &self.root, "pids.max", &most.to_string())
        });
        memory.and(cpu).and(processes)
    }

    /// Whether the kernel can limit swap.
    #[must_use]
    pub fn limits_swap(&self) -> bool {
        let root = self.root.trim_start_matches('/');
        if self.v2 {
            // The hierarchy's own root never has the file.
            self.mount.join(root).join("memory.swap.max").exists()
        } else {
            self.mount.join("memory/memory.memsw.limit_in_bytes").exists()
        }
    }

    /// Lets the pod use as many huge pages as it asked for, of each size; where the kernel counts them (cgroup v2).
    pub(super) fn limit_huge_pages(&self, path: &str, pod: &Pod) -> io::Result<()> {
        if !self.v2 {
            return Ok(());
        }
        for size in hugepages::sizes() {
            let file = format!("hugetlb.{}.max", hugepages::kernel_name(*size));
            if self.mount.join(path.trim_start_matches('/')).join(&file).exists() {
                let asked = demand::request(pod, &hugepages::resource_name(*size));
                self.write("hugetlb", path, &file, &asked.to_string())?;
            }
        }
        Ok(())
    }

    /// Whether the limits of memory may be lowered from those of `before` to those of `after`. cgroup v1 refuses a limit below
    /// what is in use; v2 kills somebody instead, so it must not come to that. `containers` are names and ids of those
    /// whose limits change.
    ///
    /// # Errors
    /// In upstream's words, when more is in use.
    pub fn memory_fits<'a>(
        &self,
        before: &Pod,
        after: &Pod,
        containers: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<(), String> {
        let lower =
            |before: Option<i64>, after: Option<i64>| after.filter(|limit| before.is_none_or(|before| *limit < before));
        let reaches = |used: u64, limit: i64| u64::try_from(limit).is_ok_and(|limit| used >= limit);
        let mut used = None;
        let mut pod_usage = || *used.get_or_insert_with(|| self.of_pod(after).memory.map_or(0, |m| m.usage));
        let mut refused = Vec::new();
        if let Some(limit) = lower(totals(before).memory_limit, totals(after).memory_limit)
            && reaches(pod_usage(), limit)
        {
            refused.push(format!(
                "attempting to set pod memory limit ({limit}) below current usage ({})",
                pod_usage()
            ));
        }
        let limit_of = |pod: &Pod, name: &str| {
            let (_, container) = find_container(pod, name)?;
            value_of(container.resources?.limits.as_ref(), "memory").filter(|l| *l > 0)
        };
        for (name, id) in containers {
            let Some(limit) = lower(limit_of(before, name), limit_of(after, name)) else {
                continue;
            };
            if self
                .memory_of_container(after, id)
                .is_some_and(|used| reaches(used, limit))
            {
                // The pod's usage, as upstream says it here too.
                refused.push(format!(
                    "attempting to set container {name:?} memory limit ({limit}) below current usage ({})",
                    pod_usage()
                ));
            }
        }
        match refused.as_slice() {
            [] => Ok(()),
            [one] => Err(format!("cannot decrease memory limits: {one}")),
            all => Err(format!("cannot decrease memory limits: [{}]", all.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use steersman_types::Typed;

    fn tree() -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        std::fs::write(tree.path().join("cgroup.controllers"), "cpuset cpu memory pids\n").unwrap();
        tree
    }

    fn put(tree: &Path, file: &str, text: &str) {
        let file = tree.join(file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }

    /// Memory limits of two containers, in Mi.
    fn pod(a: u64, b: u64) -> Pod {
        let of = |name: &str, n: u64| {
            let amounts = serde_json::json!({"cpu": "100m", "memory": format!("{n}Mi")});
            serde_json::json!({"name": name, "resources": {"limits": amounts, "requests": amounts}})
        };
        Pod::from_value(
            &serde_json::json!({"metadata": {"uid": "u1"}, "spec": {"containers": [of("a", a), of("b", b)]}}),
        )
        .unwrap()
    }

    #[test]
    fn memory_in_use_is_not_taken_away() {
        let tree = tree();
        let groups = Cgroups::at(tree.path(), "", true, 100_000, -1);
        let group = "kubepods/podu1";
        put(tree.path(), &format!("{group}/memory.current"), "31457280\n");
        put(tree.path(), &format!("{group}/id-a/memory.current"), "26214400\n");
        put(tree.path(), &format!("{group}/id-b/memory.current"), "5242880\n");
        let fits =
            |before: &Pod, after: &Pod| groups.memory_fits(before, after, [("a", "id-a"), ("b", "id-b")].into_iter());
        assert_eq!(fits(&pod(50, 50), &pod(40, 50)), Ok(()));
        assert_eq!(fits(&pod(50, 50), &pod(50, 50)), Ok(()), "nothing becomes less");
        assert_eq!(fits(&pod(10, 10), &pod(20, 20)), Ok(()), "nor here");
        assert_eq!(
            fits(&pod(50, 50), &pod(20, 50)).unwrap_err(),
            "cannot decrease memory limits: attempting to set container \"a\" memory limit (20971520) below current usage (31457280)"
        );
        assert_eq!(
            fits(&pod(50, 50), &pod(20, 10)).unwrap_err(),
            "cannot decrease memory limits: [attempting to set pod memory limit (31457280) below current usage (31457280), \
             attempting to set container \"a\" memory limit (20971520) below current usage (31457280)]"
        );
    }

    #[test]
    fn all_pods_together_have_what_is_not_reserved() {
        let tree = tree();
        let groups = Cgroups::at(tree.path(), "/n", true, 100_000, -1);
        groups.init().unwrap();
        let share = NodeShare {
            cpu: 2000,
            memory: 1 << 30,
            processes: Some(4000),
        };
        groups.limit_pods(share).unwrap();
        let read = |file: &str| std::fs::read_to_string(tree.path().join("n/kubepods").join(file)).unwrap();
        assert_eq!(
            (read("memory.max"), read("cpu.weight"), read("pids.max")),
            ("1073741824".into(), "79".into(), "4000".into())
        );
        assert_eq!(read("besteffort/cpu.weight"), "1");
        assert!(!groups.limits_swap());
        put(tree.path(), "n/kubepods/memory.swap.max", "max\n");
        assert!(groups.limits_swap());
    }

    #[test]
    fn each_group_passes_on_what_it_has_and_nothing_twice() {
        let tree = tree();
        let told = tree.path().join("cgroup.subtree_control");
        // What the kernel shows when everything, something or nothing is missing.
        for (before, after) in [
            ("", "+cpu +cpuset +memory +pids"),
            ("cpu memory\n", "+cpuset +pids"),
            ("cpuset cpu memory pids\n", "cpuset cpu memory pids\n"),
        ] {
            std::fs::write(&told, before).unwrap();
            super::super::hand_down(tree.path());
            assert_eq!(std::fs::read_to_string(&told).unwrap(), after);
        }
    }

    #[test]
    fn a_pods_limits_are_written_under_their_v2_names() {
        let tree = tree();
        let groups = Cgroups::at(tree.path(), "/n", true, 100_000, 64);
        groups.init().unwrap();
        let before = pod(1, 2);
        groups.make_pod(&before).unwrap();
        let read = |file: &str| std::fs::read_to_string(tree.path().join("n/kubepods/podu1").join(file)).unwrap();
        assert_eq!(
            (read("cpu.max"), read("cpu.weight")),
            ("20000 100000".into(), "8".into())
        );
        assert_eq!((read("memory.max"), read("pids.max")), ("3145728".into(), "64".into()));
        groups.grow(&before, &pod(4, 2)).unwrap();
        assert_eq!(read("memory.max"), "6291456");
        groups.shrink(&pod(4, 2), &pod(1, 1)).unwrap();
        assert_eq!(read("memory.max"), "2097152");
        assert_eq!(groups.pods(), ["u1"]);
        groups.remove_pod("u1").unwrap();
        assert!(groups.pods().is_empty());
    }
}
