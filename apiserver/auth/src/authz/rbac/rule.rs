//! One policy rule: what it allows, what it covers, and how it is shown.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::authz::{Attributes, Rule};
use crate::lister::{items, strings};

/// The rules of a Role or ClusterRole.
pub fn rules_of(role: &Value) -> Vec<Rule> {
    items(role, "/rules").iter().map(parse).collect()
}

fn parse(rule: &Value) -> Rule {
    Rule {
        verbs: strings(rule, "/verbs"),
        groups: strings(rule, "/apiGroups"),
        resources: strings(rule, "/resources"),
        resource_names: strings(rule, "/resourceNames"),
        paths: strings(rule, "/nonResourceURLs"),
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == wanted)
}

fn has_or_all(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

impl Rule {
    /// Whether this rule alone allows the request.
    pub fn allows(&self, what: &Attributes) -> bool {
        if !has_or_all(&self.verbs, &what.verb) {
            return false;
        }
        if !what.resource_request {
            return self.paths.iter().any(|path| path_covers(path, &what.path));
        }
        has_or_all(&self.groups, &what.group)
            && self
                .resources
                .iter()
                .any(|resource| resource_matches(resource, &what.resource, &what.subresource))
            && (self.resource_names.is_empty() || has(&self.resource_names, &what.name))
    }

    /// Whether this rule allows everything that `part` does; `part` has at most one of each.
    fn covers(&self, part: &Rule) -> bool {
        let any_or_each = |mine: &[String], theirs: &[String]| has(mine, "*") || theirs.iter().all(|t| has(mine, t));
        let names = self.resource_names.is_empty()
            || (!part.resource_names.is_empty() && part.resource_names.iter().all(|n| has(&self.resource_names, n)));
        names
            && any_or_each(&self.verbs, &part.verbs)
            && any_or_each(&self.groups, &part.groups)
            && part.resources.iter().all(|r| self.covers_resource(r))
            && part
                .paths
                .iter()
                .all(|p| self.paths.iter().any(|mine| mine == p || wildcard_covers(mine, p)))
    }

    fn covers_resource(&self, resource: &str) -> bool {
        has_or_all(&self.resources, resource)
            || resource
                .split_once('/')
                .is_some_and(|(_, sub)| has(&self.resources, &format!("*/{sub}")))
    }

    /// The rule as rules of at most one verb, resource and name each.
    fn parts(&self) -> Vec<Rule> {
        let mut out = Vec::new();
        let one = |text: &String| vec![text.clone()];
        for group in &self.groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let part = Rule {
                        verbs: one(verb),
                        groups: one(group),
                        resources: one(resource),
                        ..Rule::default()
                    };
                    if self.resource_names.is_empty() {
                        out.push(part);
                        continue;
                    }
                    out.extend(self.resource_names.iter().map(|n| Rule {
                        resource_names: one(n),
                        ..part.clone()
                    }));
                }
            }
        }
        for path in &self.paths {
            out.extend(self.verbs.iter().map(|v| Rule {
                verbs: one(v),
                paths: one(path),
                ..Rule::default()
            }));
        }
        out
    }

    /// As refusals list it: `{APIGroups:["apps"], Resources:["deployments"], Verbs:["get" "list"]}`.
    pub fn shown(&self) -> String {
        let parts = [
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.paths),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ];
        let shown: Vec<String> = parts
            .iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(name, list)| format!("{name}:{}", quoted(list)))
            .collect();
        format!("{{{}}}", shown.join(", "))
    }
}

/// A list of strings as Go's `%q` prints it.
pub(crate) fn quoted(list: &[String]) -> String {
    let items: Vec<String> = list.iter().map(|item| steersman_schema::field::quote(item)).collect();
    format!("[{}]", items.join(" "))
}

fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    if subresource.is_empty() {
        return rule == resource;
    }
    let Some((left, right)) = rule.split_once('/') else {
        return false;
    };
    right == subresource && (left == "*" || left == resource)
}

fn path_covers(rule: &str, path: &str) -> bool {
    rule == "*" || rule == path || wildcard_covers(rule, path)
}

fn wildcard_covers(rule: &str, path: &str) -> bool {
    rule.ends_with('*') && path.starts_with(rule.trim_end_matches('*'))
}

/// What of `wanted` is not in `held`, in the smallest parts.
pub fn missing(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let parts = wanted.iter().flat_map(Rule::parts);
    parts
        .filter(|part| !held.iter().any(|rule| rule.covers(part)))
        .collect()
}

/// Parts that differ only by verb joined again, as lines of a refusal: sorted, each once.
pub fn shown_compact(parts: &[Rule]) -> Vec<String> {
    let mut lines = BTreeSet::new();
    type Place<'a> = (&'a [String], &'a [String], &'a [String]);
    let mut joined: BTreeMap<Place<'_>, Rule> = BTreeMap::new();
    for part in parts {
        if !part.paths.is_empty() {
            lines.insert(part.shown());
            continue;
        }
        let key = (
            part.groups.as_slice(),
            part.resources.as_slice(),
            part.resource_names.as_slice(),
        );
        match joined.get_mut(&key) {
            Some(rule) => rule.verbs.extend(part.verbs.iter().cloned()),
            None => {
                joined.insert(key, part.clone());
            }
        }
    }
    lines.extend(joined.values().map(Rule::shown));
    lines.into_iter().collect()
}
