//! Scheduler profiles: several schedulers in one program, each with its own name, plugins and weights.
//!
//! The file is upstream's `KubeSchedulerConfiguration` (v1). What it can say here: profiles with `schedulerName`,
//! `percentageOfNodesToScore`, `plugins` at every extension point and `pluginConfig` ([`crate::arguments`]), back-offs,
//! leader election and the kubeconfig. What makes no difference here is checked and then left alone: `parallelism` (one
//! decision is made at a time), the client's rate and encoding, profiling. Anything else is refused by name instead of
//! being ignored.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use steersman_runtime::flags::{LeaderFlags, duration};

use crate::arguments::Arguments;
use crate::plugins::{ALL, Plugin};
use crate::queue::Backoff;

/// Pods that name no scheduler get this one's name from the API server.
pub const DEFAULT: &str = "default-scheduler";
const PREEMPTION: &str = "DefaultPreemption";
/// Upstream's default plugins that this scheduler does itself, or has no use for.
const IMPLIED: &[&str] = &[
    "SchedulingGates",
    "PrioritySort",
    "DefaultBinder",
    "VolumeRestrictions",
    "NodeVolumeLimits",
    "VolumeBinding",
    "VolumeZone",
    "DynamicResources",
    "NodeDeclaredFeatures",
];

/// One scheduler.
#[derive(Clone, Debug)]
pub struct Profile {
    pub name: String,
    pub plugins: Arc<[Plugin]>,
    /// Whether pods may displace others.
    pub preempts: bool,
    /// How many nodes must be found to choose among, in percent of all; 0 for upstream's own measure.
    pub percentage: usize,
    pub arguments: Arguments,
}

/// What the file says.
#[derive(Clone, Debug)]
pub struct Config {
    pub profiles: Vec<Profile>,
    pub backoff: Backoff,
    pub kubeconfig: Option<String>,
    pub election: Election,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            profiles: vec![Profile {
                name: DEFAULT.to_owned(),
                plugins: ALL.into(),
                preempts: true,
                percentage: 0,
                arguments: Arguments::default(),
            }],
            backoff: Backoff::default(),
            kubeconfig: None,
            election: Election::default(),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct File {
    api_version: String,
    kind: String,
    parallelism: Option<i64>,
    client_connection: Option<Connection>,
    leader_election: Election,
    percentage_of_nodes_to_score: Option<i64>,
    pod_initial_backoff_seconds: Option<i64>,
    pod_max_backoff_seconds: Option<i64>,
    #[serde(rename = "delayCacheUntilActive")]
    _delay_cache_until_active: Option<bool>,
    #[serde(rename = "enableProfiling")]
    _enable_profiling: Option<bool>,
    #[serde(rename = "enableContentionProfiling")]
    _enable_contention_profiling: Option<bool>,
    profiles: Vec<FileProfile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Connection {
    kubeconfig: Option<String>,
    #[serde(rename = "acceptContentTypes")]
    _accept_content_types: Option<String>,
    #[serde(rename = "contentType")]
    _content_type: Option<String>,
    #[serde(rename = "qps")]
    _qps: Option<f64>,
    #[serde(rename = "burst")]
    _burst: Option<i64>,
}

/// What the file says about leading; what it does not say, flags decide.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Election {
    pub leader_elect: Option<bool>,
    pub lease_duration: Option<String>,
    pub renew_deadline: Option<String>,
    pub retry_period: Option<String>,
    pub resource_lock: Option<String>,
    pub resource_name: Option<String>,
    pub resource_namespace: Option<String>,
}

impl Election {
    /// Puts what is said in place of what the flags say.
    ///
    /// # Errors
    /// A duration that is none, or another kind of lock than leases.
    pub fn over(&self, flags: &mut LeaderFlags) -> Result<(), String> {
        let durations = [
            (
                "leaseDuration",
                &self.lease_duration,
                &mut flags.leader_elect_lease_duration,
            ),
            (
                "renewDeadline",
                &self.renew_deadline,
                &mut flags.leader_elect_renew_deadline,
            ),
            ("retryPeriod", &self.retry_period, &mut flags.leader_elect_retry_period),
        ];
        for (name, said, flag) in durations {
            if let Some(text) = said {
                *flag = duration(text).map_err(|why| format!("leaderElection.{name}: {why}"))?;
            }
        }
        if let Some(lock) = self.resource_lock.as_ref().filter(|lock| *lock != "leases") {
            return Err(format!(
                "leaderElection.resourceLock: Invalid value: {lock:?}: resourceLock value must be \"leases\""
            ));
        }
        flags.leader_elect = self.leader_elect.unwrap_or(flags.leader_elect);
        flags.leader_elect_resource_name = self.resource_name.clone().or(flags.leader_elect_resource_name.take());
        if let Some(namespace) = &self.resource_namespace {
            flags.leader_elect_resource_namespace.clone_from(namespace);
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileProfile {
    scheduler_name: Option<String>,
    percentage_of_nodes_to_score: Option<i64>,
    #[serde(default)]
    plugins: FilePlugins,
    #[serde(default)]
    plugin_config: Vec<PluginConfig>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct FilePlugins {
    multi_point: Set,
    pre_enqueue: Set,
    queue_sort: Set,
    pre_filter: Set,
    filter: Set,
    post_filter: Set,
    pre_score: Set,
    score: Set,
    reserve: Set,
    permit: Set,
    pre_bind: Set,
    bind: Set,
    post_bind: Set,
}

impl FilePlugins {
    fn sets(&self) -> [&Set; 13] {
        [
            &self.multi_point,
            &self.pre_enqueue,
            &self.queue_sort,
            &self.pre_filter,
            &self.filter,
            &self.post_filter,
            &self.pre_score,
            &self.score,
            &self.reserve,
            &self.permit,
            &self.pre_bind,
            &self.bind,
            &self.post_bind,
        ]
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Set {
    enabled: Vec<Named>,
    disabled: Vec<Named>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
    weight: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginConfig {
    name: String,
    #[serde(default)]
    args: Value,
}

impl Set {
    fn off(&self, name: &str) -> bool {
        self.disabled.iter().any(|d| d.name == name || d.name == "*") && !self.on(name)
    }

    fn on(&self, name: &str) -> bool {
        self.enabled.iter().any(|e| e.name == name)
    }

    fn weight(&self, name: &str) -> Option<i64> {
        let named = self.enabled.iter().find(|e| e.name == name)?;
        named.weight.filter(|w| *w > 0)
    }

    fn unknown(&self) -> Option<&str> {
        let known = |name: &str| {
            name == "*" || name == PREEMPTION || IMPLIED.contains(&name) || ALL.iter().any(|p| p.name == name)
        };
        let all = self.enabled.iter().chain(&self.disabled);
        all.map(|n| n.name.as_str()).find(|name| !known(name))
    }
}

impl Config {
    /// # Errors
    /// What is wrong with the text, in one line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let first = |text: String| text.lines().next().unwrap_or_default().to_owned();
        let file: File = serde_saphyr::from_str(text).map_err(|e| first(e.to_string()))?;
        if file.kind != "KubeSchedulerConfiguration" || file.api_version != "kubescheduler.config.k8s.io/v1" {
            return Err(format!(
                "no kind {:?} is registered for version {:?}",
                file.kind, file.api_version
            ));
        }
        let mut config = Self {
            backoff: file.backoff()?,
            kubeconfig: file
                .client_connection
                .and_then(|c| c.kubeconfig)
                .filter(|k| !k.is_empty()),
            election: file.leader_election,
            ..Self::default()
        };
        if file.parallelism.is_some_and(|n| n <= 0) {
            let n = file.parallelism.unwrap_or_default();
            return Err(format!(
                "parallelism: Invalid value: {n}: should be an integer value greater than zero"
            ));
        }
        let percentage = percentage("percentageOfNodesToScore", file.percentage_of_nodes_to_score)?;
        if !file.profiles.is_empty() {
            config.profiles = file.profiles.iter().map(profile).collect::<Result<_, _>>()?;
        }
        for (i, (profile, said)) in config.profiles.iter_mut().zip(&file.profiles).enumerate() {
            let path = format!("profiles[{i}].percentageOfNodesToScore");
            profile.percentage = self::percentage(&path, said.percentage_of_nodes_to_score)?.unwrap_or_default();
        }
        for profile in config.profiles.iter_mut().filter(|p| p.percentage == 0) {
            profile.percentage = percentage.unwrap_or_default();
        }
        for (i, one) in config.profiles.iter().enumerate() {
            if config.profiles[..i].iter().any(|other| other.name == one.name) {
                return Err(format!("profiles[{i}].schedulerName: Duplicate value: {:?}", one.name));
            }
        }
        Ok(config)
    }
}

impl File {
    fn backoff(&self) -> Result<Backoff, String> {
        let default = Backoff::default();
        let seconds = |said: Option<i64>, default: Duration| {
            said.map_or(Some(default), |n| u64::try_from(n).ok().map(Duration::from_secs))
        };
        let said = self.pod_initial_backoff_seconds;
        let first = seconds(said, default.first).filter(|d| !d.is_zero());
        let first = first.ok_or_else(|| {
            let n = said.unwrap_or_default();
            format!("podInitialBackoffSeconds: Invalid value: {n}: must be greater than 0")
        })?;
        let said = self.pod_max_backoff_seconds;
        let longest = seconds(said, default.longest).filter(|d| *d >= first);
        let longest = longest.ok_or_else(|| {
            let n = said.unwrap_or(10);
            format!(
                "podMaxBackoffSeconds: Invalid value: {n}: must be greater than or equal to PodInitialBackoffSeconds"
            )
        })?;
        Ok(Backoff { first, longest })
    }
}

fn percentage(path: &str, said: Option<i64>) -> Result<Option<usize>, String> {
    let Some(said) = said else { return Ok(None) };
    let known = usize::try_from(said).ok().filter(|n| *n <= 100);
    known
        .map(Some)
        .ok_or_else(|| format!("{path}: Invalid value: {said}: not in valid range [0-100]"))
}

fn profile(file: &FileProfile) -> Result<Profile, String> {
    let name = file.scheduler_name.clone().unwrap_or_else(|| DEFAULT.to_owned());
    let sets = &file.plugins;
    for set in sets.sets() {
        if let Some(unknown) = set.unknown() {
            return Err(format!(
                "initializing profiles: profile {name:?}: plugin {unknown:?} does not exist"
            ));
        }
    }
    let mut plugins: Vec<Plugin> = Vec::new();
    for plugin in ALL {
        let mut plugin = *plugin;
        let off = |set: &Set| set.off(plugin.name) || (sets.multi_point.off(plugin.name) && !set.on(plugin.name));
        if off(&sets.filter) {
            plugin.filter = None;
        }
        if off(&sets.score) {
            plugin.score = None;
        }
        let weight = sets.score.weight(plugin.name).or(sets.multi_point.weight(plugin.name));
        if let (Some(score), Some(weight)) = (&mut plugin.score, weight) {
            score.weight = weight;
        }
        plugins.push(plugin);
    }
    let mut arguments = Arguments::default();
    for config in &file.plugin_config {
        arguments
            .take(&config.name, &config.args)
            .map_err(|why| format!("initializing profiles: profile {name:?}: {why}"))?;
    }
    let preempts =
        !sets.post_filter.off(PREEMPTION) && (!sets.multi_point.off(PREEMPTION) || sets.post_filter.on(PREEMPTION));
    Ok(Profile {
        name,
        plugins: plugins.into(),
        preempts,
        percentage: 0,
        arguments,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(profiles: &str) -> Result<Config, String> {
        Config::parse(&format!(
            "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles:\n{profiles}"
        ))
    }

    fn weights(profile: &Profile) -> Vec<(&'static str, i64)> {
        let scored = profile
            .plugins
            .iter()
            .filter_map(|p| Some((p.name, p.score.as_ref()?.weight)));
        scored.collect()
    }

    #[test]
    fn a_profile_takes_the_default_plugins_and_changes_some() {
        let config = parse(
            "- schedulerName: a\n- schedulerName: b\n  plugins:\n    score:\n      disabled: [{name: '*'}]\n      enabled: [{name: ImageLocality, weight: 5}]\n    postFilter: {disabled: [{name: DefaultPreemption}]}\n",
        )
        .unwrap();
        assert_eq!(weights(&config.profiles[0]), weights(&Config::default().profiles[0]));
        assert_eq!(weights(&config.profiles[1]), [("ImageLocality", 5)]);
        assert!(config.profiles[0].preempts && !config.profiles[1].preempts);
    }

    #[test]
    fn a_file_says_how_patient_the_scheduler_is_and_who_leads() {
        let head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
        let config = Config::parse(&format!(
            "{head}parallelism: 4\npercentageOfNodesToScore: 30\npodInitialBackoffSeconds: 2\npodMaxBackoffSeconds: 20\n\
             leaderElection: {{leaderElect: false, leaseDuration: 20s, resourceName: mine}}\n\
             clientConnection: {{kubeconfig: /k, qps: 10, burst: 20, contentType: application/json}}\n\
             profiles: [{{schedulerName: a}}, {{schedulerName: b, percentageOfNodesToScore: 7}}]\n"
        ))
        .unwrap();
        assert_eq!(
            config.profiles.iter().map(|p| p.percentage).collect::<Vec<_>>(),
            [30, 7]
        );
        assert_eq!(
            (config.backoff.first.as_secs(), config.backoff.longest.as_secs()),
            (2, 20)
        );
        assert_eq!(config.kubeconfig.as_deref(), Some("/k"));
        let mut flags = <Flags as clap::Parser>::parse_from(["x"]).leader;
        config.election.over(&mut flags).unwrap();
        assert_eq!(
            (flags.leader_elect, flags.leader_elect_lease_duration.as_secs()),
            (false, 20)
        );
        assert_eq!(flags.leader_elect_resource_name.as_deref(), Some("mine"));
        for (line, why) in [
            ("parallelism: 0", "parallelism: Invalid value: 0"),
            (
                "podInitialBackoffSeconds: 0",
                "podInitialBackoffSeconds: Invalid value: 0: must be greater than 0",
            ),
            ("podMaxBackoffSeconds: 0", "podMaxBackoffSeconds: Invalid value: 0"),
            ("extenders: [{urlPrefix: x}]", "extenders"),
        ] {
            let error = Config::parse(&format!("{head}{line}\n")).err().unwrap_or_default();
            assert!(error.contains(why), "{error}");
        }
    }

    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        leader: LeaderFlags,
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        for (profiles, why) in [
            ("- plugins: {score: {enabled: [{name: Nope}]}}\n", "Nope"),
            ("- schedulerName: a\n- schedulerName: a\n", "Duplicate value: \"a\""),
            (
                "- pluginConfig: [{name: NodeAffinity, args: {nope: 1}}]\n",
                "NodeAffinity",
            ),
            ("- pluginConfig: [{name: Other, args: {}}]\n", "Other"),
            (
                "- percentageOfNodesToScore: 101\n",
                "profiles[0].percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]",
            ),
            ("- plugins: {bind: {enabled: [{name: MyBinder}]}}\n", "MyBinder"),
            ("- extenders: []\n", "extenders"),
        ] {
            let error = parse(profiles).err().unwrap_or_default();
            assert!(error.contains(why), "{error}");
        }
    }
}
