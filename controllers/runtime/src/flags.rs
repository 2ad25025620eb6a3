//! Command lines as upstream's programs take them.
//!
//! Callers: every `main`. [`parse`] reads a clap parser with pflag's habits (`--a_b` is `--a-b`, a bare boolean flag is
//! true) and ends the process with one clear line and exit code 1 when something is wrong. [`ServingFlags`],
//! [`LoggingFlags`] and [`LeaderFlags`] are the groups that several programs share.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser};

/// Parses this process's command line; help and version print and exit 0, mistakes print one line and exit 1.
#[must_use]
pub fn parse<P: Parser>() -> P {
    match parse_from::<P>(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(Stop::Help(text)) => {
            print!("{text}");
            std::process::exit(0)
        }
        Err(Stop::Mistake(line)) => fail(&line),
    }
}

/// Ends the process with `Error: <line>` and exit code 1.
pub fn fail(line: &str) -> ! {
    eprintln!("Error: {line}");
    std::process::exit(1)
}

/// Why parsing did not give a result.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// Help or version was asked for.
    Help(String),
    /// One line.
    Mistake(String),
}

/// [`parse`] without the process.
///
/// # Errors
/// Help, or the mistake as one line.
pub fn parse_from<P: Parser>(args: impl IntoIterator<Item = OsString>) -> Result<P, Stop> {
    P::try_parse_from(args.into_iter().map(normal)).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp => Stop::Help(error.to_string()),
        // Upstream's programs say `Kubernetes v1.36.2`.
        ErrorKind::DisplayVersion => {
            let text = error.to_string();
            let version = text.split_whitespace().last().unwrap_or_default();
            Stop::Help(format!("Kubernetes {version}\n"))
        }
        _ => Stop::Mistake(line(&error)),
    })
}

/// pflag treats `_` in a flag's name like `-`.
fn normal(arg: OsString) -> OsString {
    let Some(text) = arg.to_str() else { return arg };
    let Some(flag) = text.strip_prefix("--") else {
        return arg;
    };
    let (name, value) = flag.split_once('=').map_or((flag, None), |(n, v)| (n, Some(v)));
    let name = name.replace('_', "-");
    match value {
        None => format!("--{name}").into(),
        Some(value) => format!("--{name}={value}").into(),
    }
}

fn line(error: &clap::Error) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    };
    let flag = text(ContextKind::InvalidArg);
    let name = flag.split([' ', '=']).next().unwrap_or_default();
    match error.kind() {
        ErrorKind::UnknownArgument if flag.starts_with('-') => format!("unknown flag: {name}"),
        ErrorKind::UnknownArgument => format!("unknown argument {flag:?}"),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation if text(ContextKind::InvalidValue).is_empty() => {
            format!("flag needs an argument: {name}")
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let cause = std::error::Error::source(error)
                .map(ToString::to_string)
                .unwrap_or_default();
            let allowed = text(ContextKind::ValidValue);
            let why = if !cause.is_empty() {
                cause
            } else if !allowed.is_empty() {
                format!("must be one of {allowed}")
            } else {
                "not understood".to_owned()
            };
            format!(
                "invalid argument {:?} for {name:?} flag: {why}",
                text(ContextKind::InvalidValue)
            )
        }
        ErrorKind::MissingRequiredArgument => format!("required flag(s) not set: {name}"),
        _ => {
            let all = error.to_string();
            let first = all.lines().next().unwrap_or_default();
            first.strip_prefix("error: ").unwrap_or(first).to_owned()
        }
    }
}

/// Go's notation: `1h2m3.5s`, `300ms`, `0`. For `value_parser`.
///
/// # Errors
/// When it is not a duration; Go's text.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("time: invalid duration {text:?}");
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(|| format!("time: missing unit in duration {text:?}"))?;
        let number: f64 = rest.get(..digits).and_then(|n| n.parse().ok()).ok_or_else(bad)?;
        let tail = rest.get(digits..).unwrap_or_default();
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, after) = tail.split_at(end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
        };
        total += Duration::try_from_secs_f64(number * seconds).map_err(|_| bad())?;
        rest = after;
    }
    Ok(total)
}

/// Log output.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct LoggingFlags {
    /// Number for the log level verbosity.
    #[arg(long, short = 'v', default_value_t = 0, value_name = "LEVEL")]
    pub v: u8,
}

/// The HTTPS port of a component, and how its callers are checked.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct ServingFlags {
    /// The IP address on which to listen for the --secure-port port.
    #[arg(long, default_value = "0.0.0.0", value_name = "IP")]
    pub bind_address: IpAddr,
    /// The port on which to serve HTTPS; 0 switches it off. Each program has its own default.
    #[arg(long, value_name = "PORT")]
    pub secure_port: Option<u16>,
    /// Directory for the generated certificate when no certificate file is given. Empty: the certificate stays in memory.
    #[arg(long, default_value = "", value_name = "DIR")]
    pub cert_dir: String,
    /// File with the serving certificate (PEM, with its chain).
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// File with the key of --tls-cert-file.
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
    /// kubeconfig with enough rights to create tokenreviews. Without it callers with a bearer token are refused.
    #[arg(long, value_name = "FILE")]
    pub authentication_kubeconfig: Option<PathBuf>,
    /// kubeconfig with enough rights to create subjectaccessreviews.
    #[arg(long, value_name = "FILE")]
    pub authorization_kubeconfig: Option<PathBuf>,
    /// Do not read kube-system/extension-apiserver-authentication for the client CA.
    #[arg(long, default_value_t = false, default_missing_value = "true", num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    pub authentication_skip_lookup: bool,
    /// Paths that need neither authentication nor authorization.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "/healthz,/readyz,/livez",
        value_name = "PATHS"
    )]
    pub authorization_always_allow_paths: Vec<String>,
    /// CA file; a client certificate signed by it authenticates its common name.
    #[arg(long, value_name = "FILE")]
    pub client_ca_file: Option<PathBuf>,
    /// CA file for front proxies whose headers name the user.
    #[arg(long, value_name = "FILE")]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Common names of front proxies; empty: any that --requestheader-client-ca-file signed.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub requestheader_allowed_names: Vec<String>,
    /// Headers with the user's name.
    #[arg(long, value_delimiter = ',', default_value = "x-remote-user", value_name = "HEADERS")]
    pub requestheader_username_headers: Vec<String>,
    /// Headers with the user's groups.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "x-remote-group",
        value_name = "HEADERS"
    )]
    pub requestheader_group_headers: Vec<String>,
    /// Prefixes of headers with extra facts about the user; they are passed to the authorizer.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "x-remote-extra-",
        value_name = "PREFIXES"
    )]
    pub requestheader_extra_headers_prefix: Vec<String>,
}

/// Leader election.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct LeaderFlags {
    /// Start a leader election client and gain leadership before the main loop.
    #[arg(long, default_value_t = true, default_missing_value = "true", num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    pub leader_elect: bool,
    /// How long other candidates wait after the last renewal that they saw.
    #[arg(long, default_value = "15s", value_parser = duration, value_name = "DURATION")]
    pub leader_elect_lease_duration: Duration,
    /// How long the leader tries to renew before it gives up.
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "DURATION")]
    pub leader_elect_renew_deadline: Duration,
    /// The pause between two attempts.
    #[arg(long, default_value = "2s", value_parser = duration, value_name = "DURATION")]
    pub leader_elect_retry_period: Duration,
    /// The kind of object that is the lock.
    #[arg(long, default_value = "leases", value_parser = ["leases"], value_name = "KIND")]
    pub leader_elect_resource_lock: String,
    /// The lock's name; each program has its own default.
    #[arg(long, value_name = "NAME")]
    pub leader_elect_resource_name: Option<String>,
    /// The lock's namespace.
    #[arg(long, default_value = "kube-system", value_name = "NAMESPACE")]
    pub leader_elect_resource_namespace: String,
}

impl LeaderFlags {
    /// # Errors
    /// When the periods contradict each other.
    pub fn config(&self, default_name: &str, identity: String) -> Result<crate::leader::Config, String> {
        let name = self.leader_elect_resource_name.as_deref().unwrap_or(default_name);
        let mut config = crate::leader::Config::new(&self.leader_elect_resource_namespace, name, identity);
        config.lease_duration = self.leader_elect_lease_duration;
        config.renew_deadline = self.leader_elect_renew_deadline;
        config.retry_period = self.leader_elect_retry_period;
        config.validate().map(|()| config)
    }
}

/// This machine's name as upstream's programs use it: lower case, trimmed.
#[must_use]
pub fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Parser, Debug, PartialEq)]
    struct Example {
        #[command(flatten)]
        leader: LeaderFlags,
        #[command(flatten)]
        logging: LoggingFlags,
        #[arg(long)]
        number: Option<u16>,
    }

    fn run(args: &[&str]) -> Result<Example, Stop> {
        parse_from(std::iter::once("prog").chain(args.iter().copied()).map(OsString::from))
    }

    #[test]
    fn an_unknown_flag_is_one_line_that_names_it() {
        assert_eq!(run(&["--nope=1"]), Err(Stop::Mistake("unknown flag: --nope".into())));
    }

    #[test]
    fn a_bad_value_is_one_line_with_flag_and_reason() {
        let Err(Stop::Mistake(line)) = run(&["--number=x"]) else {
            panic!("accepted")
        };
        assert_eq!(
            line,
            "invalid argument \"x\" for \"--number\" flag: invalid digit found in string"
        );
        let Err(Stop::Mistake(line)) = run(&["--number"]) else {
            panic!("accepted")
        };
        assert_eq!(line, "flag needs an argument: --number");
    }

    #[test]
    fn underscores_and_bare_booleans_are_understood() {
        let parsed = run(&["--leader_elect", "--leader-elect-renew-deadline=1m1.5s"]);
        let leader = parsed.map(|e| e.leader);
        assert!(leader.as_ref().is_ok_and(|l| l.leader_elect));
        assert!(leader.is_ok_and(|l| l.leader_elect_renew_deadline == Duration::from_millis(61_500)));
        assert!(run(&["--leader-elect=false"]).is_ok_and(|e| !e.leader.leader_elect));
    }

    #[test]
    fn durations_are_go_s() {
        assert_eq!(duration("1h2m3s"), Ok(Duration::from_secs(3723)));
        assert_eq!(duration("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(duration("5"), Err("time: missing unit in duration \"5\"".into()));
        assert_eq!(
            duration("5x"),
            Err("time: unknown unit \"x\" in duration \"5x\"".into())
        );
    }
}
