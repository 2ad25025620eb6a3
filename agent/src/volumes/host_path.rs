//! `hostPath`: a path of the node itself, of the type that the pod says.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Checks the type; the `…OrCreate` types make what is missing.
///
/// # Errors
/// Upstream's text when the path is something else.
pub fn check(path: &Path, kind: &str) -> Result<(), String> {
    let is = |what: fn(&fs::FileType) -> bool| fs::metadata(path).is_ok_and(|m| what(&m.file_type()));
    let fail = |what: &str| {
        Err(format!(
            "hostPath type check failed: {} is not a {what}",
            path.display()
        ))
    };
    match kind {
        "" => Ok(()),
        "DirectoryOrCreate" => {
            if !path.exists() {
                fs::create_dir_all(path).map_err(|e| e.to_string())?;
            }
            if is(fs::FileType::is_dir) {
                Ok(())
            } else {
                fail("directory")
            }
        }
        "Directory" if is(fs::FileType::is_dir) => Ok(()),
        "Directory" => fail("directory"),
        "FileOrCreate" => {
            if !path.exists() {
                fs::File::create(path).map_err(|e| e.to_string())?;
            }
            if is(fs::FileType::is_file) {
                Ok(())
            } else {
                fail("file")
            }
        }
        "File" if is(fs::FileType::is_file) => Ok(()),
        "File" => fail("file"),
        "Socket" if is(fs::FileType::is_socket) => Ok(()),
        "Socket" => fail("socket file"),
        "CharDevice" if is(fs::FileType::is_char_device) => Ok(()),
        "CharDevice" => fail("character device"),
        "BlockDevice" if is(fs::FileType::is_block_device) => Ok(()),
        "BlockDevice" => fail("block device"),
        other => Err(format!("{other} is an invalid volume type")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked_and_created_where_asked() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        let sub = dir.path().join("a/b");
        assert!(check(&file, "File").is_err_and(|e| e.ends_with("is not a file")));
        assert_eq!(check(&file, "FileOrCreate"), Ok(()));
        assert_eq!(check(&file, "File"), Ok(()));
        assert!(check(&file, "Directory").is_err_and(|e| e.ends_with("is not a directory")));
        assert_eq!(check(&sub, "DirectoryOrCreate"), Ok(()));
        assert_eq!(check(&sub, "Directory"), Ok(()));
        assert_eq!(check(Path::new("/dev/null"), "CharDevice"), Ok(()));
        assert_eq!(check(&dir.path().join("none"), ""), Ok(()));
    }
}
