//! What the pod failure policy says of a failed pod, and the success policy of the indexes done so far. Pure.

use steersman_types::api::batch::v1::{
    PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule, SuccessPolicy,
};
use steersman_types::api::core::v1::{ContainerStatus, Pod};

use super::indexes::Indexes;

/// What a pod's failure means for its job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Counts towards the back-off limit.
    Counts,
    /// As if it had not been: the pod is replaced.
    Ignored,
    /// Counts, and its index is not tried again.
    FailsIndex,
    /// Ends the job; the message for its condition.
    FailsJob(String),
}

/// The first rule that matches decides; without one, the failure counts.
#[must_use]
pub fn of_failure(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Failure {
    let rules = policy.map(|p| p.rules.as_slice()).unwrap_or_default();
    let found = rules
        .iter()
        .enumerate()
        .find_map(|(i, rule)| Some((i, rule, why(rule, pod)?)));
    let Some((i, rule, why)) = found else {
        return Failure::Counts;
    };
    match rule.action.as_str() {
        "Ignore" => Failure::Ignored,
        "FailIndex" => Failure::FailsIndex,
        "FailJob" => Failure::FailsJob(format!("{why} matching FailJob rule at index {i}")),
        _ => Failure::Counts,
    }
}

/// The beginning of the message when `rule` matches.
fn why(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let name = format!(
        "{}/{}",
        pod.metadata.namespace.as_deref().unwrap_or_default(),
        pod.metadata.name.as_deref().unwrap_or_default()
    );
    if let Some(codes) = &rule.on_exit_codes {
        let lists = [&status.container_statuses, &status.init_container_statuses];
        let (container, code) = lists
            .into_iter()
            .flat_map(|list| list.iter().flatten())
            .find_map(|c| Some((&c.name, matching_code(codes, c)?)))?;
        return Some(format!(
            "Container {container} for pod {name} failed with exit code {code}"
        ));
    }
    let patterns = rule.on_pod_conditions.as_ref()?;
    let condition = status.conditions.iter().flatten().find(|c| {
        patterns
            .iter()
            .any(|p| p.type_ == c.type_ && p.status.as_deref().unwrap_or("True") == c.status)
    })?;
    Some(format!("Pod {name} has condition {}", condition.type_))
}

fn matching_code(codes: &PodFailurePolicyOnExitCodesRequirement, container: &ContainerStatus) -> Option<i32> {
    let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
    let named = codes.container_name.as_ref().is_none_or(|name| *name == container.name);
    let listed = codes.values.contains(&code);
    let matches = match codes.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    };
    (named && code != 0 && matches).then_some(code)
}

/// The message of the condition when the indexes done so far are enough.
#[must_use]
pub fn of_success(policy: Option<&SuccessPolicy>, completions: u32, succeeded: &Indexes) -> Option<String> {
    if succeeded.is_empty() {
        return None;
    }
    let met = policy?.rules.iter().position(|rule| {
        let enough = |done: u32| {
            rule.succeeded_count
                .is_some_and(|wanted| done >= u32::try_from(wanted).unwrap_or(0))
        };
        match &rule.succeeded_indexes {
            None => enough(succeeded.count()),
            Some(text) => {
                let wanted = Indexes::parse(text, completions);
                let done = wanted.common(succeeded);
                !wanted.is_empty() && (done == wanted.count() || enough(done))
            }
        }
    })?;
    Some(format!("Matched rules at index {met}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use steersman_types::Typed;

    fn failure(rules: Value, status: Value) -> Failure {
        let policy: PodFailurePolicy = serde_json::from_value(json!({"rules": rules})).unwrap();
        let pod = Pod::from_value(&json!({"metadata": {"namespace": "ns", "name": "p"}, "status": status})).unwrap();
        of_failure(Some(&policy), &pod)
    }

    fn exited(code: i32) -> Value {
        json!({"phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": "True"}],
            "containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": code}}}]})
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let codes = |action: &str, operator: &str, values: &[i32]| json!({"action": action, "onExitCodes": {"operator": operator, "values": values}});
        assert_eq!(
            failure(json!([codes("Ignore", "In", &[3])]), exited(3)),
            Failure::Ignored
        );
        assert_eq!(
            failure(json!([codes("Ignore", "In", &[4])]), exited(3)),
            Failure::Counts
        );
        assert_eq!(
            failure(
                json!([codes("FailIndex", "NotIn", &[4]), codes("Ignore", "In", &[3])]),
                exited(3)
            ),
            Failure::FailsIndex
        );
        assert_eq!(
            failure(
                json!([codes("Count", "In", &[9]), codes("FailJob", "In", &[3])]),
                exited(3)
            ),
            Failure::FailsJob(
                "Container c for pod ns/p failed with exit code 3 matching FailJob rule at index 1".into()
            )
        );
        let conditions = json!([{"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget"}]}]);
        assert_eq!(
            failure(conditions, exited(3)),
            Failure::FailsJob("Pod ns/p has condition DisruptionTarget matching FailJob rule at index 0".into())
        );
    }

    #[test]
    fn success_needs_the_named_indexes_or_enough_of_them() {
        let met = |rules: Value, done: &[u32]| {
            let policy: SuccessPolicy = serde_json::from_value(json!({"rules": rules})).unwrap();
            of_success(Some(&policy), 10, &done.iter().copied().collect())
        };
        let first = Some("Matched rules at index 0".to_owned());
        assert_eq!(met(json!([{"succeededIndexes": "0,2-3"}]), &[0, 2]), None);
        assert_eq!(met(json!([{"succeededIndexes": "0,2-3"}]), &[0, 2, 3]), first);
        assert_eq!(
            met(json!([{"succeededIndexes": "0-4", "succeededCount": 2}]), &[1, 4, 9]),
            first
        );
        assert_eq!(
            met(json!([{"succeededIndexes": "0-4", "succeededCount": 2}]), &[4, 9]),
            None
        );
        assert_eq!(met(json!([{"succeededCount": 1}]), &[9]), first);
        assert_eq!(met(json!([{"succeededCount": 0}]), &[]), None);
    }
}
