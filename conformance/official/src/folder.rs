//! The folder of one run: what was asked (`run.json`), one line per verdict, one log per test, the JUnit report.
//!
//! Everything that a later start needs lies here, and a verdict is on the disk before the next test begins: a run that was
//! interrupted, killed or cut off by a reboot goes on where it was. Nothing here starts anything.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::plan::{Part, Selection};
use crate::verdict::Verdict;

/// What a run is of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// When it was begun, in seconds since 1970.
    pub begun: i64,
    /// The commit that was checked out, with `+` if files differed from it.
    pub commit: String,
    /// The official binary: its path, size and time of change.
    pub binary: String,
    /// What the API server said of itself.
    pub server: String,
    pub procs: usize,
    pub selection: Selection,
    /// How many tests were selected; 0 until they are known.
    pub tests: usize,
}

/// Results of a run as read from its folder.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Results {
    /// By name; the first verdict of a test is the one that counts.
    pub verdicts: BTreeMap<String, Verdict>,
    /// Wall-clock seconds of the parts, without the pauses between interruption and continuation.
    pub parallel: i64,
    pub serial: i64,
}

impl Results {
    #[must_use]
    pub fn done(&self) -> HashSet<String> {
        self.verdicts.keys().cloned().collect()
    }

    /// Reads the lines of `verdicts.tsv`. A line `# parallel T` or `# serial T` says when work on a part began or ended.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut results = Self::default();
        let mut open: Option<(bool, i64)> = None; // serial?, last moment seen
        for line in text.lines() {
            let now = if let Some(mark) = line.strip_prefix("# ") {
                let mut words = mark.split(' ');
                let (Some(part), Some(Ok(at))) = (words.next(), words.next().map(str::parse)) else {
                    continue;
                };
                if words.next() != Some("end") {
                    open = Some((part == "serial", at));
                    continue;
                }
                at
            } else if let Some(verdict) = Verdict::parse(line) {
                let ended = verdict.ended;
                results.verdicts.entry(verdict.name.clone()).or_insert(verdict);
                ended
            } else {
                continue;
            };
            if let Some((serial, since)) = &mut open {
                let wall = if *serial {
                    &mut results.serial
                } else {
                    &mut results.parallel
                };
                *wall += (now - *since).max(0);
                *since = now.max(*since);
            }
        }
        results
    }
}

/// A run's folder.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// The runs below `root`, oldest first. Folders are named by time.
    #[must_use]
    pub fn all(root: &Path) -> Vec<Self> {
        let mut paths: Vec<PathBuf> = fs::read_dir(root)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.join("run.json").is_file())
            .collect();
        paths.sort();
        paths.into_iter().map(Self).collect()
    }

    /// The folder that the user names.
    ///
    /// # Errors
    /// When it is none of a run.
    pub fn at(path: &Path) -> Result<Self> {
        let folder = Self(path.to_owned());
        folder.about()?;
        Ok(folder)
    }

    /// A new folder below `root`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(root: &Path, about: &About) -> Result<Self> {
        let name = jiff::Timestamp::from_second(about.begun)?
            .strftime("%Y%m%d-%H%M%S")
            .to_string();
        let folder = Self(root.join(name));
        for part in ["logs", "processes", "output", "home"] {
            fs::create_dir_all(folder.0.join(part)).with_context(|| format!("making {}", folder.0.display()))?;
        }
        folder.write_about(about)?;
        Ok(folder)
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// # Errors
    /// When `run.json` is missing or damaged.
    pub fn about(&self) -> Result<About> {
        let path = self.0.join("run.json");
        let text = fs::read(&path).with_context(|| format!("{} is no folder of a run", self.0.display()))?;
        serde_json::from_slice(&text).with_context(|| path.display().to_string())
    }

    /// # Errors
    /// When the disk refuses.
    pub fn write_about(&self, about: &About) -> Result<()> {
        let new = self.0.join("run.json.new");
        fs::write(&new, serde_json::to_vec_pretty(about)?)?;
        fs::rename(new, self.0.join("run.json")).context("writing run.json")
    }

    /// Writes down which tests are to run.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write_names(&self, names: &[String]) -> Result<()> {
        fs::write(self.0.join("tests.txt"), names.join("\n") + "\n").context("writing tests.txt")
    }

    /// Which tests are to run, whether or not they have a verdict.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let text = fs::read_to_string(self.0.join("tests.txt")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// What the run has found so far.
    #[must_use]
    pub fn results(&self) -> Results {
        let text = fs::read(self.0.join("verdicts.tsv")).unwrap_or_default();
        Results::parse(&String::from_utf8_lossy(&text))
    }

    /// Notes that work on a part begins or ends.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn mark(&self, part: Part, at: i64, end: bool) -> Result<()> {
        let part = match part {
            Part::Parallel => "parallel",
            Part::Serial => "serial",
        };
        self.append(&format!("# {part} {at}{}\n", if end { " end" } else { "" }))
    }

    /// Writes a verdict down and makes sure that it stays.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn record(&self, verdict: &Verdict, log: &str) -> Result<()> {
        fs::write(self.0.join(&verdict.log), log).with_context(|| format!("writing {}", verdict.log))?;
        self.append(&verdict.line())
    }

    fn append(&self, line: &str) -> Result<()> {
        let path = self.0.join("verdicts.tsv");
        let torn = fs::read(&path).is_ok_and(|text| text.last().is_some_and(|last| *last != b'\n'));
        let mut file: File = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| path.display().to_string())?;
        let line = if torn { format!("\n{line}") } else { line.to_owned() };
        file.write_all(line.as_bytes())?;
        file.sync_data().context("writing a verdict")
    }
}

/// File name for a test's log: readable, and different for different tests.
#[must_use]
pub fn log_name(name: &str) -> String {
    let mut short = String::new();
    for character in name.chars().filter(|c| !"[]".contains(*c)).take(120) {
        let kept = character.is_ascii_alphanumeric() || ".-".contains(character);
        match (kept, short.ends_with('_')) {
            (true, _) => short.push(character),
            (false, false) => short.push('_'),
            (false, true) => {}
        }
    }
    // FNV-1a: two names may differ only behind the cut.
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    format!("logs/{}-{hash:08x}.log", short.trim_matches('_'))
}

/// Whether to go on with the last run or to begin a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Go on if the last run is unfinished and of the same thing.
    Either,
    New,
    Resume,
}

/// The run to go on with, if any: the last one, if it lacks verdicts and is of the same commit, binary and selection.
///
/// # Errors
/// When the user wants to go on, and there is nothing to go on with.
pub fn to_resume(last: Option<(&About, usize)>, wanted: &About, wish: Wish) -> Result<bool> {
    let unfinished = last.filter(|(about, done)| about.tests == 0 || *done < about.tests);
    match wish {
        Wish::New => Ok(false),
        Wish::Resume => {
            let (about, _) = unfinished.context("there is no unfinished run to go on with")?;
            anyhow::ensure!(
                about.selection == wanted.selection,
                "the unfinished run is of other tests; repeat its --area, --name and --part, or begin with --new"
            );
            Ok(true)
        }
        Wish::Either => Ok(unfinished.is_some_and(|(about, _)| {
            (&about.commit, &about.binary, &about.selection) == (&wanted.commit, &wanted.binary, &wanted.selection)
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Outcome;

    fn about() -> About {
        About {
            begun: 1_795_181_240,
            commit: "abc".to_owned(),
            binary: "e2e.test 5 7".to_owned(),
            server: "v1.36.2".to_owned(),
            procs: 8,
            selection: Selection::default(),
            tests: 3,
        }
    }

    fn verdict(name: &str, outcome: Outcome, ended: i64) -> Verdict {
        Verdict {
            name: name.to_owned(),
            outcome,
            seconds: 1.0,
            ended,
            reason: String::new(),
            log: log_name(name),
        }
    }

    #[test]
    fn a_folder_gives_back_what_was_recorded_and_a_torn_line_is_no_verdict() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::create(root.path(), &about()).unwrap();
        folder.mark(Part::Parallel, 100, false).unwrap();
        folder.record(&verdict("a", Outcome::Passed, 110), "log").unwrap();
        fs::write(
            folder.path().join("verdicts.tsv"),
            fs::read_to_string(folder.path().join("verdicts.tsv")).unwrap() + "passed\t1.0\t12",
        )
        .unwrap();
        folder.mark(Part::Parallel, 500, false).unwrap();
        folder.record(&verdict("b", Outcome::Failed, 520), "log").unwrap();
        folder.record(&verdict("b", Outcome::Passed, 525), "log").unwrap();
        let results = Folder::all(root.path())[0].results();
        assert_eq!(results.done(), HashSet::from(["a".to_owned(), "b".to_owned()]));
        assert_eq!(
            results.verdicts["b"].outcome,
            Outcome::Failed,
            "nothing is made good by a second run"
        );
        assert_eq!(
            results.parallel,
            10 + 25,
            "the pause between the two starts is not counted"
        );
        assert_eq!(Folder::all(root.path())[0].about().unwrap(), about());
    }

    #[test]
    fn the_serial_part_is_timed_by_itself() {
        let lines = format!(
            "# parallel 0\n{}# parallel 15 end\n# serial 20\n{}# serial 50 end\n",
            verdict("a", Outcome::Passed, 10).line(),
            verdict("b", Outcome::Passed, 40).line()
        );
        let results = Results::parse(&lines);
        assert_eq!((results.parallel, results.serial), (15, 30));
    }

    #[test]
    fn an_unfinished_run_of_the_same_thing_goes_on_by_itself() {
        let old = about();
        let resume = |done, wanted: &About, wish| to_resume(Some((&old, done)), wanted, wish).unwrap();
        assert!(resume(2, &old, Wish::Either));
        assert!(!resume(3, &old, Wish::Either), "it is finished");
        assert!(!resume(2, &old, Wish::New));
        let newer = About {
            commit: "def".to_owned(),
            ..about()
        };
        assert!(!resume(2, &newer, Wish::Either), "a run is of one commit");
        assert!(resume(2, &newer, Wish::Resume), "unless the user says so");
        assert!(to_resume(None, &old, Wish::Resume).is_err());
        let part = About {
            selection: Selection {
                part: Some(Part::Serial),
                ..Selection::default()
            },
            ..about()
        };
        assert!(to_resume(Some((&old, 2)), &part, Wish::Resume).is_err());
    }

    #[test]
    fn logs_of_different_tests_have_different_names() {
        let (one, two) = (
            "[sig-apps] A should work [Conformance]",
            "[sig-apps] A should work/ [Conformance]",
        );
        assert_ne!(log_name(one), log_name(two));
        assert!(log_name(one).starts_with("logs/sig-apps_A_should_work_Conformance-"));
        assert!(log_name(&"x".repeat(500)).len() < 160);
    }
}
