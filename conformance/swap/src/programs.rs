//! Where the programs of both sides are, and what tells one set of them from another.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::cells::{Cell, PROGRAMS, Side};

/// The programs of both sides.
#[derive(Clone, Debug)]
pub struct Programs {
    ours: PathBuf,
    upstream: PathBuf,
    /// What runs as upstream's cluster DNS: CoreDNS is no part of a Kubernetes release.
    dns: Option<PathBuf>,
}

impl Programs {
    /// # Errors
    /// A program that is missing, by name. Upstream's cluster DNS may be missing: its cells say so.
    pub fn find(ours: &Path, upstream: &Path, dns: Option<&Path>) -> Result<Self> {
        let coredns = upstream.join("coredns");
        let found = Self {
            ours: ours.to_owned(),
            upstream: upstream.to_owned(),
            dns: dns.map(Path::to_owned).or_else(|| coredns.exists().then_some(coredns)),
        };
        for side in [Side::Ours, Side::Upstream] {
            for program in PROGRAMS {
                match found.file(side, program) {
                    Some(file) if !file.is_file() => bail!("{} is missing", file.display()),
                    _ => {}
                }
            }
        }
        Ok(found)
    }

    /// A side's program; none for a cluster DNS of upstream's that was not given.
    #[must_use]
    pub fn file(&self, side: Side, program: &str) -> Option<PathBuf> {
        match side {
            Side::Ours => Some(self.ours.join(program)),
            Side::Upstream if program == "cluster-dns" => self.dns.clone(),
            Side::Upstream => Some(self.upstream.join(program)),
        }
    }

    /// Program by program, the file that runs in a cell. Where upstream's cluster DNS is needed only as one of the rest,
    /// ours takes its place if there is none.
    ///
    /// # Errors
    /// The cell is about a program that was not given.
    pub fn of(&self, cell: Cell) -> Result<Vec<(&'static str, PathBuf)>> {
        PROGRAMS
            .into_iter()
            .map(|program| {
                let side = cell.side_of(program);
                let is_the_one = matches!(cell, Cell::Swap { program: one, .. } if one == program);
                match self.file(side, program) {
                    Some(file) => Ok((program, file)),
                    None if !is_the_one => Ok((program, self.ours.join(program))),
                    None => bail!("no {program} of {side} was given (--dns, or coredns in the folder)"),
                }
            })
            .collect()
    }

    /// What is said of upstream's cluster DNS under the table.
    #[must_use]
    pub fn dns_note(&self) -> String {
        match &self.dns {
            None => {
                "cluster-dns: no upstream program given; where the rest is upstream's, DNS is still ours".to_owned()
            }
            Some(file) if file.file_name().is_some_and(|n| n == "coredns") => {
                "cluster-dns of upstream: CoreDNS".to_owned()
            }
            Some(_) => {
                "cluster-dns of upstream: not CoreDNS, but the stand-in with which upstream's own score was measured"
                    .to_owned()
            }
        }
    }

    /// Changes when any program of a side changes: names, sizes and times of its files.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let files = [Side::Ours, Side::Upstream]
            .into_iter()
            .flat_map(|side| PROGRAMS.into_iter().filter_map(move |p| self.file(side, p)));
        let mut hash = 0xcbf2_9ce4_8422_2325_u64; // FNV-1a: equal on every run, unlike the standard library's
        for file in files {
            let meta = file.metadata().ok();
            let time = meta.as_ref().and_then(|m| m.modified().ok());
            for byte in format!("{file:?} {:?} {time:?}", meta.map(|m| m.len())).bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        format!("{hash:016x}")
    }
}
