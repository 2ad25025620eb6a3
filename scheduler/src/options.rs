//! The command line of `kube-scheduler`, with upstream's names and defaults.

use std::path::PathBuf;

use clap::Parser;
use steersman_runtime::flags::{LeaderFlags, LoggingFlags, ServingFlags};

/// The Kubernetes scheduler: assigns pods to nodes.
#[derive(Clone, Debug, Parser)]
#[command(name = "kube-scheduler", version, about)]
pub struct Options {
    /// Path to the kubeconfig with the API server's address and this scheduler's credentials.
    #[arg(long, value_name = "FILE", required_unless_present = "config")]
    pub kubeconfig: Option<PathBuf>,
    /// Path to a KubeSchedulerConfiguration with profiles; its kubeconfig and leader election win over the flags.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub serving: ServingFlags,
    #[command(flatten)]
    pub leader: LeaderFlags,
    #[command(flatten)]
    pub logging: LoggingFlags,
}
