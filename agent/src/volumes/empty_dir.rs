//! `emptyDir`: a directory of the pod's own, on disk or in memory.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::mount::MountFlags;
use steersman_types::api::core::v1::EmptyDirVolumeSource;

use super::{mounts, ownership};
use crate::quantity::value;

/// Makes the volume, with everybody allowed to write and, with a group, owned by it. `memory` bounds volumes in memory
/// that have no limit of their own: what the node's pods may use together.
pub fn setup(path: &Path, source: &EmptyDirVolumeSource, group: Option<i64>, memory: i64) -> io::Result<()> {
    let in_memory = source.medium.as_deref() == Some("Memory");
    let own = source.size_limit.as_ref().map(value).filter(|l| *l > 0);
    prepare(
        path,
        in_memory.then(|| own.map_or(memory, |own| own.min(memory))),
        group,
    )
}

/// Makes the directory, or mounts memory of that size there. Does nothing to one that is there.
pub fn prepare(path: &Path, memory: Option<i64>, group: Option<i64>) -> io::Result<()> {
    if path.is_dir() && (memory.is_none() || mounts::is_mount_point(path)) {
        return Ok(());
    }
    std::fs::create_dir_all(path)?;
    match memory {
        Some(size) => mount_memory(path, size)?,
        None => std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?,
    }
    match group {
        Some(group) => ownership::apply(path, group, false),
        None => Ok(()),
    }
}

/// Secrets must not reach a swap device; kernels before 6.4 do not know how to promise that.
fn mount_memory(path: &Path, size: i64) -> io::Result<()> {
    let size = if size > 0 {
        format!("size={size}")
    } else {
        "size=50%".to_owned()
    };
    let mount = |options: String| {
        let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
        rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::empty(), options.as_c_str()).map_err(io::Error::from)
    };
    mount(format!("{size},noswap")).or_else(|_| mount(size))
}
