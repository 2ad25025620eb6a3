//! The control groups of pods: one per pod, below one per quality of service class.
//!
//! `<cgroupRoot>/kubepods/[burstable|besteffort/]pod<uid>`, as upstream's cgroupfs driver lays them out; containers'
//! own groups are the runtime's business. Works with cgroup v1 (a tree per controller) and v2 (one tree); which of them
//! is seen once, at start. Plain file access.

#[cfg(test)]
mod kernel;
mod limits;
mod pressure;
mod usage;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use steersman_types::api::core::v1::Pod;

use crate::pod::{self, demand, qos::Qos, qos::qos};
use crate::runtime::resources::{quota, shares, weight};

pub use limits::NodeShare;
pub use pressure::{Pressure, Pressures};
pub use usage::{Memory, Usage};

const MOUNT: &str = "/sys/fs/cgroup";
/// The v1 controllers that the agent sets limits with; others hold only the directory.
const V1: [&str; 3] = ["cpu", "memory", "pids"];

/// The groups of this node.
#[derive(Debug, Clone)]
pub struct Cgroups {
    mount: PathBuf,
    /// `cgroupRoot` with `kubepods`.
    root: String,
    v2: bool,
    quota_period: i64,
    quota: bool,
    pids_limit: i64,
}

impl Cgroups {
    /// `root` is `cgroupRoot` of the configuration; `quota` and `quota_period` (microseconds) are about cpu limits;
    /// `pids_limit` below 1 is none.
    #[must_use]
    pub fn new(root: &str, quota: bool, quota_period: i64, pids_limit: i64) -> Self {
        Self::at(Path::new(MOUNT), root, quota, quota_period, pids_limit)
    }

    pub(crate) fn at(mount: &Path, root: &str, quota: bool, quota_period: i64, pids_limit: i64) -> Self {
        let controllers = std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
        let v2 = controllers.split_whitespace().any(|c| c == "memory");
        let root = format!("{}/kubepods", root.trim_end_matches('/'));
        Self {
            mount: mount.to_owned(),
            root,
            v2,
            quota_period,
            quota,
            pids_limit,
        }
    }

    #[must_use]
    pub fn is_v2(&self) -> bool {
        self.v2
    }

    /// The pod's group as the runtime wants it: a path below the hierarchy's root.
    #[must_use]
    pub fn pod_path(&self, pod: &Pod) -> String {
        let class = match qos(pod) {
            Qos::Guaranteed => "",
            Qos::Burstable => "/burstable",
            Qos::BestEffort => "/besteffort",
        };
        format!("{}{class}/pod{}", self.root, pod::uid(pod))
    }

    /// The group of one of its containers: the runtime names it by the container's id.
    fn container_path(&self, pod: &Pod, id: &str) -> String {
        format!("{}/{id}", self.pod_path(pod))
    }

    /// Makes the node's groups.
    ///
    /// # Errors
    /// When the hierarchy is not writable.
    pub fn init(&self) -> io::Result<()> {
        for class in ["", "/burstable", "/besteffort"] {
            self.make(&format!("{}{class}", self.root))?;
        }
        // Best effort pods get what nobody else asked for.
        self.set_shares(&format!("{}/besteffort", self.root), 2)
    }

    /// Makes the pod's group with its limits; repeating it changes nothing.
    ///
    /// # Errors
    /// When a file of the hierarchy refuses.
    pub fn make_pod(&self, pod: &Pod) -> io::Result<()> {
        let path = self.pod_path(pod);
        self.make(&path)?;
        let totals = totals(pod);
        self.set_shares(&path, shares(totals.cpu_request))?;
        self.set_cpu_limit(&path, totals.cpu_limit)?;
        self.set_memory_limit(&path, totals.memory_limit)?;
        if self.pids_limit > 0 {
            self.write("pids", &path, "pids.max", &self.pids_limit.to_string())?;
        }
        self.limit_huge_pages(&path, pod)
    }

    /// What is more in `after` than in `before`: before containers grow. A limit that is gone stays, as upstream leaves it.
    ///
    /// # Errors
    /// When a file of the hierarchy refuses.
    pub fn grow(&self, before: &Pod, after: &Pod) -> io::Result<()> {
        self.adjust(before, after, |before, after| after > before)
    }

    /// What is less in `after` than in `before`: after containers have shrunk.
    ///
    /// # Errors
    /// When a file of the hierarchy refuses, for instance because more memory is in use.
    pub fn shrink(&self, before: &Pod, after: &Pod) -> io::Result<()> {
        self.adjust(before, after, |before, after| after < before)
    }

    fn adjust(&self, before: &Pod, after: &Pod, matters: impl Fn(i64, i64) -> bool) -> io::Result<()> {
        let path = self.pod_path(after);
        let (before, after) = (totals(before), totals(after));
        let limit =
            |before: Option<i64>, after: Option<i64>| after.filter(|after| matters(before.unwrap_or(i64::MAX), *after));
        self.set_memory_limit(&path, limit(before.memory_limit, after.memory_limit))?;
        self.set_cpu_limit(&path, limit(before.cpu_limit, after.cpu_limit))?;
        if matters(before.cpu_request, after.cpu_request) {
            self.set_shares(&path, shares(after.cpu_request))?;
        }
        Ok(())
    }

    /// In thousandths of a core; `None` changes nothing.
    fn set_cpu_limit(&self, path: &str, limit: Option<i64>) -> io::Result<()> {
        let Some(limit) = limit.filter(|_| self.quota) else {
            return Ok(());
        };
        let quota = quota(limit, self.quota_period);
        if self.v2 {
            return self.write("cpu", path, "cpu.max", &format!("{quota} {}", self.quota_period));
        }
        self.write("cpu", path, "cpu.cfs_period_us", &self.quota_period.to_string())?;
        self.write("cpu", path, "cpu.cfs_quota_us", &quota.to_string())
    }

    /// In bytes; `None` changes nothing.
    fn set_memory_limit(&self, path: &str, limit: Option<i64>) -> io::Result<()> {
        let Some(limit) = limit else { return Ok(()) };
        let file = if self.v2 { "memory.max" } else { "memory.limit_in_bytes" };
        self.write("memory", path, file, &limit.to_string())
    }

    /// Sets the shares of the burstable class to what its pods asked for, so that guaranteed pods keep theirs.
    ///
    /// # Errors
    /// When the file refuses.
    pub fn set_burstable<'a>(&self, pods: impl Iterator<Item = &'a Pod>) -> io::Result<()> {
        let asked: i64 = pods
            .filter(|p| qos(p) == Qos::Burstable)
            .map(|p| totals(p).cpu_request)
            .sum();
        self.set_shares(&format!("{}/burstable", self.root), shares(asked))
    }

    fn set_shares(&self, path: &str, shares: i64) -> io::Result<()> {
        if self.v2 {
            self.write("cpu", path, "cpu.weight", &weight(shares).to_string())
        } else {
            self.write("cpu", path, "cpu.shares", &shares.to_string())
        }
    }

    /// Kills what is left in the pod's group and removes it from every hierarchy. Succeeds when there is none.
    ///
    /// # Errors
    /// When a group stays busy; to be tried again.
    pub fn remove_pod(&self, uid: &str) -> io::Result<()> {
        let mut result = Ok(());
        for base in self.bases() {
            for class in ["", "burstable", "besteffort"] {
                let dir = base
                    .join(self.root.trim_start_matches('/'))
                    .join(class)
                    .join(format!("pod{uid}"));
                if dir.is_dir()
                    && let Err(e) = remove_tree(&dir)
                {
                    result = Err(e);
                }
            }
        }
        result
    }

    /// Uids of pods that have a group.
    #[must_use]
    pub fn pods(&self) -> Vec<String> {
        let base = if self.v2 {
            self.mount.clone()
        } else {
            self.mount.join("memory")
        };
        let root = base.join(self.root.trim_start_matches('/'));
        let dirs = ["", "burstable", "besteffort"].map(|class| root.join(class));
        let entries = dirs
            .iter()
            .flat_map(|d| std::fs::read_dir(d).into_iter().flatten().flatten());
        entries
            .filter_map(|e| e.file_name().to_str()?.strip_prefix("pod").map(str::to_owned))
            .collect()
    }

    fn bases(&self) -> Vec<PathBuf> {
        if self.v2 {
            return vec![self.mount.clone()];
        }
        let entries = std::fs::read_dir(&self.mount).into_iter().flatten().flatten();
        entries
            .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
            .map(|e| e.path())
            .collect()
    }

    fn make(&self, path: &str) -> io::Result<()> {
        if !self.v2 {
            for controller in V1 {
                std::fs::create_dir_all(self.mount.join(controller).join(path.trim_start_matches('/')))?;
            }
            return Ok(());
        }
        // Each parent must pass its controllers on.
        let mut dir = self.mount.clone();
        for part in path.split('/').filter(|p| !p.is_empty()) {
            hand_down(&dir);
            dir.push(part);
            std::fs::create_dir_all(&dir)?;
        }
        Ok(())
    }

    fn write(&self, controller: &str, path: &str, file: &str, value: &str) -> io::Result<()> {
        let base = if self.v2 {
            self.mount.clone()
        } else {
            self.mount.join(controller)
        };
        let target = base.join(path.trim_start_matches('/')).join(file);
        std::fs::write(&target, value).map_err(|e| {
            io::Error::new(
                e.kind(),
                format!("failed to write {value:?} to {}: {e}", target.display()),
            )
        })
    }
}

/// Lets the groups below a v2 group use every controller that it has itself. What is passed on already is not written again:
/// the kernel stops all changes of groups for that. A controller that refuses (one that needs a group without processes, for
/// instance) is left out; the first write that needs it says so.
fn hand_down(dir: &Path) {
    let names = |file: &str| -> BTreeSet<String> {
        let text = std::fs::read_to_string(dir.join(file)).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    };
    let passed_on = names("cgroup.subtree_control");
    let missing: Vec<String> = names("cgroup.controllers")
        .difference(&passed_on)
        .map(|c| format!("+{c}"))
        .collect();
    let tell = |text: &str| std::fs::write(dir.join("cgroup.subtree_control"), text);
    if missing.is_empty() || tell(&missing.join(" ")).is_ok() {
        return;
    }
    for one in &missing {
        let _ = tell(one);
    }
}

/// Removes a group and those below it. Groups are removed like directories, their files are not real.
fn remove_tree(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)?.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path())?;
        } else if cfg!(test) {
            // The kernel's files go with their group; those that stand for them in tests do not.
            let _ = std::fs::remove_file(entry.path());
        }
    }
    for pid in std::fs::read_to_string(dir.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
    {
        let pid = pid.parse().ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    match std::fs::remove_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

struct Totals {
    cpu_request: i64,
    /// Only if the pod or every container has a limit.
    cpu_limit: Option<i64>,
    memory_limit: Option<i64>,
}

fn totals(pod: &Pod) -> Totals {
    Totals {
        cpu_request: demand::request(pod, "cpu"),
        cpu_limit: demand::limit(pod, "cpu"),
        memory_limit: demand::limit(pod, "memory"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use steersman_types::Typed;

    fn pod(spec: serde_json::Value) -> Pod {
        Pod::from_value(&serde_json::json!({"metadata": {"uid": "u1"}, "spec": spec})).unwrap()
    }

    #[test]
    fn pods_lie_below_their_class_and_get_the_sum_of_their_containers() {
        let tree = tempfile::tempdir().unwrap();
        for controller in V1 {
            std::fs::create_dir_all(tree.path().join(controller)).unwrap();
        }
        let groups = Cgroups::at(tree.path(), "/node-1", true, 100_000, 64);
        let guaranteed = pod(serde_json::json!({"containers": [
            {"name": "a", "resources": {"limits": {"cpu": "500m", "memory": "1Mi"}, "requests": {"cpu": "500m", "memory": "1Mi"}}},
            {"name": "b", "resources": {"limits": {"cpu": "1", "memory": "2Mi"}, "requests": {"cpu": "1", "memory": "2Mi"}}}]}));
        groups.make_pod(&guaranteed).unwrap();
        let read = |file: &str| std::fs::read_to_string(tree.path().join(file)).unwrap();
        assert_eq!(groups.pod_path(&guaranteed), "/node-1/kubepods/podu1");
        assert_eq!(read("cpu/node-1/kubepods/podu1/cpu.shares"), "1536");
        assert_eq!(read("cpu/node-1/kubepods/podu1/cpu.cfs_quota_us"), "150000");
        assert_eq!(read("memory/node-1/kubepods/podu1/memory.limit_in_bytes"), "3145728");
        assert_eq!(read("pids/node-1/kubepods/podu1/pids.max"), "64");
        assert_eq!(groups.pods(), ["u1"]);

        let mut changed = guaranteed.clone();
        let of = |cpu: &str, memory: &str| serde_json::json!({"limits": {"cpu": cpu, "memory": memory}, "requests": {"cpu": cpu, "memory": memory}});
        changed.spec.as_mut().unwrap().containers[0].resources = serde_json::from_value(of("1", "512Ki")).unwrap();
        groups.grow(&guaranteed, &changed).unwrap();
        assert_eq!(
            read("cpu/node-1/kubepods/podu1/cpu.cfs_quota_us"),
            "200000",
            "growing comes first"
        );
        assert_eq!(
            read("memory/node-1/kubepods/podu1/memory.limit_in_bytes"),
            "3145728",
            "shrinking does not"
        );
        groups.shrink(&guaranteed, &changed).unwrap();
        assert_eq!(read("memory/node-1/kubepods/podu1/memory.limit_in_bytes"), "2621440");

        let burstable =
            pod(serde_json::json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]}));
        assert_eq!(groups.pod_path(&burstable), "/node-1/kubepods/burstable/podu1");
        let best_effort = pod(serde_json::json!({"containers": [{"name": "a"}]}));
        assert_eq!(groups.pod_path(&best_effort), "/node-1/kubepods/besteffort/podu1");
    }
}
