//! What the processes of a group use, from the kernel's files.

use std::path::PathBuf;

use steersman_types::api::core::v1::Pod;

use super::Cgroups;

/// A limit above this is none: the kernel writes its largest number, rounded to pages.
const UNLIMITED: u64 = 1 << 62;

/// Figures of one group with everything below it; what is not known is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Nanoseconds since the group was made.
    pub cpu: Option<u64>,
    pub memory: Option<Memory>,
    /// Processes and threads.
    pub processes: Option<u64>,
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

    /// The machine as a whole. The root of a v2 hierarchy counts no memory itself: `meminfo` does.
    #[must_use]
    pub fn of_machine(&self, meminfo: &str) -> Usage {
        let mut all = self.usage("/");
        if all.memory.is_none() {
            let number = |name: &str| {
                let line = meminfo.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
                line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok())
                    .map(|kilobytes| kilobytes.saturating_mul(1024))
            };
            let used = number("MemTotal")
                .zip(number("MemFree"))
                .map(|(all, free)| all.saturating_sub(free));
            all.memory = used.map(|usage| Memory {
                usage,
                working_set: usage.saturating_sub(number("Inactive(file)").unwrap_or(0)),
                rss: number("AnonPages").unwrap_or(0),
                ..Memory::default()
            });
        }
        all
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
        })
    }

    /// Empty when there is no such file.
    fn read(&self, controller: &str, path: &str, file: &str) -> String {
        let base: PathBuf = if self.v2 {
            self.mount.clone()
        } else {
            self.mount.join(controller)
        };
        std::fs::read_to_string(base.join(path.trim_start_matches('/')).join(file)).unwrap_or_default()
    }
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
    }
}
