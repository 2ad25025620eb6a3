//! Every namespace has a ConfigMap `kube-root-ca.crt` with the CA that vouches for the API server.
//!
//! Watches: namespaces, configmaps of that name. Writes: configmaps. A changed or deleted one is restored. Without
//! `--root-ca-file` the controller does nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use steersman_runtime::{Event, ListOptions};
use steersman_types::ObjectMeta;
use steersman_types::api::core::v1::{ConfigMap, Namespace};

use crate::act::{Action, Executor};
use crate::context::Context;
use crate::namespace::is_active;

const NAME: &str = "kube-root-ca.crt";
const KEY: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const DESCRIPTION_TEXT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

/// See the module.
#[must_use]
pub fn start(context: Context) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let Some(ca) = context.settings.root_ca.clone() else {
            return Ok(());
        };
        let namespaces = context.informers.of::<Namespace>();
        let maps = context
            .informers
            .of_with::<ConfigMap>(ListOptions::all().fields(&format!("metadata.name={NAME}")));
        namespaces.synced().await;
        maps.synced().await;
        let queue = context.queue::<String>();
        let adding = queue.clone();
        namespaces.on_event(move |event| {
            if !matches!(event, Event::Deleted(_)) {
                adding.add(event.object().metadata.name.clone().unwrap_or_default());
            }
        });
        let adding = queue.clone();
        maps.on_event(move |event| {
            adding.add(event.object().metadata.namespace.clone().unwrap_or_default());
        });
        let executor = Arc::new(context.executor("root-ca-cert-publisher"));
        queue
            .run("namespace", 1, move |name: String| {
                let executor = executor.clone();
                let plan = decide(
                    namespaces.get("", &name).as_deref(),
                    maps.get(&name, NAME).as_deref(),
                    &ca,
                );
                async move { carry_out(&executor, plan).await }
            })
            .await;
        Ok(())
    })
}

async fn carry_out(executor: &Executor, plan: Option<Action>) -> Result<Option<Duration>, String> {
    let Some(action) = plan else { return Ok(None) };
    match executor.one(action).await {
        // The cache is behind, or the namespace on its way out: an event will come, or nothing is left to do.
        Err(error) if error.is_already_exists() || error.is_namespace_terminating() || error.is_not_found() => Ok(None),
        Err(error) => Err(error.to_string()),
        Ok(_) => Ok(None),
    }
}

/// Pure: what to write so that the namespace's map says `ca`.
fn decide(namespace: Option<&Namespace>, found: Option<&ConfigMap>, ca: &str) -> Option<Action> {
    let namespace = namespace.filter(|n| is_active(n))?;
    let data = BTreeMap::from([(KEY.to_owned(), ca.to_owned())]);
    let Some(found) = found else {
        let map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                namespace: namespace.metadata.name.clone(),
                annotations: Some(BTreeMap::from([(DESCRIPTION.to_owned(), DESCRIPTION_TEXT.to_owned())])),
                ..ObjectMeta::default()
            },
            data: Some(data),
            ..ConfigMap::default()
        };
        return Some(Action::create(&map));
    };
    let described = found
        .metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get(DESCRIPTION))
        .is_some();
    if found.data.as_ref() == Some(&data) && described {
        return None;
    }
    let mut map = found.clone();
    map.data = Some(data);
    map.metadata
        .annotations
        .get_or_insert_default()
        .insert(DESCRIPTION.to_owned(), DESCRIPTION_TEXT.to_owned());
    Some(Action::update(&map))
}

#[cfg(test)]
mod tests {
    use super::*;
    use steersman_types::Typed;

    #[test]
    fn a_missing_or_changed_map_is_written_and_a_right_one_left_alone() {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some("ns".into());
        let Some(Action::Create { object, .. }) = decide(Some(&namespace), None, "CA") else {
            panic!("not created")
        };
        let mut map = ConfigMap::from_value(&object).unwrap_or_default();
        assert_eq!(decide(Some(&namespace), Some(&map), "CA"), None);
        map.data.get_or_insert_default().insert("ca.crt".into(), "other".into());
        assert!(matches!(
            decide(Some(&namespace), Some(&map), "CA"),
            Some(Action::Update { .. })
        ));
    }
}
