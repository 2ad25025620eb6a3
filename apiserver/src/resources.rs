//! Which resources this server serves: the table of facts joined with the kinds, cut by `--runtime-config`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use steersman_kinds::Kind;
use steersman_schema::facts::{self, Gvk, facts};

/// One resource of one group-version.
pub struct Resource {
    pub facts: &'static facts::Resource,
    pub kind: &'static Kind,
    /// What is below this key belongs to the resource: `/registry/pods/`. Empty when nothing is stored.
    pub prefix: String,
    /// Group, version and kind as served.
    pub gvk: Gvk,
    /// `v1` or `group/version`, as served.
    pub api_version: String,
    /// Group, version and kind as stored.
    pub stored_gvk: Gvk,
    /// For instance `PodList`.
    pub list_kind: String,
}

impl Resource {
    pub fn group(&self) -> &'static str {
        self.facts.group
    }

    pub fn plural(&self) -> &'static str {
        self.facts.plural
    }

    /// `(group, plural)` is what most decisions about a resource compare.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.facts.group == group && self.facts.plural == plural
    }

    /// The key of an object.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.facts.namespaced {
            format!("{}{namespace}/{name}", self.prefix)
        } else {
            format!("{}{name}", self.prefix)
        }
    }

    /// The keys of a namespace, or of the whole resource when it is empty.
    pub fn within(&self, namespace: &str) -> String {
        if self.facts.namespaced && !namespace.is_empty() {
            format!("{}{namespace}/", self.prefix)
        } else {
            self.prefix.clone()
        }
    }

    /// Whether it is stored in another version than it is served in.
    pub fn converts(&self) -> bool {
        self.gvk != self.stored_gvk
    }

    /// Whether the resource has a verb at all.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.facts.verbs.contains(&verb)
    }
}

/// Everything that is served.
pub struct Resources {
    by_path: HashMap<String, Arc<Resource>>,
    /// Longest prefix first.
    by_prefix: Vec<Arc<Resource>>,
    /// In the order of the table.
    all: Vec<Arc<Resource>>,
    /// Group and its served versions, core first, then in the order of `/apis`.
    groups: Vec<(&'static str, Vec<&'static str>)>,
}

impl Resources {
    /// The resources of every group-version that is on. `etcd_prefix` replaces `/registry`.
    ///
    /// # Errors
    /// One text per entry of `--runtime-config` that names nothing.
    pub fn build(config: &BTreeMap<String, bool>, etcd_prefix: &str) -> Result<Self, Vec<String>> {
        let faults: Vec<String> = config
            .keys()
            .filter(|key| !known(key))
            .map(|key| format!("unknown api groups {key}"))
            .collect();
        if !faults.is_empty() {
            return Err(faults);
        }
        let mut all = Vec::new();
        for resource in facts().resources() {
            if !enabled(resource, config) {
                continue;
            }
            let Some(kind) = steersman_kinds::find(resource.group, resource.version, resource.plural) else {
                continue;
            };
            let prefix = match resource.key_prefix.strip_prefix("/registry") {
                Some(rest) if resource.stored() => format!("{}{rest}/", etcd_prefix.trim_end_matches('/')),
                _ => String::new(),
            };
            all.push(Arc::new(Resource {
                facts: resource,
                kind,
                prefix,
                gvk: Gvk::new(resource.group, resource.version, resource.kind),
                api_version: resource.api_version(),
                stored_gvk: if resource.stored() {
                    Gvk::new(resource.storage.0, resource.storage.1, resource.kind)
                } else {
                    Gvk::new(resource.group, resource.version, resource.kind)
                },
                list_kind: format!("{}List", resource.kind),
            }));
        }
        let by_path = all
            .iter()
            .map(|r| (path_key(r.facts.group, r.facts.version, r.facts.plural), r.clone()))
            .collect();
        let mut by_prefix: Vec<Arc<Resource>> = Vec::new();
        for resource in &all {
            // Of the versions of one resource the one that is stored speaks for the keys.
            if resource.facts.stored()
                && !(resource.converts() && by_prefix.iter().any(|r| r.prefix == resource.prefix))
            {
                by_prefix.retain(|r| r.prefix != resource.prefix);
                by_prefix.push(resource.clone());
            }
        }
        by_prefix.sort_by_key(|r| std::cmp::Reverse(r.prefix.len()));
        let mut groups: Vec<(&'static str, Vec<&'static str>)> = Vec::new();
        for group in facts().groups() {
            let on = |version: &&&'static str| {
                all.iter()
                    .any(|r| r.facts.group == group.name && r.facts.version == **version)
            };
            let versions: Vec<&'static str> = group.versions.iter().filter(on).copied().collect();
            if !versions.is_empty() {
                groups.push((group.name, versions));
            }
        }
        Ok(Self {
            by_path,
            by_prefix,
            all,
            groups,
        })
    }

    /// The resource of a path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.by_path.get(&path_key(group, version, plural))
    }

    /// The resource that a key belongs to, in the version in which it is stored.
    pub fn of_key(&self, key: &str) -> Option<&Arc<Resource>> {
        self.by_prefix.iter().find(|r| key.starts_with(&r.prefix))
    }

    /// The resource of a group in the group's preferred version that has it.
    pub fn preferred(&self, group: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.all.iter().find(|r| r.is(group, plural))
    }

    pub fn all(&self) -> &[Arc<Resource>] {
        &self.all
    }

    /// One resource per prefix: everything that is stored, once.
    pub fn stored(&self) -> &[Arc<Resource>] {
        &self.by_prefix
    }

    pub fn groups(&self) -> &[(&'static str, Vec<&'static str>)] {
        &self.groups
    }

    /// Whether any version of a group is served.
    pub fn has_group(&self, group: &str) -> bool {
        self.groups.iter().any(|(name, _)| *name == group)
    }

    /// Whether a group-version is served.
    pub fn serves(&self, group: &str, version: &str) -> bool {
        self.groups
            .iter()
            .any(|(name, versions)| *name == group && versions.contains(&version))
    }
}

fn path_key(group: &str, version: &str, plural: &str) -> String {
    format!("{group}/{version}/{plural}")
}

fn known(key: &str) -> bool {
    if matches!(key, "api/all" | "api/ga" | "api/beta" | "api/alpha") {
        return true;
    }
    let (group, version) = group_version(key);
    facts()
        .groups()
        .iter()
        .any(|g| g.name == group && g.versions.contains(&version))
}

/// `apps/v1`; core is `v1` or `api/v1`.
fn group_version(key: &str) -> (&str, &str) {
    match key.split_once('/') {
        Some(("api", version)) => ("", version),
        Some((group, rest)) => (group, rest.split('/').next().unwrap_or_default()),
        None => ("", key),
    }
}

/// Most specific entry first: resource, group-version, stability, everything, the default.
fn enabled(resource: &facts::Resource, config: &BTreeMap<String, bool>) -> bool {
    let version = if resource.group.is_empty() {
        config
            .get(&format!("api/{}", resource.version))
            .or_else(|| config.get(resource.version))
    } else {
        config.get(&format!("{}/{}", resource.group, resource.version))
    };
    let stability = match resource.version {
        v if v.contains("alpha") => "api/alpha",
        v if v.contains("beta") => "api/beta",
        _ => "api/ga",
    };
    let specific = config.get(&format!("{}/{}/{}", resource.group, resource.version, resource.plural));
    specific
        .or(version)
        .or_else(|| config.get(stability))
        .or_else(|| config.get("api/all"))
        .copied()
        .unwrap_or(resource.default_on)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_stable_versions_are_served_unless_asked_for() {
        let resources = Resources::build(&BTreeMap::new(), "/registry").unwrap_or_else(|_| panic!("builds"));
        assert!(resources.find("apps", "v1", "deployments").is_some());
        assert!(
            resources
                .groups()
                .iter()
                .all(|(_, versions)| versions.iter().all(|v| !v.contains("alpha") && !v.contains("beta")))
        );
        let config = BTreeMap::from([("api/beta".to_owned(), true)]);
        let more = Resources::build(&config, "/registry").unwrap_or_else(|_| panic!("builds"));
        assert!(more.all().len() > resources.all().len());
        assert!(Resources::build(&BTreeMap::from([("nothing/v1".to_owned(), true)]), "/registry").is_err());
    }

    #[test]
    fn keys_are_upstreams() {
        let resources = Resources::build(&BTreeMap::new(), "/registry").unwrap_or_else(|_| panic!("builds"));
        let key = |group: &str, version: &str, plural: &str| {
            resources
                .find(group, version, plural)
                .map(|r| r.key("ns", "a"))
                .unwrap_or_default()
        };
        assert_eq!(key("", "v1", "services"), "/registry/services/specs/ns/a");
        assert_eq!(key("", "v1", "nodes"), "/registry/minions/a");
        assert_eq!(key("events.k8s.io", "v1", "events"), "/registry/events/ns/a");
        let event = resources.of_key("/registry/events/ns/a").map(|r| r.group());
        assert_eq!(event, Some(""));
    }
}
