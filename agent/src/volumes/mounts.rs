//! What is mounted where, from the kernel, and undoing it.

use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, unmount};

/// Mount points, in the order in which they were made.
fn mount_points() -> io::Result<Vec<PathBuf>> {
    Ok(parse(&std::fs::read_to_string("/proc/self/mountinfo")?))
}

/// The fifth field of each line is the mount point, with blanks and the like as octal escapes.
fn parse(mountinfo: &str) -> Vec<PathBuf> {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(unescape(field)))
        .collect()
}

fn unescape(field: &str) -> String {
    let mut out = Vec::new();
    let bytes = field.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let octal = (bytes[i] == b'\\').then(|| field.get(i + 1..i + 4)).flatten();
        if let Some(byte) = octal.and_then(|o| u8::from_str_radix(o, 8).ok()) {
            out.push(byte);
            i += 4;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[must_use]
pub fn is_mount_point(path: &Path) -> bool {
    mount_points().is_ok_and(|all| all.iter().any(|p| p == path))
}

/// Unmounts everything at or below `dir`, deepest first.
///
/// # Errors
/// When a mount stays, for instance because it is busy.
pub fn unmount_below(dir: &Path) -> io::Result<()> {
    // Several mounts may lie on one another; a bound keeps a mount that comes back from looping forever.
    for _ in 0..16 {
        let mut below: Vec<_> = mount_points()?.into_iter().filter(|p| p.starts_with(dir)).collect();
        if below.is_empty() {
            return Ok(());
        }
        below.sort();
        for point in below.iter().rev() {
            unmount(point, UnmountFlags::empty()).or_else(|_| unmount(point, UnmountFlags::DETACH))?;
        }
    }
    Err(io::Error::other(format!(
        "mounts below {} keep coming back",
        dir.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_the_fifth_field_unescaped() {
        let text = "36 35 98:0 / /mnt/a\\040b rw master:1 - ext3 /dev/root rw\n37 35 0:1 / /x rw - tmpfs tmpfs rw\n";
        assert_eq!(parse(text), [PathBuf::from("/mnt/a b"), PathBuf::from("/x")]);
    }
}
