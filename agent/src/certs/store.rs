//! Certificates on disk, laid out as upstream lays them out.

use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use steersman_runtime::serve::tls::Serving;
use steersman_types::jiff::Timestamp;

/// One certificate that is replaced from time to time.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
    name: &'static str,
}

impl Store {
    /// `name` is for instance `kubelet-client`.
    #[must_use]
    pub fn new(dir: &Path, name: &'static str) -> Self {
        Self {
            dir: dir.to_owned(),
            name,
        }
    }

    /// The path that always leads to the newest one.
    #[must_use]
    pub fn current_path(&self) -> PathBuf {
        self.dir.join(format!("{}-current.pem", self.name))
    }

    /// The newest one, if there is one.
    #[must_use]
    pub fn current(&self) -> Option<Serving> {
        let pem = std::fs::read(self.current_path()).ok()?;
        Some(Serving {
            certificate: pem.clone(),
            key: pem,
        })
    }

    /// Puts a new one in place. A crash leaves either the old or the new one.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn update(&self, new: &Serving, now: Timestamp) -> io::Result<()> {
        std::fs::create_dir_all(&self.dir)?;
        let file = self
            .dir
            .join(format!("{}-{}.pem", self.name, now.strftime("%Y-%m-%d-%H-%M-%S")));
        let mut out = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&file)?;
        out.write_all(&new.certificate)?;
        out.write_all(&new.key)?;
        out.sync_all()?;
        let link = self.dir.join(format!("{}-updated.pem", self.name));
        match std::fs::remove_file(&link) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        symlink(&file, &link)?;
        std::fs::rename(&link, self.current_path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_one_is_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), "kubelet-client");
        assert!(store.current().is_none());
        let of = |text: &str| Serving {
            certificate: format!("cert {text}\n").into(),
            key: format!("key {text}\n").into(),
        };
        for (i, text) in ["one", "two"].iter().enumerate() {
            let now = Timestamp::from_second(i64::try_from(i).unwrap()).unwrap();
            store.update(&of(text), now).unwrap();
            assert_eq!(
                store.current().unwrap().certificate,
                format!("cert {text}\nkey {text}\n").into_bytes()
            );
        }
        assert!(dir.path().join("kubelet-client-1970-01-01-00-00-01.pem").exists());
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(store.current_path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
