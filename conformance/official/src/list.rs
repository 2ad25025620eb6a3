//! Learning the tests from the binary: it asks for specs one after the other, and as
//! it is to skip all of them, it does nothing but say which each is.
//!
//! The numbers that it gives to specs follow from its seed, so they hold for every process of the run.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::desk::{Desk, Said};
use crate::plan::Test;
use crate::process;

/// It takes two or three seconds.
const LIMIT: Duration = Duration::from_secs(120);

/// The conformance tests of the binary, in the order in which it runs them.
///
/// # Errors
/// When it is no official test binary that can be driven this way.
pub async fn tests(binary: &Path, folder: &Path, desk: &Arc<Desk>) -> Result<Vec<Test>> {
    let mut guest = desk.guest();
    let mut child = process::list(binary, folder, &guest.address())?;
    let mut tests = Vec::new();
    let (mut asked, mut serial) = (0, false);
    let conversation = async {
        loop {
            tokio::select! {
                biased;
                Some(said) = guest.said.recv() => match said {
                    Said::Next(reply) => {
                        // If it hangs up, its end is seen below.
                        let _ = reply.send(asked);
                        asked += 1;
                    }
                    Said::Serial => serial = true,
                    Said::Ran(spec) if spec.is_test() => {
                        let name = spec.name();
                        if name.contains("[Conformance]") {
                            tests.push(Test { name, index: asked - 1, serial });
                        }
                    }
                    Said::Ran(_) => {}
                },
                ended = child.wait() => return ended.context("waiting for the list of tests"),
            }
        }
    };
    tokio::time::timeout(LIMIT, conversation)
        .await
        .context("the list of tests takes too long")??;
    if tests.is_empty() {
        bail!(
            "{} has no test that says [Conformance]; is it an e2e.test of v1.36?",
            binary.display()
        );
    }
    Ok(tests)
}
