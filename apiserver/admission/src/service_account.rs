//! ServiceAccount: every pod runs as a service account that exists, and gets a token for it.
//!
//! The token is a projected volume `kube-api-access-<random>` with a token bound to the pod, the cluster's CA certificate
//! and the namespace. A mirror pod gets nothing: it must look as the node made it, and may not reach for anything either.

mod secrets;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use steersman_auth::authz::node::references;
use steersman_auth::lister::{items, text};
use steersman_auth::token::WARN_ONLY_SECONDS;
use steersman_schema::field::quote;
use steersman_schema::status::Status;

use crate::edit::{bad_name, flag, list_in, part_mut, suffix};
use crate::{Cluster, Operation, Plugin, Request, Surroundings};

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// The controller makes the account `default` of a new namespace; a pod created right away waits for it this often.
const DEFAULT_ATTEMPTS: u32 = 10;

struct ServiceAccount {
    cluster: Arc<dyn Cluster>,
}

pub(crate) fn build(around: &Surroundings) -> Arc<dyn Plugin> {
    Arc::new(ServiceAccount {
        cluster: around.cluster.clone(),
    })
}

pub(crate) fn is_mirror(pod: &Value) -> bool {
    pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror")
        .is_some_and(Value::is_string)
}

/// The pod of a request that this plugin looks at.
fn pod_of(request: &Request) -> Option<&Value> {
    let looked_at = request.subresource.is_empty() || request.subresource == "ephemeralcontainers";
    request.object.as_ref().filter(|_| request.is("", "pods") && looked_at)
}

impl ServiceAccount {
    async fn account(&self, request: &Request, name: &str) -> Result<Arc<Value>, Box<Status>> {
        let find = || self.cluster.get("", "serviceaccounts", Some(&request.namespace), name);
        if let Some(account) = find() {
            return Ok(account);
        }
        let looking = |why: String| {
            let place = &request.namespace;
            Box::new(request.forbidden(format!("error looking up service account {place}/{name}: {why}")))
        };
        if let Some(why) = bad_name(name) {
            return Err(looking(why));
        }
        let attempts = if name == "default" { DEFAULT_ATTEMPTS } else { 1 };
        // 100 to 200 ms, so that many waiting pods do not look in step.
        let pause = Duration::from_millis(100 + request.random % 100);
        for attempt in 0..attempts {
            if attempt > 0 {
                self.cluster.pause(pause).await;
            }
            self.cluster.refresh().await?;
            if let Some(account) = find() {
                return Ok(account);
            }
        }
        Err(looking(format!("serviceaccount {} not found", quote(name))))
    }

    async fn check(&self, request: &Request) -> Result<(), Box<Status>> {
        let Some(pod) = pod_of(request) else { return Ok(()) };
        let ephemeral = request.operation == Operation::Update && request.subresource == "ephemeralcontainers";
        if request.operation != Operation::Create && !ephemeral {
            return Ok(());
        }
        if !ephemeral && is_mirror(pod) {
            return check_mirror(request, pod);
        }
        let name = text(pod, "/spec/serviceAccountName");
        if name.is_empty() {
            let pod = text(pod, "/metadata/name");
            let why = format!("no service account specified for pod {}/{pod}", request.namespace);
            return Err(Box::new(request.forbidden(why)));
        }
        let account = self.account(request, name).await?;
        if secrets::enforced(&account)
            && let Some(why) = secrets::refused(&account, pod, ephemeral)
        {
            return Err(Box::new(request.forbidden(why)));
        }
        Ok(())
    }
}

fn check_mirror(request: &Request, pod: &Value) -> Result<(), Box<Status>> {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let token = |volume: &Value| {
        items(volume, "/projected/sources")
            .iter()
            .any(|s| s.get("serviceAccountToken").is_some_and(Value::is_object))
    };
    let why = if !text(spec, "/serviceAccountName").is_empty() {
        "a mirror pod may not reference service accounts"
    } else if !references::secrets(spec).is_empty() {
        "a mirror pod may not reference secrets"
    } else if items(spec, "/volumes").iter().any(token) {
        "a mirror pod may not use ServiceAccountToken volume projections"
    } else {
        return Ok(());
    };
    Err(Box::new(request.forbidden(why)))
}

/// Mounts the token volume into every init and ordinary container that has nothing at its path.
fn mount_token(pod: &mut Value, random: u64) {
    let existing = items(pod, "/spec/volumes")
        .iter()
        .map(|v| text(v, "/name"))
        .find(|n| n.starts_with(VOLUME_PREFIX));
    let existing = existing.map(str::to_owned);
    let name = existing
        .clone()
        .unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", suffix(random)));
    let Some(spec) = part_mut(pod, "spec") else { return };
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if items(container, "/volumeMounts")
                .iter()
                .any(|m| text(m, "/mountPath") == MOUNT_PATH)
            {
                continue;
            }
            if let Some(mounts) = container.as_object_mut().and_then(|c| list_in(c, "volumeMounts")) {
                mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
                mounted = true;
            }
        }
    }
    if mounted
        && existing.is_none()
        && let Some(volumes) = list_in(spec, "volumes")
    {
        volumes.push(json!({"name": name, "projected": token_source()}));
    }
}

/// Token, CA certificate and namespace in one volume.
fn token_source() -> Value {
    json!({
        "defaultMode": 0o644,
        "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": WARN_ONLY_SECONDS}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
            ]}},
        ],
    })
}

#[async_trait::async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, request: &mut Request) -> Result<(), Box<Status>> {
        if request.operation != Operation::Create {
            return Ok(());
        }
        let Some(pod) = pod_of(request) else { return Ok(()) };
        if is_mirror(pod) {
            return check_mirror(request, pod);
        }
        let given = [text(pod, "/spec/serviceAccountName"), text(pod, "/spec/serviceAccount")];
        let name = given
            .into_iter()
            .find(|n| !n.is_empty())
            .unwrap_or("default")
            .to_owned();
        let account = self.account(request, &name).await?;
        let random = request.random;
        let Some(pod) = request.object.as_mut() else {
            return Ok(());
        };
        if let Some(spec) = part_mut(pod, "spec") {
            // The field's old name goes along, as clients still read it.
            spec.insert("serviceAccountName".into(), name.clone().into());
            spec.insert("serviceAccount".into(), name.into());
        }
        let wanted = flag(pod, "/spec/automountServiceAccountToken");
        if wanted
            .or_else(|| flag(&account, "/automountServiceAccountToken"))
            .unwrap_or(true)
        {
            mount_token(pod, random);
        }
        let pull = items(&account, "/imagePullSecrets");
        if !pull.is_empty()
            && items(pod, "/spec/imagePullSecrets").is_empty()
            && let Some(spec) = part_mut(pod, "spec")
        {
            let names = pull.iter().map(|secret| json!({"name": text(secret, "/name")}));
            spec.insert("imagePullSecrets".into(), names.collect());
        }
        self.check(request).await
    }

    async fn validate(&self, request: &Request) -> Result<(), Box<Status>> {
        self.check(request).await
    }
}
