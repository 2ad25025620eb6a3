//! Gives a volume to the pod's `fsGroup`.

use std::io;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::Path;

/// Makes everything below `dir`, and `dir` itself, belong to `group`, which may read and, unless `read_only`, write.
/// New files in it inherit the group.
pub fn apply(dir: &Path, group: i64, read_only: bool) -> io::Result<()> {
    let group = u32::try_from(group).map_err(io::Error::other)?;
    one(dir, group, read_only)
}

fn one(path: &Path, group: u32, read_only: bool) -> io::Result<()> {
    let meta = path.symlink_metadata()?;
    lchown(path, None, Some(group))?;
    if meta.file_type().is_symlink() {
        return Ok(());
    }
    let mut add = if read_only { 0o440 } else { 0o660 };
    if meta.is_dir() {
        add |= 0o2110;
    }
    std::fs::set_permissions(
        path,
        std::fs::Permissions::from_mode((meta.permissions().mode() & 0o7777) | add),
    )?;
    if meta.is_dir() {
        for entry in std::fs::read_dir(path)? {
            one(&entry?.path(), group, read_only)?;
        }
    }
    Ok(())
}
