//! How long the processes of a group waited for processor, memory and disk: the kernel's pressure stall figures.
//!
//! Only cgroup v2 has them, and only a kernel that was built and booted with them; elsewhere they are absent. The figures
//! are those of the kernel, unchanged: that is also what upstream passes on.

use serde::Serialize;
use steersman_types::api::core::v1::Pod;

use super::Cgroups;

/// Of one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Pressure {
    /// Nobody in the group could go on.
    pub full: Waited,
    /// Somebody could not.
    pub some: Waited,
}

/// Shares are of the last 10, 60 and 300 seconds, in percent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Waited {
    /// Microseconds since the group was made.
    pub total: u64,
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
}

/// Of one group; what is not known is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressures {
    pub cpu: Option<Pressure>,
    pub memory: Option<Pressure>,
    pub io: Option<Pressure>,
}

impl Cgroups {
    /// Of one container: the runtime names its group, below the pod's, by the container's id.
    #[must_use]
    pub fn pressures_of_container(&self, pod: &Pod, id: &str) -> Pressures {
        self.pressures(&self.container_path(pod, id))
    }

    pub(super) fn pressures(&self, path: &str) -> Pressures {
        if !self.v2 {
            return Pressures::default();
        }
        let of = |file: &str| parse(&self.read("", path, file));
        Pressures {
            cpu: of("cpu.pressure"),
            memory: of("memory.pressure"),
            io: of("io.pressure"),
        }
    }
}

/// Lines of `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`. The whole machine has no line `full` for the processor on
/// some kernels.
fn parse(text: &str) -> Option<Pressure> {
    let line = |name: &str| {
        let rest = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '))?;
        let value = |key: &str| {
            let mut words = rest.split_whitespace();
            words.find_map(|w| w.strip_prefix(key)?.strip_prefix('='))
        };
        let share = |key: &str| value(key).and_then(|v| v.parse().ok()).unwrap_or(0.0);
        Some(Waited {
            total: value("total")?.parse().ok()?,
            avg10: share("avg10"),
            avg60: share("avg60"),
            avg300: share("avg300"),
        })
    };
    let (full, some) = (line("full"), line("some"));
    (full.is_some() || some.is_some()).then(|| Pressure {
        full: full.unwrap_or_default(),
        some: some.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_read_and_nothing_is_made_up() {
        let text =
            "some avg10=1.50 avg60=0.25 avg300=0.00 total=123456\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let read = parse(text).unwrap();
        assert_eq!((read.some.total, read.full.total), (123_456, 7));
        assert_eq!((read.some.avg10, read.some.avg60), (1.5, 0.25));
        let shown = serde_json::to_value(read).unwrap();
        assert_eq!(shown["some"]["avg10"], 1.5);
        assert_eq!(shown["full"]["total"], 7);
        let root = parse("some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n").unwrap();
        assert_eq!((root.some.total, root.full), (5, Waited::default()));
        assert_eq!(
            parse(""),
            None,
            "no such file, or refused by a kernel that does not measure"
        );
        assert_eq!(parse("some avg10=0.00\n"), None);
    }
}
