//! Writes a set of files so that a reader sees all of the old ones or all of the new ones.
//!
//! Layout, upstream's: the files lie in a directory named after the time (`..2026_01_02_15_04_05.123456789`), the link `..data` points to it, and each visible name
//! links into `..data`. Replacing the link `..data` by rename is the moment of change. A crash leaves at most a stray
//! directory that the next write removes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use steersman_types::jiff::Timestamp;

/// One file to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSpec {
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner, if not the agent's own user.
    pub user: Option<u32>,
}

/// Relative path to file.
pub type Payload = BTreeMap<String, FileSpec>;

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// Makes `dir` hold exactly `payload`; does nothing when it already does. `finish` is called with the new directory
/// before it becomes visible (ownership). Tells whether something changed.
///
/// # Errors
/// When a path would leave `dir`, or the file system refuses.
pub fn write(
    dir: &Path,
    payload: &Payload,
    now: Timestamp,
    finish: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<bool> {
    for path in payload.keys() {
        check_path(path)?;
    }
    let old = fs::read_link(dir.join(DATA)).ok();
    if let Some(old) = &old
        && same(&dir.join(old), payload)
        && visible(payload)
            .iter()
            .all(|name| dir.join(name).symlink_metadata().is_ok())
    {
        return Ok(false);
    }
    remove_strays(dir, old.as_deref());
    let version = PathBuf::from(now.strftime("..%Y_%m_%d_%H_%M_%S.%9f").to_string());
    let new = dir.join(&version);
    fs::create_dir(&new)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    fill(&new, payload)?;
    finish(&new)?;
    let _ = fs::remove_file(dir.join(NEW_DATA));
    symlink(&version, dir.join(NEW_DATA))?;
    fs::rename(dir.join(NEW_DATA), dir.join(DATA))?;
    let wanted = visible(payload);
    for name in &wanted {
        let link = dir.join(name);
        if link.symlink_metadata().is_err() {
            symlink(Path::new(DATA).join(name), link)?;
        }
    }
    for entry in fs::read_dir(dir)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(&name) {
            fs::remove_file(entry.path())?;
        }
    }
    if let Some(old) = old {
        let _ = fs::remove_dir_all(dir.join(old));
    }
    Ok(true)
}

/// Relative, without `..`, no component that begins with `..`.
fn check_path(path: &str) -> io::Result<()> {
    let bad = || io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path {path:?}"));
    let mut components = 0;
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) if components > 0 || !name.to_string_lossy().starts_with("..") => components += 1,
            _ => return Err(bad()),
        }
    }
    if components == 0 { Err(bad()) } else { Ok(()) }
}

/// First components of all paths: what is seen directly in the volume.
fn visible(payload: &Payload) -> BTreeSet<String> {
    payload
        .keys()
        .filter_map(|p| p.split('/').find(|c| !c.is_empty()))
        .map(str::to_owned)
        .collect()
}

fn fill(dir: &Path, payload: &Payload) -> io::Result<()> {
    for (path, file) in payload {
        let full = dir.join(path);
        if let Some(parent) = full.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&full, &file.data)?;
        fs::set_permissions(&full, fs::Permissions::from_mode(file.mode & 0o7777))?;
        if let Some(user) = file.user {
            std::os::unix::fs::chown(&full, Some(user), None)?;
        }
    }
    Ok(())
}

/// Are exactly these files there, with these contents?
fn same(dir: &Path, payload: &Payload) -> bool {
    let all_there = payload
        .iter()
        .all(|(path, file)| fs::read(dir.join(path)).is_ok_and(|data| data == file.data));
    all_there && count(dir) == payload.len()
}

fn count(dir: &Path) -> usize {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let of = |e: fs::DirEntry| match e.file_type() {
        Ok(t) if t.is_dir() => count(&e.path()),
        _ => 1,
    };
    entries.flatten().map(of).sum()
}

/// Directories of versions that never became visible.
fn remove_strays(dir: &Path, current: Option<&Path>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_version = name.to_string_lossy().starts_with("..") && entry.file_type().is_ok_and(|t| t.is_dir());
        if is_version && current != Some(Path::new(&name)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |data: &str| FileSpec {
            data: data.into(),
            mode: 0o644,
            user: None,
        };
        files.iter().map(|(p, d)| ((*p).to_owned(), file(d))).collect()
    }

    /// What a container sees: visible paths with their contents.
    fn seen(dir: &Path) -> BTreeMap<String, String> {
        fn walk(dir: &Path, prefix: &str, out: &mut BTreeMap<String, String>) {
            for entry in fs::read_dir(dir).unwrap().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if prefix.is_empty() && name.starts_with("..") {
                    continue;
                }
                let path = format!("{prefix}{name}");
                if entry.path().is_dir() {
                    walk(&entry.path(), &format!("{path}/"), out);
                } else {
                    out.insert(path, fs::read_to_string(entry.path()).unwrap());
                }
            }
        }
        let mut out = BTreeMap::new();
        walk(dir, "", &mut out);
        out
    }

    #[test]
    fn a_second_identical_write_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let p = payload(&[("a", "1"), ("d/e/f", "2")]);
        assert!(write(dir.path(), &p, at(1), |_| Ok(())).unwrap());
        assert!(!write(dir.path(), &p, at(2), |_| Ok(())).unwrap());
        assert_eq!(
            fs::read_link(dir.path().join("..data")).unwrap(),
            Path::new("..1970_01_01_00_00_01.000000000")
        );
    }

    #[test]
    fn paths_that_would_leave_the_volume_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../a", "a/../../b", "/a", "..data", ""] {
            assert!(
                write(dir.path(), &payload(&[(path, "x")]), at(1), |_| Ok(())).is_err(),
                "{path}"
            );
        }
    }

    #[test]
    fn a_failed_write_leaves_the_old_files() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &payload(&[("a", "1")]), at(1), |_| Ok(())).unwrap();
        let failed = write(dir.path(), &payload(&[("a", "2")]), at(2), |_| {
            Err(io::Error::other("no"))
        });
        assert!(failed.is_err());
        assert_eq!(seen(dir.path()), BTreeMap::from([("a".to_owned(), "1".to_owned())]));
        assert!(write(dir.path(), &payload(&[("a", "2")]), at(3), |_| Ok(())).unwrap());
        assert!(
            !dir.path().join("..1970_01_01_00_00_02.000000000").exists(),
            "the stray version is removed"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn after_any_sequence_of_writes_exactly_the_last_payload_is_seen(
            rounds in proptest::collection::vec(
                proptest::collection::btree_map("[ab](/[cd]){0,2}", "[xyz]{0,3}", 0..4), 1..5)
        ) {
            let dir = tempfile::tempdir().unwrap();
            for (i, round) in rounds.iter().enumerate() {
                // A name cannot be file and directory at once.
                let clash = round.keys().any(|k| round.keys().any(|o| o.starts_with(&format!("{k}/"))));
                if clash { continue; }
                let p: Payload = round.iter()
                    .map(|(k, v)| (k.clone(), FileSpec { data: v.clone().into(), mode: 0o600, user: None })).collect();
                write(dir.path(), &p, at(i as i64), |_| Ok(())).unwrap();
                prop_assert_eq!(seen(dir.path()), round.clone());
            }
        }
    }
}
