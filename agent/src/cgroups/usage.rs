//! What the processes of a group use, from the kernel's files.

use std::path::PathBuf;

use steersman_types::api::core::v1::Pod;

use super::Cgroups;
use super::pressure::Pressures;

/// A limit above this is none: the kernel writes its largest number, rounded to pages.
const UNLIMITED: u64 = 1 << 62;

/// Figures of one group with everything below it; what is not known is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Nanoseconds since the group was made.
    pub cpu: Option<u64>,
    pub memory: Option<Memory>,
    /// Processes and threads.
    pub processes: Option<u64>,
    pub pressures: Pressures,
}

/// In bytes, and faults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    pub usage: u64,
    pub working_set: u64,
    pub rss: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub limit: Option<u64>,
    /// What of it was put aside; absent where the kernel does not count it.
    pub swap: Option<u64>,
}

impl Cgroups {
    /// The group above all pods.
    #[must_use]
    pub fn of_pods(&self) -> Usage {
        self.usage(&self.root)
    }

    #[must_use]
    pub fn of_pod(&self, pod: &Pod) -> Usage {
        self.usage(&self.pod_path(pod))
    }

    /// Bytes in use by one container; the runtime names its group, below the pod's, by the container's id.
    #[must_use]
    pub fn memory_of_container(&self, pod: &Pod, id: &str) -> Option<u64> {
        Some(self.memory(&self.container_path(pod, id))?.usage)
    }

    /// The machine as a whole. The root of a v2 hierarchy has no counter of its own: there, as upstream reads it, memory in
    /// use is that of processes and of files, by the root's `memory.stat`, or by `meminfo` where even that is missing.
    #[must_use]
    pub fn of_machine(&self, meminfo: &str) -> Usage {
        let mut all = self.usage("/");
        if all.memory.is_none() {
            all.memory = self.root_memory().or_else(|| of_meminfo(meminfo));
        }
        all
    }

    fn root_memory(&self) -> Option<Memory> {
        let stat = self.read("memory", "/", "memory.stat");
        let of = |name: &str| field(&stat, name);
        let usage = of("anon")?.saturating_add(of("file")?);
        Some(Memory {
            usage,
            working_set: usage.saturating_sub(of("inactive_file").unwrap_or(0)),
            rss: of("anon")?,
            page_faults: of("pgfault").unwrap_or(0),
            major_page_faults: of("pgmajfault").unwrap_or(0),
            ..Memory::default()
        })
    }

    fn usage(&self, path: &str) -> Usage {
        Usage {
            cpu: if self.v2 {
                field(&self.read("", path, "cpu.stat"), "usage_usec").map(|us| us.saturating_mul(1000))
            } else {
                self.read("cpuacct", path, "cpuacct.usage").trim().parse().ok()
            },
            memory: self.memory(path),
            processes: self.read("pids", path, "pids.current").trim().parse().ok(),
            pressures: self.pressures(path),
        }
    }

    fn memory(&self, path: &str) -> Option<Memory> {
        let (usage, limit) = if self.v2 {
            ("memory.current", "memory.max")
        } else {
            ("memory.usage_in_bytes", "memory.limit_in_bytes")
        };
        let number = |file: &str| self.read("memory", path, file).trim().parse::<u64>().ok();
        let usage = number(usage)?;
        let stat = self.read("memory", path, "memory.stat");
        // v1 counts what is below only under these names.
        let of = |name: &str| {
            let name = if self.v2 {
                name.to_owned()
            } else {
                format!("total_{name}")
            };
            field(&stat, &name).unwrap_or(0)
        };
        Some(Memory {
            usage,
            working_set: usage.saturating_sub(of("inactive_file")),
            rss: of(if self.v2 { "anon" } else { "rss" }),
            page_faults: of("pgfault"),
            major_page_faults: of("pgmajfault"),
            limit: number(limit).filter(|l| *l < UNLIMITED),
            swap: if self.v2 {
                number("memory.swap.current")
            } else {
                field(&stat, "total_swap")
            },
        })
    }

    /// Empty when there is no such file.
    pub(super) fn read(&self, controller: &str, path: &str, file: &str) -> String {
        let base: PathBuf = if self.v2 {
            self.mount.clone()
        } else {
            self.mount.join(controller)
        };
        std::fs::read_to_string(base.join(path.trim_start_matches('/')).join(file)).unwrap_or_default()
    }
}

fn of_meminfo(meminfo: &str) -> Option<Memory> {
    let number = |name: &str| {
        let line = meminfo.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok())
            .map(|kilobytes| kilobytes.saturating_mul(1024))
    };
    let usage = number("MemTotal")?.saturating_sub(number("MemFree")?);
    Some(Memory {
        usage,
        working_set: usage.saturating_sub(number("Inactive(file)").unwrap_or(0)),
        rss: number("AnonPages").unwrap_or(0),
        ..Memory::default()
    })
}

/// The number behind a name in lines of `name number`.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|n| n.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_hierarchies_are_read() {
        let tree = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let file = tree.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        write("cpuacct/n/kubepods/cpuacct.usage", "5000\n");
        write("memory/n/kubepods/memory.usage_in_bytes", "1000\n");
        write("memory/n/kubepods/memory.limit_in_bytes", "9223372036854771712\n");
        write(
            "memory/n/kubepods/memory.stat",
            "inactive_file 1\ntotal_inactive_file 400\ntotal_rss 300\ntotal_pgfault 7\n",
        );
        write("pids/n/kubepods/pids.current", "12\n");
        let v1 = Cgroups::at(tree.path(), "/n", true, 100_000, -1).of_pods();
        let memory = Memory {
            usage: 1000,
            working_set: 600,
            rss: 300,
            page_faults: 7,
            major_page_faults: 0,
            limit: None,
            swap: None,
        };
        assert_eq!((v1.cpu, v1.memory, v1.processes), (Some(5000), Some(memory), Some(12)));

        let tree = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let file = tree.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        write("cgroup.controllers", "cpu memory pids\n");
        write("kubepods/cpu.stat", "usage_usec 5\nuser_usec 1\n");
        write("kubepods/memory.current", "1000\n");
        write("kubepods/memory.max", "2000\n");
        write("kubepods/memory.stat", "anon 300\ninactive_file 400\n");
        write("cpu.stat", "usage_usec 8\n");
        let groups = Cgroups::at(tree.path(), "", true, 100_000, -1);
        let pods = groups.of_pods();
        assert_eq!(pods.cpu, Some(5000));
        assert_eq!(
            pods.memory.map(|m| (m.working_set, m.rss, m.limit)),
            Some((600, 300, Some(2000)))
        );
        let machine = groups.of_machine("MemTotal: 10 kB\nMemFree: 4 kB\nInactive(file): 1 kB\n");
        assert_eq!(machine.memory.map(|m| (m.usage, m.working_set)), Some((6144, 5120)));
        assert_eq!(machine.cpu, Some(8000));
        assert_eq!(
            pods.memory.and_then(|m| m.swap),
            None,
            "a kernel without swap counts none"
        );

        write("memory.stat", "anon 300\nfile 500\ninactive_file 400\npgmajfault 2\n");
        write("kubepods/memory.swap.current", "70\n");
        write(
            "kubepods/io.pressure",
            "some avg10=2.00 avg60=1.00 avg300=0.50 total=9\n",
        );
        let machine = groups.of_machine("MemTotal: 10 kB\nMemFree: 4 kB\n").memory.unwrap();
        assert_eq!((machine.usage, machine.working_set, machine.rss), (800, 400, 300));
        assert_eq!((machine.major_page_faults, machine.limit), (2, None));
        let pods = groups.of_pods();
        assert_eq!(pods.memory.and_then(|m| m.swap), Some(70));
        assert_eq!(pods.pressures.io.map(|p| p.some.total), Some(9));
        assert_eq!(pods.pressures.cpu, None);
    }
}
