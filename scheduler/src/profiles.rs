//! Scheduler profiles: several schedulers in one program, each with its own name, plugins and weights.
//!
//! The file is upstream's `KubeSchedulerConfiguration` (v1). What it can say here: profiles with `schedulerName` and
//! `plugins` (`multiPoint`, `filter`, `score`, `postFilter`), the scoring strategy of NodeResourcesFit, the kubeconfig and
//! whether a leader is elected. Anything else is refused by name instead of being ignored.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::plugins::{self, ALL, Plugin};

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
}

/// What the file says.
#[derive(Clone, Debug)]
pub struct Config {
    pub profiles: Vec<Profile>,
    pub kubeconfig: Option<String>,
    pub leader_elect: Option<bool>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            profiles: vec![Profile {
                name: DEFAULT.to_owned(),
                plugins: ALL.into(),
                preempts: true,
            }],
            kubeconfig: None,
            leader_elect: None,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct File {
    api_version: String,
    kind: String,
    client_connection: Option<Connection>,
    leader_election: Option<Election>,
    profiles: Vec<FileProfile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Connection {
    kubeconfig: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Election {
    leader_elect: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileProfile {
    scheduler_name: Option<String>,
    #[serde(default)]
    plugins: FilePlugins,
    #[serde(default)]
    plugin_config: Vec<PluginConfig>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct FilePlugins {
    multi_point: Set,
    filter: Set,
    score: Set,
    post_filter: Set,
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
            kubeconfig: file.client_connection.and_then(|c| c.kubeconfig),
            leader_elect: file.leader_election.and_then(|e| e.leader_elect),
            ..Self::default()
        };
        if !file.profiles.is_empty() {
            config.profiles = file.profiles.iter().map(profile).collect::<Result<_, _>>()?;
        }
        for (i, one) in config.profiles.iter().enumerate() {
            if config.profiles[..i].iter().any(|other| other.name == one.name) {
                return Err(format!("profiles[{i}].schedulerName: Duplicate value: {:?}", one.name));
            }
        }
        Ok(config)
    }
}

fn profile(file: &FileProfile) -> Result<Profile, String> {
    let name = file.scheduler_name.clone().unwrap_or_else(|| DEFAULT.to_owned());
    let sets = &file.plugins;
    for set in [&sets.multi_point, &sets.filter, &sets.score, &sets.post_filter] {
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
    for config in &file.plugin_config {
        apply(config, &mut plugins).map_err(|why| format!("initializing profiles: profile {name:?}: {why}"))?;
    }
    let preempts =
        !sets.post_filter.off(PREEMPTION) && (!sets.multi_point.off(PREEMPTION) || sets.post_filter.on(PREEMPTION));
    Ok(Profile {
        name,
        plugins: plugins.into(),
        preempts,
    })
}

fn apply(config: &PluginConfig, plugins: &mut [Plugin]) -> Result<(), String> {
    let kind = config.args.pointer("/scoringStrategy/type").and_then(Value::as_str);
    let plugin = plugins.iter_mut().find(|p| p.name == config.name);
    match (config.name.as_str(), plugin, kind) {
        ("NodeResourcesFit", Some(_), Some("LeastAllocated")) => Ok(()),
        ("NodeResourcesFit", Some(plugin), Some("MostAllocated")) => {
            if let Some(score) = &mut plugin.score {
                score.of = plugins::MOST_ALLOCATED;
            }
            Ok(())
        }
        (name, ..) => Err(format!("arguments of plugin {name:?} are not supported")),
    }
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
    fn what_is_not_understood_is_refused_by_name() {
        for (profiles, why) in [
            ("- plugins: {score: {enabled: [{name: Nope}]}}\n", "Nope"),
            ("- schedulerName: a\n- schedulerName: a\n", "Duplicate value: \"a\""),
            ("- pluginConfig: [{name: NodeAffinity, args: {}}]\n", "NodeAffinity"),
            ("- percentageOfNodesToScore: 5\n", "percentageOfNodesToScore"),
        ] {
            let error = parse(profiles).err().unwrap_or_default();
            assert!(error.contains(why), "{error}");
        }
    }
}
