//! `emptyDir`: a directory of the pod's own, on disk or in memory.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::mount::MountFlags;
use steersman_types::api::core::v1::EmptyDirVolumeSource;

use super::{mounts, ownership};
use crate::quantity::value;

/// Makes the volume, with everybody allowed to write and, with a group, owned by it.
pub fn setup(path: &Path, source: &EmptyDirVolumeSource, group: Option<i64>) -> io::Result<()> {
    let memory = source.medium.as_deref() == Some("Memory");
    let limit = source.size_limit.as_ref().map(value).filter(|l| *l > 0);
    if !prepare(path, memory, limit)? {
        return Ok(());
    }
    match group {
        Some(group) => ownership::apply(path, group, false),
        None => Ok(()),
    }
}

/// Makes the directory, or mounts memory there. Tells whether it is new.
pub fn prepare(path: &Path, memory: bool, limit: Option<i64>) -> io::Result<bool> {
    let existed = path.is_dir();
    if existed && (!memory || mounts::is_mount_point(path)) {
        return Ok(false);
    }
    std::fs::create_dir_all(path)?;
    if memory {
        let size = limit.map(|l| format!("size={l}")).unwrap_or_default();
        let options = std::ffi::CString::new(size).map_err(io::Error::other)?;
        rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::empty(), options.as_c_str())?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
    Ok(true)
}
