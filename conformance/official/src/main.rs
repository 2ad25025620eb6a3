//! The runner for the official conformance suite: gives the tests of an `e2e.test` to several of its processes, writes each
//! verdict down when it falls, goes on after an interruption, and keeps the scoreboard in `conformance/README.md`.
//!
//! `hack/official` starts it; `conformance/README.md` tells how to use it. It talks to the cluster only through the official
//! binary and kubectl, and knows no crate of the product. Nothing is skipped, tried again or expected to fail; the binary's
//! flags stay at their defaults where a default says how clients behave.
//!
//! The flow of a run is [`run`]; `desk` is where test processes report, `run.rs` what happens then.

mod catalogue;
mod desk;
mod folder;
mod ginkgo;
mod junit;
mod list;
mod plan;
mod prepare;
mod process;
mod readme;
mod run;
mod table;
mod verdict;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use catalogue::Catalogue;
use folder::{About, Folder, Results, Wish, to_resume};
use plan::{Part, Selection, Test};
use prepare::Kubectl;
use run::{Progress, Run, Stop};
use table::Verdicts;
use verdict::{Outcome, Verdict};

/// Runs an official conformance binary (`e2e.test` of v1.36) against a running cluster.
#[derive(Debug, Parser)]
#[command(name = "official")]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Run tests (the default); goes on with the last run if that is unfinished and of the same tests and commit
    Run(Box<RunArgs>),
    /// Print the table of a run
    Table(ShowArgs),
    /// List the tests of the last run with their areas and verdicts
    List(ShowArgs),
    /// Write the scoreboard of a whole run into conformance/README.md
    Report(ShowArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The official test binary
    e2e_test: PathBuf,
    /// Default: the cluster of hack/up
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// The kubectl that tests use; default: that of hack/up, or the one in PATH
    #[arg(long)]
    kubectl: Option<PathBuf>,
    /// Where runs are kept; default: official/ beside the kubeconfig of hack/up
    #[arg(long)]
    results: Option<PathBuf>,
    /// Only tests of this area, e.g. `apps` or `apps/job`; may be repeated
    #[arg(long = "area", value_name = "AREA")]
    areas: Vec<String>,
    /// Only tests whose name matches this regular expression; may be repeated
    #[arg(long = "name", value_name = "REGEXP")]
    names: Vec<String>,
    /// Only those that did not pass when they last ran
    #[arg(long)]
    failed: bool,
    /// Only one part; without it, the parallel part and then the serial one
    #[arg(long)]
    part: Option<Part>,
    /// Test processes of the parallel part
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    procs: u16,
    /// Minutes after which a test is ended and has failed; upstream's longest takes ten
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    bound: u64,
    /// Begin a new run, even if the last one is unfinished
    #[arg(long, conflicts_with = "resume")]
    new: bool,
    /// Go on with the last run, even if the commit has changed since
    #[arg(long)]
    resume: bool,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// The run's folder; default: the last one
    run: Option<PathBuf>,
    /// Where runs are kept
    #[arg(long)]
    results: Option<PathBuf>,
}

/// Words that name an action; anything else is the path of a binary to run.
const ACTIONS: [&str; 5] = ["run", "table", "list", "report", "help"];

fn main() -> Result<()> {
    let mut words: Vec<_> = std::env::args_os().collect();
    if words.get(1).is_some_and(|word| {
        !word
            .to_str()
            .is_some_and(|word| ACTIONS.contains(&word) || word.starts_with("--help") || word == "-h")
    }) {
        words.insert(1, "run".into());
    }
    match Cli::parse_from(words).command {
        Action::Run(args) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let all_passed = runtime.block_on(run(*args))?;
            std::process::exit(i32::from(!all_passed));
        }
        Action::Table(args) => show(&find(&args)?, &earlier(&args)?),
        Action::List(args) => list(&find(&args)?),
        Action::Report(args) => report(&find(&args)?, &earlier(&args)?),
    }
}

/// The repository.
fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The folder of the cluster that `hack/up` made.
fn state() -> PathBuf {
    std::env::var_os("STEERSMAN_STATE").map_or_else(|| repository().join(".cluster"), PathBuf::from)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize().with_context(|| path.display().to_string())
}

/// The folder of all runs.
fn root(given: Option<&Path>) -> Result<PathBuf> {
    let root = given.map_or_else(|| state().join("official"), Path::to_owned);
    std::fs::create_dir_all(&root).with_context(|| root.display().to_string())?;
    absolute(&root)
}

fn find(args: &ShowArgs) -> Result<Folder> {
    match &args.run {
        Some(path) => Folder::at(path),
        None => Folder::all(&root(args.results.as_deref())?)
            .pop()
            .context("there is no run yet"),
    }
}

/// Verdicts from before the run that is shown.
fn earlier(args: &ShowArgs) -> Result<Verdicts> {
    Ok(verdicts_before(&root(args.results.as_deref())?, find(args)?.path()))
}

/// For each test the last verdict before a run: from the runs that are kept, otherwise from the scoreboard's table.
fn verdicts_before(root: &Path, run: &Path) -> Verdicts {
    let mut verdicts: Verdicts = std::fs::read_to_string(latest())
        .unwrap_or_default()
        .lines()
        .filter_map(Verdict::parse)
        .map(|verdict| (verdict.name.clone(), verdict))
        .collect();
    for folder in Folder::all(root) {
        if folder.path().file_name() >= run.file_name() {
            break;
        }
        verdicts.extend(folder.results().verdicts);
    }
    verdicts
}

/// Verdicts of the run that the scoreboard shows, for machines that have no run yet.
fn latest() -> PathBuf {
    repository().join("conformance/official/latest.tsv")
}

async fn run(args: RunArgs) -> Result<bool> {
    let root = root(args.results.as_deref())?;
    let lock = File::create(root.join("lock"))?;
    lock.try_lock()
        .map_err(|_| anyhow::anyhow!("another run is going on in {}", root.display()))?;
    let catalogue = Catalogue::upstream();
    let kubeconfig = args
        .kubeconfig
        .clone()
        .unwrap_or_else(|| state().join("admin.kubeconfig"));
    let kubectl = Kubectl {
        program: kubectl(args.kubectl.as_deref())?,
        kubeconfig: absolute(&kubeconfig)
            .context("no cluster: run hack/up first, or name another with --kubeconfig")?,
        home: root.join("home"),
    };
    let binary = absolute(&args.e2e_test)?;
    let nodes = prepare::nodes(&kubectl).await?;
    let mut about = about(&args, &binary, &kubectl).await?;
    let (folder, resumed) = folder(&root, &mut about, &args)?;
    println!(
        "{} {}",
        if resumed { "going on with" } else { "results go to" },
        folder.path().display()
    );

    process::end_leftovers(&root).await;
    let desk = desk::Desk::open().await?;
    let tests = list::tests(&binary, folder.path(), &desk).await?;
    let tests = about.selection.apply(&tests, &catalogue)?;
    ensure!(!tests.is_empty(), "no test was selected");
    let names: Vec<String> = tests.iter().map(|test| test.name.clone()).collect();
    about.tests = tests.len();
    folder.write_about(&about)?;
    folder.write_names(&names)?;

    prepare::clear(&kubectl).await?;
    prepare::idle_pods(&kubectl, &nodes).await?;
    let missing = prepare::missing_images(&kubectl, &binary).await?;
    if !missing.is_empty() {
        println!("some node lacks these images, or does not name them (they must be pulled if a test needs them):");
        println!("  {}", missing.join("\n  "));
    }

    let results = folder.results();
    let (stopper, stop) = watch::channel(Stop::No);
    tokio::spawn(heed_signals(stopper));
    let run = Arc::new(Run {
        folder: folder.clone(),
        binary: process::Binary {
            path: binary,
            kubeconfig: kubectl.kubeconfig.clone(),
            kubectl: kubectl.program.clone(),
            nodes: nodes.len(),
        },
        desk,
        catalogue: catalogue.clone(),
        bound: Duration::from_secs(args.bound * 60),
        stop: stop.clone(),
        progress: Mutex::new(Progress {
            total: tests.len(),
            done: results.verdicts.len(),
            failed: results
                .verdicts
                .values()
                .filter(|verdict| verdict.outcome != Outcome::Passed)
                .count(),
            running: Vec::new(),
        }),
    });
    let ended = both_parts(&run, &kubectl, &tests, usize::from(args.procs)).await;
    show(&folder, &verdicts_before(&root, folder.path()))?;
    ended?;
    let results = folder.results();
    let left = tests.len() - results.verdicts.len().min(tests.len());
    if left > 0 {
        println!("{left} tests have no verdict yet; the same command goes on");
    }
    Ok(left == 0
        && results
            .verdicts
            .values()
            .all(|verdict| verdict.outcome == Outcome::Passed))
}

/// The parallel part, then the serial one alone, when the namespaces of the first are gone.
async fn both_parts(run: &Arc<Run>, kubectl: &Kubectl, tests: &[Test], procs: usize) -> Result<()> {
    for part in [Part::Parallel, Part::Serial] {
        let left = plan::remaining(tests, &run.folder.results().done(), part, &run.catalogue);
        if left.is_empty() || *run.stop.borrow() != Stop::No {
            continue;
        }
        if part == Part::Serial {
            prepare::clear(kubectl).await?;
        }
        println!(
            "{} tests, {}",
            left.len(),
            if part == Part::Serial {
                "one after the other"
            } else {
                "in parallel"
            }
        );
        run::part(run, part, left, procs).await?;
    }
    Ok(())
}

/// The first signal lets tests clean up, the next one does not.
async fn heed_signals(stop: watch::Sender<Stop>) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    for next in [Stop::Soon, Stop::Now] {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
        println!(
            "stopping{}",
            if next == Stop::Soon {
                " when the running tests have cleaned up; once more: at once"
            } else {
                ""
            }
        );
        stop.send_replace(next);
    }
    std::future::pending().await
}

fn kubectl(given: Option<&Path>) -> Result<PathBuf> {
    let own = state().join("bin/kubectl");
    if let Some(path) = given {
        return absolute(path);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(own)
        .chain(std::env::split_paths(&path).map(|folder| folder.join("kubectl")))
        .find(|file| file.is_file())
        .context("no kubectl in PATH; name one with --kubectl")
        .and_then(|file| absolute(&file))
}

async fn about(args: &RunArgs, binary: &Path, kubectl: &Kubectl) -> Result<About> {
    let meta = binary.metadata()?;
    let changed = meta.modified()?.duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let selection = Selection {
        areas: args.areas.clone(),
        names: args.names.clone(),
        part: args.part,
        only: args.failed.then(Vec::new), // filled in when a run begins
    };
    Ok(About {
        begun: jiff::Timestamp::now().as_second(),
        commit: commit(),
        binary: format!("{} {} {changed}", binary.display(), meta.len()),
        server: kubectl.server().await?,
        procs: usize::from(args.procs),
        selection,
        tests: 0,
    })
}

/// The commit that is checked out, with `+` if files differ from it; `unknown` outside a checkout.
fn commit() -> String {
    let git = |args: &[&str]| {
        let output = std::process::Command::new("git")
            .arg("-C")
            .arg(repository())
            .args(args)
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(head) = git(&["rev-parse", "--short", "HEAD"]) else {
        return "unknown".to_owned();
    };
    let clean = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|status| status.is_empty());
    if clean { head } else { format!("{head}+") }
}

/// The folder to work in: the last run's, or a new one.
fn folder(root: &Path, about: &mut About, args: &RunArgs) -> Result<(Folder, bool)> {
    let last = Folder::all(root).pop();
    let last_about = last.as_ref().map(Folder::about).transpose()?;
    if about.selection.only.is_some() {
        // The list of a run that goes on is the one that it began with.
        let begun = last_about.as_ref().and_then(|last| last.selection.only.clone());
        about.selection.only = begun.filter(|_| !args.new);
    }
    let done = last.as_ref().map_or(0, |last| last.results().verdicts.len());
    let wish = match (args.new, args.resume) {
        (true, _) => Wish::New,
        (_, true) => Wish::Resume,
        _ => Wish::Either,
    };
    if let (Some(folder), Some(last)) = (last, last_about) {
        if to_resume(Some((&last, done)), about, wish)? {
            *about = last;
            return Ok((folder, true));
        }
        if wish == Wish::Either && done < last.tests {
            println!(
                "{} is unfinished, but of another commit, binary or selection: beginning a new run",
                folder.path().display()
            );
        }
    } else if wish == Wish::Resume {
        bail!("there is no run to go on with");
    }
    if args.failed {
        let bad = verdicts_before(root, Path::new("~"))
            .into_values()
            .filter(|verdict| verdict.outcome != Outcome::Passed);
        about.selection.only = Some(bad.map(|verdict| verdict.name).collect());
    }
    Ok((Folder::create(root, about)?, false))
}

/// Prints a run's table and writes its JUnit report.
fn show(folder: &Folder, before: &Verdicts) -> Result<()> {
    let (catalogue, results, names) = (Catalogue::upstream(), folder.results(), folder.names());
    let report = junit::report(names.iter().map(String::as_str), &results.verdicts, &catalogue);
    std::fs::write(folder.path().join("junit.xml"), report)?;
    let rows = table::rows(names.iter().map(String::as_str), &results.verdicts, before, &catalogue);
    println!("\n{}", table::plain(&rows));
    print_changes(&results, before);
    println!(
        "parallel part {}, serial part {}; {}",
        table::duration(results.parallel),
        table::duration(results.serial),
        folder.path().display()
    );
    Ok(())
}

fn print_changes(results: &Results, before: &Verdicts) {
    let (better, worse) = table::changes(&results.verdicts, before);
    for (title, names) in [
        ("passes now, and did not before", better),
        ("passed before, and does not now", worse),
    ] {
        if !names.is_empty() {
            println!("{title}:\n  {}\n", names.join("\n  "));
        }
    }
}

fn list(folder: &Folder) -> Result<()> {
    let (catalogue, results) = (Catalogue::upstream(), folder.results());
    for name in folder.names() {
        let (verdict, reason) = match results.verdicts.get(&name) {
            Some(verdict) => (verdict.outcome.to_string(), verdict.reason.as_str()),
            None => ("not run".to_owned(), ""),
        };
        println!("{}\t{verdict}\t{name}\t{reason}", catalogue.area(&name));
    }
    Ok(())
}

/// Rewrites the scoreboard and the table that goes with it.
fn report(folder: &Folder, before: &Verdicts) -> Result<()> {
    let (about, results, names) = (folder.about()?, folder.results(), folder.names());
    ensure!(
        about.selection.is_whole(),
        "{} is of some tests only; the scoreboard is of the whole suite",
        folder.path().display()
    );
    let file = repository().join("conformance/README.md");
    let old = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let section = readme::scoreboard(&names, &about, &results, before, &Catalogue::upstream());
    std::fs::write(&file, readme::replace(&old, &section)?)?;
    let lines: String = results
        .verdicts
        .into_values()
        .map(|verdict| {
            Verdict {
                log: "-".to_owned(),
                ..verdict
            }
            .line()
        })
        .collect();
    std::fs::write(latest(), lines)?;
    println!("wrote {}", file.display());
    Ok(())
}
