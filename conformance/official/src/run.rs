//! Running tests: a task per test process, which hands out tests, writes verdicts down, and starts the process again when
//! it crashes.
//!
//! What stays true: a test is handed out once per run; its verdict is on the disk before the process gets the next one; a
//! crash or a hanging test costs that test alone. What is interrupted from outside (Ctrl-C) has no verdict and runs when
//! the run goes on.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::catalogue::Catalogue;
use crate::desk::{Desk, Guest, NONE, Said};
use crate::folder::{Folder, log_name};
use crate::ginkgo::Spec;
use crate::plan::{Part, Test, focus};
use crate::process::{self, Binary, Output, last_words};
use crate::verdict::{Outcome, Verdict, one_line};

/// How long an aborted test may take to clean up before its process is killed.
const CLEAN_UP: Duration = Duration::from_secs(90);
/// Starts in a row of which none got as far as asking for a test, before a process is given up.
const ATTEMPTS: u32 = 5;
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(20);
/// Without a verdict for so long, what is running is named.
const SILENCE: Duration = Duration::from_secs(60);

/// How far the user wants to be let out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    No,
    /// Tests clean up after themselves.
    Soon,
    /// Processes are killed.
    Now,
}

/// What the tasks of a run share.
#[derive(Debug)]
pub struct Run {
    pub folder: Folder,
    pub binary: Binary,
    pub desk: Arc<Desk>,
    pub catalogue: Catalogue,
    /// A test that takes longer is ended and has failed.
    pub bound: Duration,
    pub stop: watch::Receiver<Stop>,
    pub progress: Mutex<Progress>,
}

/// What the user sees while it runs.
#[derive(Debug, Default)]
pub struct Progress {
    pub total: usize,
    pub done: usize,
    pub failed: usize,
    pub running: Vec<(String, Instant)>,
}

/// A test under way.
#[derive(Debug)]
struct Current {
    test: Test,
    since: Instant,
    /// Where its part of the process' output begins.
    position: u64,
    aborted: bool,
}

/// One process' work.
struct Worker {
    run: Arc<Run>,
    part: Part,
    number: usize,
    total: usize,
    queue: Arc<Mutex<VecDeque<Test>>>,
    current: Option<Current>,
    /// What the suite's set-up failed with.
    refused: Option<String>,
    /// Whether the process got as far as running tests.
    began: bool,
    /// Whether the process was told to abort: what it would be given would not run.
    aborting: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the tests of a part; returns when each has a verdict, or the user stops it.
///
/// # Errors
/// When the suite cannot be set up on this cluster, or the disk refuses.
pub async fn part(run: &Arc<Run>, part: Part, tests: Vec<Test>, procs: usize) -> Result<()> {
    if tests.is_empty() || *run.stop.borrow() != Stop::No {
        return Ok(());
    }
    let procs = if part == Part::Serial {
        1
    } else {
        procs.min(tests.len()).max(1)
    };
    run.desk.forget_set_up();
    run.folder.mark(part, now(), false)?;
    let queue = Arc::new(Mutex::new(VecDeque::from(tests)));
    let mut workers = JoinSet::new();
    for number in 1..=procs {
        let worker = Worker {
            run: Arc::clone(run),
            part,
            number,
            // With one process in all, ginkgo would not ask for tests.
            total: procs.max(2),
            queue: Arc::clone(&queue),
            current: None,
            refused: None,
            began: false,
            aborting: false,
        };
        workers.spawn(worker.work());
    }
    let mut failed = Ok(());
    let mut silence = tokio::time::interval(SILENCE);
    silence.reset();
    let mut seen = lock(&run.progress).done;
    loop {
        tokio::select! {
            ended = workers.join_next() => match ended {
                None => break,
                Some(Err(panic)) => failed = Err(anyhow!("a task of the runner ended early: {panic}")),
                Some(Ok(Err(error))) => failed = Err(error),
                Some(Ok(Ok(()))) => {}
            },
            _ = silence.tick() => {
                let progress = lock(&run.progress);
                if progress.done == seen {
                    println!("{}", progress.waiting());
                }
                seen = progress.done;
            }
        }
    }
    run.folder.mark(part, now(), true)?;
    let left = lock(&queue).len();
    if left > 0 && failed.is_err() {
        println!("{left} tests were not run");
    }
    failed
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

impl Progress {
    fn waiting(&self) -> String {
        let running: Vec<String> = self
            .running
            .iter()
            .map(|(name, since)| format!("{} s {name}", since.elapsed().as_secs()))
            .collect();
        format!("{} running: {}", self.running.len(), running.join("; "))
    }
}

impl Worker {
    async fn work(mut self) -> Result<()> {
        let mut idle = 0;
        let mut stop = self.run.stop.clone();
        while !self.is_over() {
            self.began = false;
            let words = self.process().await?;
            if self.is_over() {
                break;
            }
            idle = if self.began { 0 } else { idle + 1 };
            if idle > 0 {
                println!("process {} began no test: {}", self.number, one_line(&words));
                if idle == ATTEMPTS {
                    bail!("the suite cannot be set up on this cluster: {}", one_line(&words));
                }
                tokio::select! {
                    () = tokio::time::sleep(BETWEEN_ATTEMPTS) => {}
                    _ = stop.changed() => {}
                }
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.stopping() != Stop::No || lock(&self.queue).is_empty()
    }

    fn stopping(&self) -> Stop {
        *self.run.stop.borrow()
    }

    /// One process from its start to its end; says what it ended with.
    async fn process(&mut self) -> Result<String> {
        self.aborting = false;
        let mut guest = self.run.desk.guest();
        let only = (self.part == Part::Serial).then(|| focus(lock(&self.queue).make_contiguous()));
        let folder = self.run.folder.path().to_owned();
        let (mut child, output) = process::run(
            &self.run.binary,
            &folder,
            &guest.address(),
            self.number,
            self.total,
            only.as_deref(),
        )?;
        let beginning = output.length();
        let status = self.converse(&mut guest, &mut child, &output).await?;
        // Reports that were on their way when it ended.
        while let Ok(said) = guest.said.try_recv() {
            self.hear(said, &output)?;
        }
        let words = match self.refused.take() {
            Some(refusal) => refusal,
            None => format!("e2e.test ended with {status}: {}", last_words(&output.since(beginning))),
        };
        if let Some(current) = self.current.take() {
            self.ended_without_report(current, &words, &output)?;
        }
        Ok(words)
    }

    async fn converse(
        &mut self,
        guest: &mut Guest,
        child: &mut Child,
        output: &Output,
    ) -> Result<std::process::ExitStatus> {
        let mut stop = self.run.stop.clone();
        let mut kill_at: Option<Instant> = None;
        loop {
            let deadline = match (&self.current, kill_at) {
                (_, Some(at)) => Some(at),
                (Some(current), None) if !current.aborted => Some(current.since + self.run.bound),
                _ => None,
            };
            tokio::select! {
                biased;
                Some(said) = guest.said.recv() => self.hear(said, output)?,
                ended = child.wait() => return Ok(ended?),
                () = until(deadline) => {
                    if kill_at.is_some() {
                        // It may be ending at this moment.
                        let _ = child.start_kill();
                        kill_at = Some(Instant::now() + CLEAN_UP);
                    } else {
                        if let Some(current) = &mut self.current {
                            println!("aborting after {} s: {}", self.run.bound.as_secs(), current.test.name);
                            current.aborted = true;
                        }
                        guest.abort();
                        self.aborting = true;
                        kill_at = Some(Instant::now() + CLEAN_UP);
                    }
                }
                Ok(()) = stop.changed() => {
                    guest.abort();
                    let patience = if self.stopping() == Stop::Now { Duration::ZERO } else { CLEAN_UP };
                    kill_at = Some(Instant::now() + patience);
                }
            }
        }
    }

    fn hear(&mut self, said: Said, output: &Output) -> Result<()> {
        match said {
            Said::Next(reply) => {
                let given = match self.part {
                    Part::Parallel => self.take_next(output),
                    Part::Serial => NONE,
                };
                // If it hung up, it ends, and the test counts as crashed: it may have begun.
                let _ = reply.send(given);
                Ok(())
            }
            Said::Serial => {
                if self.part == Part::Serial && self.current.is_none() {
                    self.take_next(output);
                }
                Ok(())
            }
            Said::Ran(spec) => self.ran(&spec, output),
        }
    }

    /// Takes the next test from the queue, unless this process is to end.
    fn take_next(&mut self, output: &Output) -> usize {
        if self.aborting || self.stopping() != Stop::No {
            return NONE;
        }
        let Some(test) = lock(&self.queue).pop_front() else {
            return NONE;
        };
        self.began = true;
        let index = test.index;
        let since = Instant::now();
        lock(&self.run.progress).running.push((test.name.clone(), since));
        self.current = Some(Current {
            test,
            since,
            position: output.length(),
            aborted: false,
        });
        index
    }

    fn ran(&mut self, spec: &Spec, output: &Output) -> Result<()> {
        if spec.is_failed_set_up() {
            self.refused = Some(spec.reason());
        }
        if !spec.is_test() {
            return Ok(());
        }
        let name = spec.name();
        let Some(current) = self.current.take_if(|current| current.test.name == name) else {
            // Serial tests that are not ours are reported as skipped.
            if spec.outcome() == Some(Outcome::Skipped) {
                return Ok(());
            }
            bail!(
                "e2e.test ran {name:?}, which it was not given: it numbers its tests differently from one start to the next"
            );
        };
        self.forget(&name);
        let (outcome, reason) = match spec.outcome() {
            _ if current.aborted => (Outcome::Failed, format!("{} {}", self.too_long(), spec.reason())),
            Some(outcome) => (outcome, spec.reason()),
            None if self.stopping() != Stop::No => return Ok(()),
            None => (
                Outcome::Failed,
                format!("{} from outside: {}", spec.state, spec.reason()),
            ),
        };
        let log = format!(
            "{}\n---- what its process printed\n{}",
            spec.log(),
            output.since(current.position)
        );
        self.record(&name, outcome, spec.seconds(), reason, &log)?;
        if self.part == Part::Serial {
            self.take_next(output);
        }
        Ok(())
    }

    fn too_long(&self) -> String {
        format!("did not end within {} s.", self.run.bound.as_secs())
    }

    /// The process is gone, and said nothing about the test that it was running.
    fn ended_without_report(&self, current: Current, words: &str, output: &Output) -> Result<()> {
        self.forget(&current.test.name);
        if self.stopping() != Stop::No {
            return Ok(());
        }
        let reason = if current.aborted {
            format!("{} It could not be aborted: {words}", self.too_long())
        } else {
            words.to_owned()
        };
        let log = format!(
            "{}\n{reason}\n\n---- what its process printed\n{}",
            current.test.name,
            output.since(current.position)
        );
        let seconds = current.since.elapsed().as_secs_f64();
        self.record(&current.test.name, Outcome::Failed, seconds, reason, &log)
    }

    fn forget(&self, name: &str) {
        lock(&self.run.progress).running.retain(|(running, _)| running != name);
    }

    fn record(&self, name: &str, outcome: Outcome, seconds: f64, reason: String, log: &str) -> Result<()> {
        let verdict = Verdict {
            name: name.to_owned(),
            outcome,
            seconds,
            ended: now(),
            reason,
            log: log_name(name),
        };
        self.run.folder.record(&verdict, log)?;
        let mut progress = lock(&self.run.progress);
        progress.done += 1;
        if outcome != Outcome::Passed {
            progress.failed += 1;
        }
        println!(
            "[{:>3}/{}, {} not passed] {outcome} {seconds:>6.1} s  {}  {name}",
            progress.done,
            progress.total,
            progress.failed,
            self.run.catalogue.area(name),
        );
        if outcome != Outcome::Passed {
            println!("      {}", one_line(&verdict.reason));
        }
        Ok(())
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
