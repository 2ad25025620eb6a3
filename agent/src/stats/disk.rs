//! What lies on disk: space of file systems, and how much of it a folder takes.
//!
//! Measuring a folder means reading every entry below it, so a result is kept for a time that grows with the effort
//! that it took. Blocking: callers run it on a thread of their own.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use steersman_types::jiff::Timestamp;

use super::types::FsStats;

/// A measurement is used again at most this often relative to what it cost: 5 % of one core.
const PATIENCE: u32 = 20;
/// But it is always trusted for so long: two questions about the same moment get the same answer.
const FRESH: Duration = Duration::from_secs(2);
/// A folder with more entries than this is reported with what was counted until then.
const MAX_ENTRIES: u64 = 20_000_000;

/// What a folder takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    pub bytes: u64,
    pub inodes: u64,
}

/// The file system that holds `path`; `None` when there is no such path.
#[must_use]
pub fn file_system(path: &Path, now: Timestamp) -> Option<FsStats> {
    let fs = rustix::fs::statvfs(path).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(fs.f_frsize);
    Some(FsStats {
        time: now,
        available_bytes: Some(bytes(fs.f_bavail)),
        capacity_bytes: Some(bytes(fs.f_blocks)),
        used_bytes: Some(bytes(fs.f_blocks).saturating_sub(bytes(fs.f_bfree))),
        inodes_free: Some(fs.f_ffree),
        inodes: Some(fs.f_files),
        inodes_used: Some(fs.f_files.saturating_sub(fs.f_ffree)),
    })
}

/// Whether both lie on the same file system. Unknown counts as yes.
#[must_use]
pub fn same_file_system(a: &Path, b: &Path) -> bool {
    match (std::fs::metadata(a), std::fs::metadata(b)) {
        (Ok(a), Ok(b)) => a.dev() == b.dev(),
        _ => true,
    }
}

/// Blocks and inodes below and including `path`, within its file system; files with several names count once.
#[must_use]
pub fn measure(path: &Path) -> Used {
    let mut used = Used::default();
    let Ok(top) = std::fs::symlink_metadata(path) else {
        return used;
    };
    let mut linked = HashSet::new();
    let mut count = |meta: &std::fs::Metadata, used: &mut Used| {
        if meta.nlink() > 1 && !meta.is_dir() && !linked.insert(meta.ino()) {
            return;
        }
        used.bytes = used.bytes.saturating_add(meta.blocks().saturating_mul(512));
        used.inodes += 1;
    };
    count(&top, &mut used);
    let mut folders: Vec<PathBuf> = if top.is_dir() {
        vec![path.to_owned()]
    } else {
        Vec::new()
    };
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            // What vanishes meanwhile takes nothing.
            let Ok(meta) = entry.metadata() else { continue };
            if meta.dev() != top.dev() {
                continue;
            }
            count(&meta, &mut used);
            if meta.is_dir() {
                folders.push(entry.path());
            }
        }
        if used.inodes > MAX_ENTRIES {
            break;
        }
    }
    used
}

struct Measured {
    at: Instant,
    cost: Duration,
    used: Used,
}

/// Remembers measurements.
#[derive(Default)]
pub struct Disks {
    measured: Mutex<HashMap<PathBuf, Measured>>,
}

impl Disks {
    /// What the folder takes, measured now or a short while ago.
    #[must_use]
    pub fn used(&self, path: &Path) -> Used {
        if let Some(known) = self.measured.lock().get(path)
            && known.at.elapsed() < (known.cost * PATIENCE).max(FRESH)
        {
            return known.used;
        }
        let at = Instant::now();
        let used = measure(path);
        let cost = at.elapsed();
        self.measured
            .lock()
            .insert(path.to_owned(), Measured { at, cost, used });
        used
    }

    /// Forgets folders that are not asked about any more.
    pub fn keep(&self, wanted: &HashSet<PathBuf>) {
        self.measured.lock().retain(|path, _| wanted.contains(path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_takes_its_blocks_once_per_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/a"), vec![1; 100_000]).unwrap();
        std::fs::hard_link(dir.path().join("sub/a"), dir.path().join("b")).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("c")).unwrap();
        let used = measure(dir.path());
        assert_eq!(
            used.inodes, 4,
            "the folder, the one below, the file once, the link itself"
        );
        assert!((100_000..200_000).contains(&used.bytes), "{}", used.bytes);
        assert_eq!(measure(&dir.path().join("none")), Used::default());
    }

    #[test]
    fn a_measurement_is_used_again_for_a_moment() {
        let dir = tempfile::tempdir().unwrap();
        let disks = Disks::default();
        let before = disks.used(dir.path());
        std::fs::write(dir.path().join("a"), "a").unwrap();
        assert_eq!(disks.used(dir.path()), before);
        disks.keep(&HashSet::new());
        assert_eq!(disks.used(dir.path()).inodes, before.inodes + 1);
        assert!(file_system(dir.path(), Timestamp::UNIX_EPOCH).is_some_and(|f| f.capacity_bytes > Some(0)));
    }
}
