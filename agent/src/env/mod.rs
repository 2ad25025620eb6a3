//! A container's environment: services, then `envFrom`, then `env`, with references resolved.
//!
//! Called by the worker before it creates a container. Objects come through [`Objects`], so tests need no server.

pub mod expand;
pub mod fields;
pub mod services;

use std::collections::BTreeMap;
use std::sync::Arc;
use steersman_types::api::core::v1::{ConfigMap, Container, EnvVar, EnvVarSource, Pod, Secret, Service};

use crate::pod;
use crate::sources::Objects;
use fields::PodFields;

/// What the environment depends on besides the pod and its namespace's objects.
pub struct EnvInputs<'a> {
    pub fields: PodFields<'a>,
    /// Services of all namespaces.
    pub services: &'a [Arc<Service>],
}

/// The complete environment in order; of two entries with one name only the later is kept.
///
/// # Errors
/// Upstream's text, for instance `configmap "a" not found`; the container then waits with
/// `CreateContainerConfigError`.
pub async fn environment(
    pod: &Pod,
    container: &Container,
    inputs: &EnvInputs<'_>,
    objects: &dyn Objects,
) -> Result<Vec<(String, String)>, String> {
    let mut all = Env::default();
    let links = pod::spec(pod).enable_service_links.unwrap_or(true);
    let service_vars = services::variables(pod::namespace(pod), links, inputs.services);
    from_sources(pod, container, objects, &mut all).await?;
    for var in container.env.iter().flatten() {
        let value = match &var.value_from {
            None => {
                // References see what stands before them, and services last.
                let mut known: Vec<_> = service_vars.clone().into_iter().collect();
                known.extend(all.0.iter().cloned());
                Some(expand::expand(var.value.as_deref().unwrap_or_default(), &known))
            }
            Some(source) => from_source(pod, container, var, source, inputs, objects).await?,
        };
        if let Some(value) = value {
            all.set(var.name.clone(), value);
        }
    }
    for (name, value) in service_vars {
        if !all.has(&name) {
            all.set(name, value);
        }
    }
    Ok(all.0)
}

#[derive(Default)]
struct Env(Vec<(String, String)>);

impl Env {
    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(n, _)| n == name)
    }

    fn set(&mut self, name: String, value: String) {
        match self.0.iter_mut().find(|(n, _)| *n == name) {
            Some(entry) => entry.1 = value,
            None => self.0.push((name, value)),
        }
    }
}

async fn from_sources(pod: &Pod, container: &Container, objects: &dyn Objects, all: &mut Env) -> Result<(), String> {
    let namespace = pod::namespace(pod);
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(wanted) = &source.config_map_ref {
            if let Some(map) = config_map(objects, namespace, &wanted.name, wanted.optional).await? {
                for (key, value) in map.data.iter().flatten() {
                    all.set(format!("{prefix}{key}"), value.clone());
                }
            }
        } else if let Some(wanted) = &source.secret_ref
            && let Some(secret) = secret(objects, namespace, &wanted.name, wanted.optional).await?
        {
            for (key, value) in secret.data.iter().flatten() {
                all.set(format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned());
            }
        }
    }
    Ok(())
}

async fn config_map(
    objects: &dyn Objects,
    namespace: &str,
    name: &str,
    optional: Option<bool>,
) -> Result<Option<Arc<ConfigMap>>, String> {
    match objects.config_map(namespace, name).await? {
        Some(map) => Ok(Some(map)),
        None if optional == Some(true) => Ok(None),
        None => Err(format!("configmap {name:?} not found")),
    }
}

async fn secret(
    objects: &dyn Objects,
    namespace: &str,
    name: &str,
    optional: Option<bool>,
) -> Result<Option<Arc<Secret>>, String> {
    match objects.secret(namespace, name).await? {
        Some(secret) => Ok(Some(secret)),
        None if optional == Some(true) => Ok(None),
        None => Err(format!("secret {name:?} not found")),
    }
}

async fn from_source(
    pod: &Pod,
    container: &Container,
    var: &EnvVar,
    source: &EnvVarSource,
    inputs: &EnvInputs<'_>,
    objects: &dyn Objects,
) -> Result<Option<String>, String> {
    let namespace = pod::namespace(pod);
    if let Some(field) = &source.field_ref {
        return fields::pod_field(&inputs.fields, &field.field_path).map(Some);
    }
    if let Some(wanted) = &source.resource_field_ref {
        let own = wanted.container_name.as_deref().filter(|n| !n.is_empty());
        let target = match own {
            Some(name) => pod::find_container(pod, name)
                .map(|(_, c)| c)
                .ok_or_else(|| format!("container {name} not found"))?,
            None => container.clone(),
        };
        let divisor = wanted.divisor.as_ref();
        return fields::resource_field(&target, &wanted.resource, divisor, &inputs.fields.allocatable).map(Some);
    }
    if let Some(wanted) = &source.config_map_key_ref {
        let Some(map) = config_map(objects, namespace, &wanted.name, wanted.optional).await? else {
            return Ok(None);
        };
        return match map.data.as_ref().and_then(|d| d.get(&wanted.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if wanted.optional == Some(true) => Ok(None),
            None => Err(format!(
                "couldn't find key {} in ConfigMap {namespace}/{}",
                wanted.key, wanted.name
            )),
        };
    }
    if let Some(wanted) = &source.secret_key_ref {
        let Some(secret) = secret(objects, namespace, &wanted.name, wanted.optional).await? else {
            return Ok(None);
        };
        return match secret.data.as_ref().and_then(|d| d.get(&wanted.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if wanted.optional == Some(true) => Ok(None),
            None => Err(format!(
                "couldn't find key {} in Secret {namespace}/{}",
                wanted.key, wanted.name
            )),
        };
    }
    Err(format!(
        "environment variable {} has a source that this agent does not know",
        var.name
    ))
}

/// Resources of the node by name, for containers without limits.
pub type Allocatable = BTreeMap<String, i64>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::fake::FakeObjects;
    use steersman_types::Typed;

    fn pod(containers: serde_json::Value) -> Pod {
        let value = serde_json::json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "serviceAccountName": "sa", "containers": containers, "enableServiceLinks": false},
        });
        Pod::from_value(&value).unwrap()
    }

    async fn env_of(pod: &Pod, objects: &FakeObjects) -> Result<Vec<(String, String)>, String> {
        let allocatable = BTreeMap::from([("cpu".to_owned(), 2000), ("memory".to_owned(), 1 << 30)]);
        let fields = PodFields {
            pod,
            pod_ips: &["10.0.0.7".into()],
            host_ips: &["192.0.2.1".into()],
            allocatable,
        };
        let inputs = EnvInputs { fields, services: &[] };
        environment(pod, &pod::main_containers(pod)[0], &inputs, objects).await
    }

    #[tokio::test]
    async fn every_kind_of_source_is_resolved_and_later_entries_win() {
        let objects = FakeObjects::default()
            .with_config_map("ns", "cm", &[("a", "1"), ("data-1", "x")])
            .with_secret("ns", "sec", &[("pw", "s3")]);
        let pod = pod(
            serde_json::json!([{"name": "c", "resources": {"limits": {"cpu": "1500m"}},
            "envFrom": [{"configMapRef": {"name": "cm"}}, {"prefix": "S_", "secretRef": {"name": "sec"}},
                        {"configMapRef": {"name": "nothing", "optional": true}}],
            "env": [{"name": "a", "value": "2"}, {"name": "B", "value": "$(a)-$(S_pw)-$(none)"},
                    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                    {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                    {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
                    {"name": "PW", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "pw"}}},
                    {"name": "NO", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "no", "optional": true}}}]}]),
        );
        let env = env_of(&pod, &objects).await.unwrap();
        let text: Vec<_> = env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let expected = [
            "a=2",
            "data-1=x",
            "S_pw=s3",
            "B=2-s3-$(none)",
            "IP=10.0.0.7",
            "APP=web",
            "CPU=2",
            "MEM=1024",
            "PW=s3",
        ];
        assert_eq!(text, expected);
    }

    #[tokio::test]
    async fn what_is_missing_is_named_in_upstreams_words() {
        let objects = FakeObjects::default().with_config_map("ns", "cm", &[]);
        let one = |source: serde_json::Value| {
            pod(serde_json::json!([{"name": "c", "env": [{"name": "A", "valueFrom": source}]}]))
        };
        for (source, text) in [
            (
                serde_json::json!({"configMapKeyRef": {"name": "x", "key": "k"}}),
                "configmap \"x\" not found",
            ),
            (
                serde_json::json!({"secretKeyRef": {"name": "x", "key": "k"}}),
                "secret \"x\" not found",
            ),
            (
                serde_json::json!({"configMapKeyRef": {"name": "cm", "key": "k"}}),
                "couldn't find key k in ConfigMap ns/cm",
            ),
        ] {
            assert_eq!(env_of(&one(source), &objects).await, Err(text.to_owned()));
        }
    }
}
