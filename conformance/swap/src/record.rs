//! What a cell's run left: kept in a file per cell, so that an interrupted run goes on where it stopped.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// One cell's result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub cell: String,
    /// What was run with what: a record of another set is no answer.
    pub fingerprint: String,
    /// Date and commit of the checkout.
    pub date: String,
    pub commit: String,
    /// Whole time of the cell, and how long the cluster took to come up, in seconds.
    pub seconds: f64,
    pub up_seconds: Option<f64>,
    /// Checks and tests that passed.
    pub passed: usize,
    /// What failed: names of tests, or sentences.
    pub failed: Vec<String>,
    /// What is worth knowing and no failure.
    pub notes: Vec<String>,
}

impl Record {
    #[must_use]
    pub fn green(&self) -> bool {
        self.failed.is_empty() && self.passed > 0
    }
}

/// The folder of records.
#[derive(Clone, Debug)]
pub struct Records(PathBuf);

impl Records {
    /// # Errors
    /// The folder cannot be made.
    pub fn in_folder(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self(folder.to_owned()))
    }

    /// Where a cell's logs go; made empty.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn logs(&self, cell: &str) -> Result<PathBuf> {
        let folder = self.0.join(cell);
        match std::fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// The latest record of a cell, whatever it was run with; none if there is no readable one.
    #[must_use]
    pub fn get(&self, cell: &str) -> Option<Record> {
        serde_json::from_slice(&std::fs::read(self.file(cell)).ok()?).ok()
    }

    /// # Errors
    /// The file cannot be written.
    pub fn put(&self, record: &Record) -> Result<()> {
        let fresh = self.0.join(format!("{}.json.new", record.cell));
        std::fs::write(&fresh, serde_json::to_vec_pretty(record)?)?;
        Ok(std::fs::rename(fresh, self.file(&record.cell))?)
    }

    fn file(&self, cell: &str) -> PathBuf {
        self.0.join(format!("{cell}.json"))
    }
}
