//! Facts about the machine, from the kernel and a few files. Read, never interpreted.

use std::path::Path;

/// What a node reports about itself and does not change while it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    pub cpus: i64,
    /// Bytes.
    pub memory: i64,
    pub swap: i64,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel: String,
    pub os_image: String,
    /// In Go's names.
    pub architecture: String,
}

/// What changes: free memory, disk and processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Available {
    pub memory: i64,
    pub disk: i64,
    pub disk_capacity: i64,
    pub inodes_free: i64,
    pub inodes: i64,
}

impl Machine {
    #[must_use]
    pub fn read() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let meminfo = text("/proc/meminfo");
        let machine_id = text("/etc/machine-id");
        let uuid = text("/sys/class/dmi/id/product_uuid");
        let uname = rustix::system::uname();
        Self {
            cpus: std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(1)),
            memory: kilobytes(&meminfo, "MemTotal"),
            swap: kilobytes(&meminfo, "SwapTotal"),
            system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
            machine_id,
            boot_id: text("/proc/sys/kernel/random/boot_id"),
            kernel: uname.release().to_string_lossy().into_owned(),
            os_image: pretty_name(&text("/etc/os-release")),
            architecture: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            }
            .into(),
        }
    }
}

impl Available {
    /// `root` lies on the file system whose space counts.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let disk = rustix::fs::statvfs(root).ok();
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let bytes = |blocks: u64, size: u64| number(blocks.saturating_mul(size));
        Self {
            memory: kilobytes(&meminfo, "MemAvailable"),
            disk: disk.as_ref().map_or(0, |d| bytes(d.f_bavail, d.f_frsize)),
            disk_capacity: disk.as_ref().map_or(0, |d| bytes(d.f_blocks, d.f_frsize)),
            inodes_free: disk.as_ref().map_or(0, |d| number(d.f_favail)),
            inodes: disk.as_ref().map_or(0, |d| number(d.f_files)),
        }
    }
}

/// A line `Name:   123 kB` in bytes.
fn kilobytes(meminfo: &str, name: &str) -> i64 {
    let line = meminfo.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|l| l.split_whitespace().next()?.parse::<i64>().ok());
    number.unwrap_or(0).saturating_mul(1024)
}

fn pretty_name(os_release: &str) -> String {
    let value = os_release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    value.map_or_else(|| "Linux".to_owned(), |v| v.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_read() {
        let meminfo = "MemTotal:       16000 kB\nMemAvailable:    8000 kB\n";
        assert_eq!(kilobytes(meminfo, "MemTotal"), 16_384_000);
        assert_eq!(kilobytes(meminfo, "SwapTotal"), 0);
        assert_eq!(pretty_name("NAME=x\nPRETTY_NAME=\"Debian 12\"\n"), "Debian 12");
        let machine = Machine::read();
        assert!(machine.cpus > 0 && machine.memory > 0);
    }
}
