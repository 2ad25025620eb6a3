//! The machine's figures, from files of the kernel.

use steersman_types::jiff::Timestamp;

use super::types::{InterfaceStats, NetworkStats, RlimitStats};

/// The interface that stands for the network as a whole, as upstream has it.
const DEFAULT_INTERFACE: &str = "eth0";
/// Interfaces of the machine itself and of its containers do not count.
const IGNORED: [&str; 4] = ["lo", "veth", "docker", "nerdctl"];

fn text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// How many processes and threads there are, and how many there may be.
#[must_use]
pub fn processes(now: Timestamp) -> Option<RlimitStats> {
    let number = |path: &str| text(path).trim().parse::<i64>().ok();
    let limits = ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"];
    Some(RlimitStats {
        time: now,
        max_pid: limits.into_iter().filter_map(number).min()?,
        running: running(&text("/proc/loadavg"))?,
    })
}

/// The second number of `1/234` in the fourth column.
fn running(loadavg: &str) -> Option<i64> {
    let (_, all) = loadavg.split_whitespace().nth(3)?.split_once('/')?;
    all.parse().ok()
}

/// When the machine was started.
#[must_use]
pub fn booted() -> Option<Timestamp> {
    let stat = text("/proc/stat");
    let seconds = stat
        .lines()
        .find_map(|l| l.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()?;
    Timestamp::from_second(seconds).ok()
}

/// The interfaces of this process's network namespace, which is the node's.
#[must_use]
pub fn network(now: Timestamp) -> NetworkStats {
    let interfaces = interfaces(&text("/proc/net/dev"));
    let default = interfaces.iter().find(|i| i.name == DEFAULT_INTERFACE).cloned();
    NetworkStats {
        time: now,
        default: default.unwrap_or_default(),
        interfaces,
    }
}

fn interfaces(dev: &str) -> Vec<InterfaceStats> {
    let one = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let name = name.trim();
        if IGNORED.iter().any(|prefix| name.starts_with(prefix)) {
            return None;
        }
        let numbers: Vec<Option<u64>> = numbers.split_whitespace().map(|n| n.parse().ok()).collect();
        let column = |i: usize| numbers.get(i).copied().flatten();
        // Received: bytes, packets, errors and five more; then the same for sent.
        Some(InterfaceStats {
            name: name.to_owned(),
            rx_bytes: column(0),
            rx_errors: column(2),
            tx_bytes: column(8),
            tx_errors: column(10),
        })
    };
    dev.lines().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_read() {
        assert_eq!(running("0.10 0.20 0.30 2/345 6789\n"), Some(345));
        let dev = "Inter-|   Receive |  Transmit\n face |bytes    packets errs drop\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  \
                   eth0: 100 2 3 0 0 0 0 0 400 5 6 0 0 0 0 0\nveth1: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n";
        let expected = InterfaceStats {
            name: "eth0".into(),
            rx_bytes: Some(100),
            rx_errors: Some(3),
            tx_bytes: Some(400),
            tx_errors: Some(6),
        };
        assert_eq!(interfaces(dev), [expected]);
        assert!(processes(Timestamp::UNIX_EPOCH).is_some_and(|p| p.running > 0 && p.max_pid > p.running));
        assert!(booted().is_some());
    }
}
