//! Huge pages: which sizes the machine has, and what pods and containers may use of them.
//!
//! A size that is not asked for is limited to nothing, as upstream does it.

use std::path::Path;
use std::sync::OnceLock;

/// In bytes, the smallest first; looked up once, since they are properties of the machine.
pub fn sizes() -> &'static [i64] {
    static SIZES: OnceLock<Vec<i64>> = OnceLock::new();
    SIZES.get_or_init(|| read(Path::new("/sys/kernel/mm/hugepages")))
}

fn read(folder: &Path) -> Vec<i64> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |name: &str| {
        let kilobytes: i64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        kilobytes.checked_mul(1024)
    };
    let mut sizes: Vec<i64> = entries.filter_map(|e| size(e.file_name().to_str()?)).collect();
    sizes.sort_unstable();
    sizes
}

/// The kernel's name of a size, as in `hugetlb.2MB.max`.
#[must_use]
pub fn kernel_name(bytes: i64) -> String {
    unit(bytes, ["KB", "MB", "GB"])
}

/// The API's name of the resource, as in `hugepages-2Mi`.
#[must_use]
pub fn resource_name(bytes: i64) -> String {
    format!("hugepages-{}", unit(bytes, ["Ki", "Mi", "Gi"]))
}

fn unit(bytes: i64, [kilo, mega, giga]: [&str; 3]) -> String {
    let kilobytes = bytes / 1024;
    if kilobytes >= 1 << 20 && kilobytes % (1 << 20) == 0 {
        format!("{}{giga}", kilobytes >> 20)
    } else if kilobytes >= 1 << 10 && kilobytes % (1 << 10) == 0 {
        format!("{}{mega}", kilobytes >> 10)
    } else {
        format!("{kilobytes}{kilo}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_named() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["hugepages-1048576kB", "hugepages-2048kB", "hugepages-64kB", "other"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let sizes = read(dir.path());
        assert_eq!(sizes, [65_536, 2 << 20, 1 << 30]);
        assert_eq!(
            sizes.iter().map(|s| kernel_name(*s)).collect::<Vec<_>>(),
            ["64KB", "2MB", "1GB"]
        );
        let names: Vec<String> = sizes.iter().map(|s| resource_name(*s)).collect();
        assert_eq!(names, ["hugepages-64Ki", "hugepages-2Mi", "hugepages-1Gi"]);
        assert!(read(Path::new("/nowhere")).is_empty());
    }
}
