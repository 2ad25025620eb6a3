//! Running transactions: small ones as netlink messages ([`crate::batch`]), all others, and those that the kernel refuses in
//! that form, as one `nft -f -`. Either way a transaction is atomic, and has a time limit.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command as Process;

use crate::batch;
use crate::family::Family;
use crate::table::{self, Command};

/// A table of 250,000 endpoints is written in seconds.
const LIMIT: Duration = Duration::from_secs(120);
/// How much of nft's complaint is kept: it repeats the line that it does not like.
const COMPLAINT: usize = 500;

/// Why a transaction did not happen. The kernel's table is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error("starting nft: {0}")]
    Start(#[source] std::io::Error),
    #[error("nft refused the transaction: {0}")]
    Refused(String),
    #[error("nft did not finish within {} s", LIMIT.as_secs())]
    TimedOut,
}

/// Runs one transaction.
///
/// # Errors
/// When it did not happen.
pub async fn run(family: Family, commands: &[Command]) -> Result<(), NftError> {
    if commands.is_empty() {
        return Ok(());
    }
    if let Some(bytes) = batch::encode(family, commands) {
        match tokio::task::spawn_blocking(move || batch::run(&bytes)).await {
            Ok(Ok(())) => return Ok(()),
            // nft says what is wrong with it, if anything is.
            Ok(Err(error)) => tracing::debug!(%error, "the kernel refuses the messages"),
            Err(error) => tracing::debug!(%error, "sending messages"),
        }
    }
    feed(table::script(family, commands)).await
}

async fn feed(script: String) -> Result<(), NftError> {
    let mut child = Process::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(NftError::Start)?;
    let stdin = child.stdin.take();
    let work = async move {
        let write = async {
            if let Some(mut stdin) = stdin {
                // A process that ended early says why on its standard error.
                let _ = stdin.write_all(script.as_bytes()).await;
            }
        };
        let (output, ()) = tokio::join!(child.wait_with_output(), write);
        output
    };
    let output = tokio::time::timeout(LIMIT, work)
        .await
        .map_err(|_| NftError::TimedOut)?
        .map_err(NftError::Start)?;
    if output.status.success() {
        return Ok(());
    }
    let complaint: String = String::from_utf8_lossy(&output.stderr)
        .chars()
        .take(COMPLAINT)
        .collect();
    Err(NftError::Refused(complaint.trim().replace('\n', " | ")))
}

/// Removes both tables; they need not exist.
///
/// # Errors
/// When nft cannot be run.
pub async fn remove_tables() -> Result<(), NftError> {
    for family in [Family::V4, Family::V6] {
        run(family, &[Command::AddTable, Command::DeleteTable]).await?;
    }
    Ok(())
}
