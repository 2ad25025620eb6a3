//! Priority: a pod's class name becomes its number, and there is one default class at most.

use std::sync::Arc;

use serde_json::Value;
use steersman_auth::lister::text;
use steersman_schema::status::Status;

use crate::edit::{flag, part_mut};
use crate::{Cluster, Operation, Plugin, Request, Surroundings};

const GROUP: &str = "scheduling.k8s.io";
const PREEMPT: &str = "PreemptLowerPriority";

struct Priority {
    cluster: Arc<dyn Cluster>,
}

pub(crate) fn build(around: &Surroundings) -> Arc<dyn Plugin> {
    Arc::new(Priority {
        cluster: around.cluster.clone(),
    })
}

/// What a class gives to a pod.
struct Resolved {
    class: String,
    value: i64,
    preemption: Option<String>,
}

impl Resolved {
    fn of(class: &Value) -> Self {
        let preemption = text(class, "/preemptionPolicy");
        Self {
            class: text(class, "/metadata/name").to_owned(),
            value: value_of(class),
            preemption: (!preemption.is_empty()).then(|| preemption.to_owned()),
        }
    }
}

fn value_of(class: &Value) -> i64 {
    class.get("value").and_then(Value::as_i64).unwrap_or_default()
}

impl Priority {
    /// The default class; of several the one with the lowest value.
    fn default_class(&self) -> Option<Arc<Value>> {
        let classes = self.cluster.list(GROUP, "priorityclasses", None);
        classes
            .into_iter()
            .filter(|c| flag(c, "/globalDefault") == Some(true))
            .min_by_key(|c| value_of(c))
    }

    async fn resolve(&self, request: &Request, name: &str) -> Result<Resolved, Box<Status>> {
        if name.is_empty() {
            let without = Resolved {
                class: String::new(),
                value: 0,
                preemption: Some(PREEMPT.into()),
            };
            return Ok(self.default_class().map_or(without, |class| Resolved::of(&class)));
        }
        let find = || self.cluster.get(GROUP, "priorityclasses", None, name);
        let mut class = find();
        if class.is_none() {
            // Upstream refuses from its cache; a class made a moment ago by another server is waited for instead.
            self.cluster.refresh().await?;
            class = find();
        }
        let missing = || request.forbidden(format!("no PriorityClass with name {name} was found"));
        class
            .map(|class| Resolved::of(&class))
            .ok_or_else(|| Box::new(missing()))
    }

    async fn create_pod(&self, request: &mut Request) -> Result<(), Box<Status>> {
        let Some(pod) = &request.object else { return Ok(()) };
        let resolved = self.resolve(request, text(pod, "/spec/priorityClassName")).await?;
        if let Some(given) = pod
            .pointer("/spec/priority")
            .and_then(Value::as_i64)
            .filter(|v| *v != resolved.value)
        {
            return Err(Box::new(request.forbidden(format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission \
                 controller computed {} from the given PriorityClass name",
                resolved.value
            ))));
        }
        // An empty text is a policy too, if one that is never right.
        let given = pod.pointer("/spec/preemptionPolicy").and_then(Value::as_str);
        if let (Some(policy), Some(given)) = (resolved.preemption.as_deref(), given)
            && policy != given
        {
            return Err(Box::new(request.forbidden(format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
                 controller computed {policy} from the given PriorityClass name"
            ))));
        }
        if let Some(spec) = request.object.as_mut().and_then(|pod| part_mut(pod, "spec")) {
            spec.insert("priority".into(), resolved.value.into());
            if !resolved.class.is_empty() {
                spec.insert("priorityClassName".into(), resolved.class.into());
            }
            if let Some(policy) = resolved.preemption {
                spec.insert("preemptionPolicy".into(), policy.into());
            }
        }
        Ok(())
    }
}

/// What was resolved on create stays when an update leaves it out.
fn update_pod(request: &mut Request) {
    let Some(old) = request.old.clone() else { return };
    let Some(spec) = request.object.as_mut().and_then(|pod| part_mut(pod, "spec")) else {
        return;
    };
    for field in ["priority", "preemptionPolicy"] {
        let had = old.pointer(&format!("/spec/{field}")).filter(|v| !v.is_null());
        if let (Some(had), None) = (had, spec.get(field).filter(|v| !v.is_null())) {
            spec.insert(field.into(), had.clone());
        }
    }
}

#[async_trait::async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, request: &mut Request) -> Result<(), Box<Status>> {
        if !request.is("", "pods") || !request.subresource.is_empty() {
            return Ok(());
        }
        if request.operation == Operation::Create {
            return self.create_pod(request).await;
        }
        update_pod(request);
        Ok(())
    }

    async fn validate(&self, request: &Request) -> Result<(), Box<Status>> {
        if !request.is(GROUP, "priorityclasses") || !request.subresource.is_empty() {
            return Ok(());
        }
        let Some(class) = request
            .object
            .as_ref()
            .filter(|c| flag(c, "/globalDefault") == Some(true))
        else {
            return Ok(());
        };
        let Some(default) = self.default_class() else {
            return Ok(());
        };
        let name = text(&default, "/metadata/name");
        if request.operation == Operation::Create || name != text(class, "/metadata/name") {
            let why = format!("PriorityClass {name} is already marked as default. Only one default can exist");
            return Err(Box::new(request.forbidden(why)));
        }
        Ok(())
    }
}
