//! The certificate authorities that vouch for clients, read again when their files change.
//!
//! A file that cannot be read, or that holds no certificate, leaves the authorities as they are and is logged once: a
//! half-written file must not lock everybody out. Connections stay; a chain that no longer holds fails its next request.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use steersman_auth::authn::CaPool;
use tokio_util::sync::CancellationToken;

/// How often the files are looked at: upstream's own period.
const PERIOD: Duration = Duration::from_secs(60);

/// The files in use.
#[derive(Default)]
pub struct Authorities {
    files: Vec<File>,
}

struct File {
    path: PathBuf,
    pool: Arc<CaPool>,
    /// The content last seen, good or bad.
    seen: Vec<u8>,
}

impl Authorities {
    /// Adds a pool that was made of the file's content.
    pub fn watch(&mut self, path: &Path, content: Vec<u8>, pool: Arc<CaPool>) -> Arc<CaPool> {
        self.files.push(File {
            path: path.to_owned(),
            pool: pool.clone(),
            seen: content,
        });
        pool
    }

    /// Reads changed files until the server stops.
    pub async fn keep_current(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PERIOD) => {}
            }
            for file in &mut self.files {
                match tokio::fs::read(&file.path).await {
                    Ok(content) => file.take(content),
                    Err(error) => tracing::warn!(file = %file.path.display(), %error, "cannot read the authorities"),
                }
            }
        }
    }
}

impl File {
    fn take(&mut self, content: Vec<u8>) {
        if content == self.seen {
            return;
        }
        let file = self.path.display();
        match self.pool.replace(&content) {
            Ok(()) => tracing::info!(%file, "client certificate authorities replaced"),
            Err(why) => tracing::error!(%file, %why, "client certificate authorities stay as they were"),
        }
        self.seen = content;
    }
}
