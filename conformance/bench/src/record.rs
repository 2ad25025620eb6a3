//! The benchmarks' section of `conformance/README.md`.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::compare::{Row, table};

/// The section stands between these lines; nothing outside them is touched.
const BEGIN: &str = "<!-- bench:begin -->";
const END: &str = "<!-- bench:end -->";

/// Writes the section, with date, commit and machine.
pub fn write(repo: &Path, rows: &[Row], rounds: usize) -> Result<()> {
    let path = repo.join("conformance/README.md");
    let old = std::fs::read_to_string(&path).unwrap_or_else(|_| "# Conformance\n".to_owned());
    let text = format!(
        "{}; commit {}; {}. Upstream's v1.36.2 beside ours, A B A B, {rounds} rounds each, one cluster at a time, on \
         release builds (`hack/bench all --upstream DIR --record`); the mean of the rounds, and their range where it is \
         wider than a tenth.\n\n{}",
        said("date", &["+%Y-%m-%d %H:%M"]),
        commit(repo),
        machine(),
        table(rows)
    );
    std::fs::write(&path, replaced(&old, &text))?;
    Ok(())
}

/// The README with its section replaced, or appended if it has none.
fn replaced(readme: &str, section: &str) -> String {
    let block = format!("{BEGIN}\n{section}{END}");
    match (readme.find(BEGIN), readme.find(END)) {
        (Some(begin), Some(end)) if begin < end => {
            let (before, after) = (readme.get(..begin), readme.get(end + END.len()..));
            format!("{}{block}{}", before.unwrap_or_default(), after.unwrap_or_default())
        }
        _ => format!("{}\n\n## Benchmarks\n\n{block}\n", readme.trim_end()),
    }
}

fn commit(repo: &Path) -> String {
    let repo = repo.to_string_lossy();
    said("git", &["-C", &repo, "rev-parse", "--short", "HEAD"])
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (cpu, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let model = cpu
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(": "))
        .map(|(_, model)| model);
    let kilobytes = memory.lines().find_map(|l| {
        l.strip_prefix("MemTotal:")?
            .split_whitespace()
            .next()?
            .parse::<f64>()
            .ok()
    });
    let cores = cpu.lines().filter(|l| l.starts_with("processor")).count();
    format!(
        "{cores} cores ({}), {:.0} GiB, Linux {}",
        model.unwrap_or("unknown"),
        kilobytes.unwrap_or_default() / 1024.0 / 1024.0,
        read("/proc/sys/kernel/osrelease").trim()
    )
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(
        |_| "unknown".to_owned(),
        |o| String::from_utf8_lossy(&o.stdout).trim().to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_section_is_replaced_and_replacing_twice_changes_nothing() {
        let once = replaced("# Title\n\ntext\n", "one\n");
        assert!(once.starts_with("# Title\n\ntext\n\n## Benchmarks\n\n"), "{once}");
        let twice = replaced(&format!("{once}tail\n"), "two\n");
        assert!(
            twice.contains("two\n") && !twice.contains("one\n") && twice.ends_with("\ntail\n"),
            "{twice}"
        );
        assert_eq!(replaced(&twice, "two\n"), twice);
    }
}
