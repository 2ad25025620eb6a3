//! Fills ClusterRoles that have an aggregation rule with the rules of the roles it selects.
//!
//! Watches and writes: clusterroles. [`decide`] is pure. Any change of any role makes every aggregating role be looked at:
//! there are few, and who depends on whom is not known. The API server refuses to grant more than the controller's own
//! account may, which is everything.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::json;
use steersman_runtime::client::Patch;
use steersman_runtime::{Informer, Key};
use steersman_types::Typed;
use steersman_types::api::rbac::v1::{ClusterRole, PolicyRule};

use crate::act::{Action, Executor};
use crate::context::Context;
use crate::labels;

const WORKERS: usize = 5;
const AGAIN: Duration = Duration::from_millis(20);

/// See the module.
#[must_use]
pub fn start(context: Context) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let roles = context.informers.of::<ClusterRole>();
        let executor = context.executor("clusterrole-aggregation-controller");
        roles.synced().await;
        let queue = context.queue::<Key>();
        let (adding, all) = (queue.clone(), roles.clone());
        roles.on_event(move |_| {
            for role in all.list().iter().filter(|role| role.aggregation_rule.is_some()) {
                adding.add(Key::of(role.as_ref()));
            }
        });
        queue
            .run("ClusterRole", WORKERS, move |key| {
                reconcile(roles.clone(), executor.clone(), key)
            })
            .await;
        Ok(())
    })
}

/// The rules that the role should have, if it has others. `roles` are all, ordered by name.
#[must_use]
pub fn decide(role: &ClusterRole, roles: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let aggregation = role.aggregation_rule.as_ref()?;
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in aggregation.cluster_role_selectors.iter().flatten() {
        let selected = roles.iter().filter(|other| {
            other.metadata.name != role.metadata.name && labels::selects(Some(selector), other.metadata.labels.as_ref())
        });
        for rule in selected.flat_map(|other| other.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    (rules.as_slice() != role.rules.as_deref().unwrap_or_default()).then_some(rules)
}

async fn reconcile(roles: Informer<ClusterRole>, executor: Executor, key: Key) -> Result<Option<Duration>, String> {
    let Some(role) = roles.get_key(&key) else {
        return Ok(None);
    };
    let Some(rules) = decide(&role, &roles.list()) else {
        return Ok(None);
    };
    let wanted = ClusterRole {
        rules: Some(rules),
        ..ClusterRole::default()
    };
    let patch = json!({
        "metadata": {"resourceVersion": role.metadata.resource_version},
        "rules": wanted.to_value()["rules"],
    });
    match executor
        .one(Action::patch(role.as_ref(), None, Patch::Merge(patch)))
        .await
    {
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) if error.is_conflict() => Ok(Some(AGAIN)),
        Err(error) => Err(error.to_string()),
        Ok(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn role(name: &str, label: &str, resources: &[String]) -> ClusterRole {
        let rules: Vec<_> = resources
            .iter()
            .map(|r| json!({"apiGroups": [""], "resources": [r], "verbs": ["get"]}))
            .collect();
        ClusterRole::from_value(&json!({"metadata": {"name": name, "labels": {"to": label}}, "rules": rules})).unwrap()
    }

    proptest! {
        #[test]
        fn the_role_ends_with_each_selected_rule_once_and_stays_so(
            others in proptest::collection::vec((any::<bool>(), proptest::collection::vec("[a-c]", 0..3)), 0..5),
        ) {
            let roles: Vec<_> = others.iter().enumerate().map(|(i, (selected, resources))| {
                Arc::new(role(&format!("r{i}"), if *selected { "admin" } else { "view" }, resources))
            }).collect();
            let mut admin = role("admin", "admin", &[]);
            admin.aggregation_rule = ClusterRole::from_value(&json!({
                "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "admin"}}]}
            })).unwrap().aggregation_rule;
            let wanted: std::collections::BTreeSet<&String> =
                others.iter().filter(|(selected, _)| *selected).flat_map(|(_, r)| r).collect();
            let rules = decide(&admin, &roles).unwrap_or_default();
            prop_assert_eq!(rules.len(), wanted.len());
            admin.rules = Some(rules);
            prop_assert!(decide(&admin, &roles).is_none());
        }
    }
}
