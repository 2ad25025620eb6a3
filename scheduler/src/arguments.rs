//! What a profile tells its plugins (`pluginConfig`): upstream's argument kinds, fields and defaults.
//!
//! Parsed with the configuration file; decisions read it through [`crate::cycle::Cycle`]. A field that is not understood is
//! refused by name.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;
use steersman_types::api::core::v1::{NodeAffinity, TopologySpreadConstraint};

/// A resource and how much it counts.
pub type Weighed = Vec<(String, i64)>;

/// How NodeResourcesFit prefers nodes by the share of a resource that is in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    #[default]
    LeastAllocated,
    MostAllocated,
    /// Percent in use and the score there, 0 to 100; straight lines in between.
    Shape(Vec<(i64, i64)>),
}

/// What pods are spread by that say nothing themselves.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Defaults {
    /// Skew 5 over zones, 3 over nodes.
    #[default]
    System,
    List(Vec<TopologySpreadConstraint>),
}

/// All plugins' arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct Arguments {
    /// What a requirement of a pod that is there weighs as a wish to be near.
    pub hard_pod_affinity_weight: i64,
    /// Whether wishes of pods that are there count only for pods that have wishes themselves.
    pub ignore_preferred_terms_of_existing_pods: bool,
    /// How many nodes are tried for preemption: at least a share in percent, and a number.
    pub preemption_candidates: (usize, usize),
    /// Holds for every pod besides its own.
    pub added_affinity: Option<NodeAffinity>,
    pub spreading: Defaults,
    pub strategy: Strategy,
    pub fit: Weighed,
    pub balanced: Weighed,
    /// Extended resources, and groups of them, that do not keep pods off nodes.
    pub ignored_resources: BTreeSet<String>,
    pub ignored_groups: BTreeSet<String>,
}

fn cpu_and_memory() -> Weighed {
    vec![("cpu".to_owned(), 1), ("memory".to_owned(), 1)]
}

impl Default for Arguments {
    fn default() -> Self {
        Self {
            hard_pod_affinity_weight: 1,
            ignore_preferred_terms_of_existing_pods: false,
            preemption_candidates: (10, 100),
            added_affinity: None,
            spreading: Defaults::default(),
            strategy: Strategy::default(),
            fit: cpu_and_memory(),
            balanced: cpu_and_memory(),
            ignored_resources: BTreeSet::new(),
            ignored_groups: BTreeSet::new(),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PreemptionArgs {
    min_candidate_nodes_percentage: Option<i64>,
    min_candidate_nodes_absolute: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AffinityArgs {
    hard_pod_affinity_weight: Option<i64>,
    #[serde(default)]
    ignore_preferred_terms_of_existing_pods: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NodeAffinityArgs {
    added_affinity: Option<NodeAffinity>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SpreadArgs {
    #[serde(default)]
    default_constraints: Vec<TopologySpreadConstraint>,
    defaulting_type: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FitArgs {
    #[serde(default)]
    ignored_resources: BTreeSet<String>,
    #[serde(default)]
    ignored_resource_groups: BTreeSet<String>,
    scoring_strategy: Option<ScoringStrategy>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ScoringStrategy {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    resources: Vec<Resource>,
    requested_to_capacity_ratio: Option<Ratio>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ratio {
    #[serde(default)]
    shape: Vec<Point>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    utilization: i64,
    score: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BalancedArgs {
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resource {
    name: String,
    #[serde(default)]
    weight: i64,
}

fn weighed(resources: Vec<Resource>) -> Result<Weighed, String> {
    if resources.is_empty() {
        return Ok(cpu_and_memory());
    }
    let one = |(i, r): (usize, Resource)| match r.weight {
        0 => Ok((r.name, 1)),
        weight @ 1..=100 => Ok((r.name, weight)),
        weight => Err(format!(
            "resources[{i}].weight: Invalid value: {weight}: resource weight of {} not in valid range [1, 100]",
            r.name
        )),
    };
    resources.into_iter().enumerate().map(one).collect()
}

impl Arguments {
    /// Takes what the file says to one plugin. `apiVersion` and `kind` may be given.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn take(&mut self, plugin: &str, args: &Value) -> Result<(), String> {
        let mut args = args.clone();
        if let Some(fields) = args.as_object_mut() {
            fields.remove("apiVersion");
            if let Some(kind) = fields.remove("kind")
                && kind != Value::String(format!("{plugin}Args"))
            {
                return Err(format!("arguments of plugin {plugin:?} are of kind {kind}"));
            }
        } else {
            args = Value::Object(serde_json::Map::new());
        }
        let at = |why: String| format!("arguments of plugin {plugin:?}: {why}");
        self.apply(plugin, args).map_err(at)
    }

    fn apply(&mut self, plugin: &str, args: Value) -> Result<(), String> {
        match plugin {
            "DefaultPreemption" => self.preemption(&decode(args)?),
            "InterPodAffinity" => {
                let args: AffinityArgs = decode(args)?;
                let weight = args.hard_pod_affinity_weight.unwrap_or(1);
                self.hard_pod_affinity_weight = within("hardPodAffinityWeight", weight, 100)?;
                self.ignore_preferred_terms_of_existing_pods = args.ignore_preferred_terms_of_existing_pods;
                Ok(())
            }
            "NodeAffinity" => {
                let args: NodeAffinityArgs = decode(args)?;
                self.added_affinity = args.added_affinity;
                Ok(())
            }
            "PodTopologySpread" => self.spread(decode(args)?),
            "NodeResourcesFit" => self.fit(decode(args)?),
            "NodeResourcesBalancedAllocation" => {
                let args: BalancedArgs = decode(args)?;
                self.balanced = weighed(args.resources)?;
                Ok(())
            }
            _ => Err("are not supported".to_owned()),
        }
    }

    fn preemption(&mut self, args: &PreemptionArgs) -> Result<(), String> {
        let share = within(
            "minCandidateNodesPercentage",
            args.min_candidate_nodes_percentage.unwrap_or(10),
            100,
        )?;
        let least = within(
            "minCandidateNodesAbsolute",
            args.min_candidate_nodes_absolute.unwrap_or(100),
            i64::MAX,
        )?;
        if share == 0 && least == 0 {
            return Err("minCandidateNodesPercentage and minCandidateNodesAbsolute cannot both be zero".to_owned());
        }
        let count = |n: i64| usize::try_from(n).unwrap_or(usize::MAX);
        self.preemption_candidates = (count(share), count(least));
        Ok(())
    }

    fn spread(&mut self, args: SpreadArgs) -> Result<(), String> {
        self.spreading = match args.defaulting_type.as_deref().unwrap_or("System") {
            "System" if args.default_constraints.is_empty() => Defaults::System,
            "System" => {
                return Err("defaultingType: Invalid value: \"System\": when .defaultConstraints are not empty".into());
            }
            "List" => Defaults::List(args.default_constraints),
            other => {
                return Err(format!(
                    "defaultingType: Unsupported value: {other:?}: supported values: \"System\", \"List\""
                ));
            }
        };
        let Defaults::List(constraints) = &self.spreading else {
            return Ok(());
        };
        for (i, constraint) in constraints.iter().enumerate() {
            let path = format!("defaultConstraints[{i}]");
            if constraint.max_skew <= 0 {
                return Err(format!(
                    "{path}.maxSkew: Invalid value: {}: not in valid range (0, inf)",
                    constraint.max_skew
                ));
            }
            if constraint.topology_key.is_empty() {
                return Err(format!("{path}.topologyKey: Required value: can not be empty"));
            }
            if !["DoNotSchedule", "ScheduleAnyway"].contains(&constraint.when_unsatisfiable.as_str()) {
                let said = &constraint.when_unsatisfiable;
                return Err(format!(
                    "{path}.whenUnsatisfiable: Unsupported value: {said:?}: supported values: \"DoNotSchedule\", \"ScheduleAnyway\""
                ));
            }
            if constraint.label_selector.is_some() {
                return Err(format!(
                    "{path}.labelSelector: Forbidden: constraint must not define a selector, as they deduced for each pod"
                ));
            }
        }
        Ok(())
    }

    fn fit(&mut self, args: FitArgs) -> Result<(), String> {
        self.ignored_resources = args.ignored_resources;
        self.ignored_groups = args.ignored_resource_groups;
        let Some(strategy) = args.scoring_strategy else {
            return Ok(());
        };
        self.fit = weighed(strategy.resources).map_err(|why| format!("scoringStrategy.{why}"))?;
        self.strategy = match strategy.kind.as_deref().unwrap_or("LeastAllocated") {
            "LeastAllocated" => Strategy::LeastAllocated,
            "MostAllocated" => Strategy::MostAllocated,
            "RequestedToCapacityRatio" => Strategy::Shape(shape(
                strategy
                    .requested_to_capacity_ratio
                    .map(|r| r.shape)
                    .unwrap_or_default(),
            )?),
            other => return Err(format!("scoringStrategy.type: Unsupported value: {other:?}")),
        };
        Ok(())
    }
}

fn shape(points: Vec<Point>) -> Result<Vec<(i64, i64)>, String> {
    let path = "scoringStrategy.requestedToCapacityRatio.shape";
    if points.is_empty() {
        return Err(format!("{path}: Required value: at least one point must be specified"));
    }
    let mut known: Vec<(i64, i64)> = Vec::new();
    for (i, point) in points.iter().enumerate() {
        within(&format!("{path}[{i}].utilization"), point.utilization, 100)?;
        within(&format!("{path}[{i}].score"), point.score, 10)?;
        if known.last().is_some_and(|(before, _)| *before >= point.utilization) {
            let said = point.utilization;
            return Err(format!(
                "{path}[{i}].utilization: Invalid value: {said}: utilization values must be sorted in increasing order"
            ));
        }
        // The file's scores end at 10.
        known.push((point.utilization, point.score * 10));
    }
    Ok(known)
}

fn within(path: &str, value: i64, most: i64) -> Result<i64, String> {
    if (0..=most).contains(&value) {
        return Ok(value);
    }
    let range = if most == i64::MAX {
        "[0, inf)".to_owned()
    } else {
        format!("[0, {most}]")
    };
    Err(format!("{path}: Invalid value: {value}: not in valid range {range}"))
}

fn decode<T: serde::de::DeserializeOwned>(args: Value) -> Result<T, String> {
    serde_json::from_value(args).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn taken(plugin: &str, args: Value) -> Result<Arguments, String> {
        let mut arguments = Arguments::default();
        arguments.take(plugin, &args).map(|()| arguments)
    }

    #[test]
    fn empty_arguments_are_the_defaults() {
        for plugin in [
            "DefaultPreemption",
            "InterPodAffinity",
            "NodeAffinity",
            "PodTopologySpread",
            "NodeResourcesFit",
            "NodeResourcesBalancedAllocation",
        ] {
            let args = json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": format!("{plugin}Args")});
            assert_eq!(taken(plugin, args), Ok(Arguments::default()), "{plugin}");
        }
    }

    #[test]
    fn a_shape_is_given_in_tenths_and_resources_with_weights() {
        let args = json!({"ignoredResources": ["example.com/a"], "scoringStrategy": {"type": "RequestedToCapacityRatio",
            "resources": [{"name": "example.com/gpu", "weight": 5}, {"name": "cpu"}],
            "requestedToCapacityRatio": {"shape": [{"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}]}}});
        let arguments = taken("NodeResourcesFit", args).unwrap();
        assert_eq!(arguments.strategy, Strategy::Shape(vec![(0, 0), (100, 100)]));
        assert_eq!(
            arguments.fit,
            [("example.com/gpu".to_owned(), 5), ("cpu".to_owned(), 1)]
        );
        assert!(arguments.ignored_resources.contains("example.com/a"));
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_path() {
        for (plugin, args, why) in [
            (
                "InterPodAffinity",
                json!({"hardPodAffinityWeight": 101}),
                "hardPodAffinityWeight: Invalid value: 101: not in valid range [0, 100]",
            ),
            (
                "DefaultPreemption",
                json!({"minCandidateNodesAbsolute": -1}),
                "minCandidateNodesAbsolute: Invalid value: -1",
            ),
            (
                "DefaultPreemption",
                json!({"minCandidateNodesAbsolute": 0, "minCandidateNodesPercentage": 0}),
                "cannot both be zero",
            ),
            (
                "PodTopologySpread",
                json!({"defaultConstraints": [{"maxSkew": 1, "topologyKey": "k", "whenUnsatisfiable": "DoNotSchedule"}]}),
                "when .defaultConstraints are not empty",
            ),
            (
                "PodTopologySpread",
                json!({"defaultingType": "List", "defaultConstraints": [{"maxSkew": 0, "topologyKey": "k", "whenUnsatisfiable": "DoNotSchedule"}]}),
                "defaultConstraints[0].maxSkew",
            ),
            (
                "NodeResourcesFit",
                json!({"scoringStrategy": {"type": "RequestedToCapacityRatio"}}),
                "at least one point must be specified",
            ),
            ("NodeResourcesFit", json!({"scoringStrategy": {"type": "Nope"}}), "Nope"),
            ("NodeAffinity", json!({"addedAfinity": {}}), "addedAfinity"),
            ("NodeAffinity", json!({"kind": "OtherArgs"}), "OtherArgs"),
            ("ImageLocality", json!({}), "not supported"),
        ] {
            let error = taken(plugin, args).err().unwrap_or_default();
            assert!(error.contains(why), "{plugin}: {error}");
        }
    }
}
