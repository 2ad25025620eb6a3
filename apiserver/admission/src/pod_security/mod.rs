//! PodSecurity: pods that break the standard which their namespace's labels enforce are refused; those that break the one
//! it warns about are admitted with a warning, and so are templates of pods in other kinds.
//!
//! Not here: exemptions by configuration file, and the audit annotations (there is no audit log yet).

mod checks;
mod policy;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use steersman_auth::lister::text;
use steersman_schema::status::Status;

use crate::{Cluster, Operation, Plugin, Request, Surroundings};
use policy::{Level, Policy, Standard};

/// Subresources of pods that change nothing of what is judged here.
const IGNORED: &[&str] = &[
    "exec",
    "attach",
    "binding",
    "eviction",
    "log",
    "portforward",
    "proxy",
    "status",
];
/// Existing pods that a change of a namespace's policy is tried on.
const MOST_PODS: usize = 3000;

struct PodSecurity {
    cluster: Arc<dyn Cluster>,
}

pub(crate) fn build(around: &Surroundings) -> Arc<dyn Plugin> {
    Arc::new(PodSecurity {
        cluster: around.cluster.clone(),
    })
}

impl PodSecurity {
    fn namespace(&self, request: &Request) -> Result<(), Box<Status>> {
        let Some(new) = request.object.as_ref().filter(|_| request.subresource.is_empty()) else {
            return Ok(());
        };
        let (policy, faults) = Policy::of(new);
        let before = request.old.as_deref().map(Policy::of);
        let known = before.as_ref().is_some_and(|(_, old)| *old == faults);
        if !faults.is_empty() && !known {
            return Err(Box::new(Status::invalid("", "Namespace", &request.name, &faults)));
        }
        let Some((before, _)) = before else { return Ok(()) };
        let (now, then) = (policy.enforce, before.enforce);
        let relaxed = now.minor == then.minor && now.level <= then.level;
        if now != then && now.level != Level::Privileged && !relaxed {
            for warning in self.existing(&request.name, now) {
                request.warnings.push(warning);
            }
        }
        Ok(())
    }

    /// What the pods that are there would be refused for.
    fn existing(&self, namespace: &str, standard: Standard) -> Vec<String> {
        let pods = self.cluster.list("", "pods", Some(namespace));
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pod in pods.iter().take(MOST_PODS) {
            let faults = checks::faults(standard, pod);
            if !faults.is_empty() {
                let reasons: Vec<String> = faults.into_iter().map(|(reason, _)| reason).collect();
                found
                    .entry(reasons.join(", "))
                    .or_default()
                    .push(text(pod, "/metadata/name").to_owned());
            }
        }
        let mut warnings = Vec::new();
        if pods.len() > MOST_PODS {
            warnings.push(format!(
                "new PodSecurity enforce level only checked against the first {MOST_PODS} of {} existing pods",
                pods.len()
            ));
        }
        if !found.is_empty() {
            warnings.push(format!(
                "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{standard}\""
            ));
        }
        let mut each: Vec<String> = found
            .into_iter()
            .map(|(reasons, mut names)| {
                names.sort();
                let first = names.first().cloned().unwrap_or_default();
                match names.len() {
                    1 => format!("{first}: {reasons}"),
                    2 => format!("{first} (and 1 other pod): {reasons}"),
                    n => format!("{first} (and {} other pods): {reasons}", n - 1),
                }
            })
            .collect();
        each.sort();
        warnings.extend(each);
        warnings
    }

    fn pod(&self, request: &Request) -> Result<(), Box<Status>> {
        let is_pod = request.is("", "pods");
        let beside = if is_pod {
            IGNORED.contains(&request.subresource.as_str())
        } else {
            !request.subresource.is_empty()
        };
        let template = request
            .object
            .as_ref()
            .and_then(|o| policy::template(&request.group, &request.resource, o));
        let Some(pod) = template.filter(|_| !beside) else {
            return Ok(());
        };
        let Some(namespace) = self.cluster.get("", "namespaces", None, &request.namespace) else {
            if !is_pod {
                return Ok(());
            }
            let why = format!("failed to lookup namespace {:?}", request.namespace);
            return Err(Box::new(Status::internal(why)));
        };
        let (policy, faults) = Policy::of(&namespace);
        if faults.is_empty() && policy.allows_everything() {
            return Ok(());
        }
        if is_pod {
            let old = request
                .old
                .as_deref()
                .filter(|_| request.operation == Operation::Update);
            if old.is_some_and(|old| !policy::is_significant(&pod, old)) {
                return Ok(());
            }
            let broken = checks::faults(policy.enforce, &pod);
            if !broken.is_empty() {
                let why = format!(
                    "violates PodSecurity \"{}\": {}",
                    policy.enforce,
                    checks::details(&broken)
                );
                return Err(Box::new(request.forbidden(why)));
            }
        }
        let broken = checks::faults(policy.warn, &pod);
        if !broken.is_empty() {
            let text = format!(
                "would violate PodSecurity \"{}\": {}",
                policy.warn,
                checks::details(&broken)
            );
            request.warnings.push(text);
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, request: &Request) -> Result<(), Box<Status>> {
        if request.is("", "namespaces") {
            self.namespace(request)
        } else {
            self.pod(request)
        }
    }
}
