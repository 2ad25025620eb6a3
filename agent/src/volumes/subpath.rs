//! A part of a volume for one container, without letting the container choose what that part is.
//!
//! A volume's content belongs to the pod, which may put links there that point anywhere on the node. So the path is
//! opened step by step below the volume by the kernel (`openat2`, no step may leave), and what was opened, not its
//! name, is bind-mounted under the pod's own directory; the container gets that mount.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};

use super::mounts::is_mount_point;

/// Refuses paths that are absolute or climb.
///
/// # Errors
/// Upstream's text.
pub fn check(sub_path: &str) -> Result<(), String> {
    if Path::new(sub_path).is_absolute() {
        return Err(format!("error SubPath `{sub_path}` must not be an absolute path"));
    }
    if Path::new(sub_path).components().any(|c| c == Component::ParentDir) {
        return Err(format!(
            "unable to provision SubPath `{sub_path}`: must not contain '..'"
        ));
    }
    Ok(())
}

/// Opens `sub_path` below `volume`, making missing directories, and mounts it at `target`.
///
/// # Errors
/// When a step is a link that leads out of the volume, or the mount fails.
pub fn prepare(volume: &Path, sub_path: &str, target: &Path) -> io::Result<PathBuf> {
    if is_mount_point(target) {
        return Ok(target.to_owned());
    }
    let opened = open_or_make(volume, sub_path)?;
    let is_dir = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&opened)?.st_mode).is_dir();
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if is_dir {
        std::fs::create_dir_all(target)?;
    } else if !target.exists() {
        std::fs::File::create(target)?;
    }
    let source = format!("/proc/self/fd/{}", opened.as_raw_fd());
    rustix::mount::mount_bind(source.as_str(), target)?;
    Ok(target.to_owned())
}

fn open_or_make(volume: &Path, sub_path: &str) -> io::Result<OwnedFd> {
    let root = openat(
        CWD,
        volume,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let open = |path: &Path| openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), inside);
    if let Ok(found) = open(Path::new(sub_path)) {
        return Ok(found);
    }
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&root)?.st_mode & 0o7777);
    let mut done = PathBuf::new();
    for component in Path::new(sub_path).components() {
        let parent = if done.as_os_str().is_empty() {
            open(Path::new("."))?
        } else {
            open(&done)?
        };
        match mkdirat(&parent, component.as_os_str(), mode) {
            Ok(()) => {
                // mkdir obeys the umask; the directory must be as open as the volume itself.
                let made = done.join(component);
                let fd = openat2(&root, &made, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), inside)?;
                rustix::fs::fchmod(&fd, mode)?;
            }
            Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        done.push(component);
    }
    Ok(open(&done)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn climbing_and_absolute_paths_are_refused() {
        assert_eq!(check("a/b"), Ok(()));
        assert!(check("/a").is_err_and(|e| e.contains("must not be an absolute path")));
        assert!(check("a/../../b").is_err_and(|e| e.contains("must not contain '..'")));
    }

    #[test]
    fn a_link_cannot_lead_out_of_the_volume() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "x").unwrap();
        let volume = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), volume.path().join("out")).unwrap();
        let opened = open_or_make(volume.path(), "out/secret");
        assert!(
            opened.is_err(),
            "the link is resolved inside the volume, where nothing is"
        );
        assert!(open_or_make(volume.path(), "new/dir").is_ok());
        assert!(volume.path().join("new/dir").is_dir());
    }
}
