//! Every namespace has a service account `default`.
//!
//! Watches: namespaces, serviceaccounts. Writes: serviceaccounts. Nothing else: who deletes `default` gets a new one.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use steersman_runtime::Event;
use steersman_types::api::core::v1::{Namespace, ServiceAccount};

use crate::act::{Action, Executor};
use crate::context::Context;
use crate::namespace::is_active;

const NAME: &str = "default";

/// See the module.
#[must_use]
pub fn start(context: Context) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let namespaces = context.informers.of::<Namespace>();
        let accounts = context.informers.of::<ServiceAccount>();
        namespaces.synced().await;
        accounts.synced().await;
        let queue = context.queue::<String>();
        let adding = queue.clone();
        namespaces.on_event(move |event| {
            if !matches!(event, Event::Deleted(_)) {
                adding.add(event.object().metadata.name.clone().unwrap_or_default());
            }
        });
        let adding = queue.clone();
        accounts.on_event(move |event| {
            if matches!(event, Event::Deleted(_)) {
                adding.add(event.object().metadata.namespace.clone().unwrap_or_default());
            }
        });
        let executor = Arc::new(context.executor("service-account-controller"));
        queue
            .run("namespace", 1, move |name: String| {
                let executor = executor.clone();
                let plan = decide(
                    namespaces.get("", &name).as_deref(),
                    accounts.get(&name, NAME).is_some(),
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
        Err(error) if !error.is_already_exists() && !error.is_namespace_terminating() => Err(error.to_string()),
        _ => Ok(None),
    }
}

/// Pure: the account to create, if one is missing.
fn decide(namespace: Option<&Namespace>, exists: bool) -> Option<Action> {
    let namespace = namespace.filter(|n| is_active(n) && !exists)?;
    let mut account = ServiceAccount::default();
    account.metadata.name = Some(NAME.to_owned());
    account.metadata.namespace = namespace.metadata.name.clone();
    Some(Action::create(&account))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_namespace_that_stays_gets_an_account_and_only_one() {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some("ns".into());
        assert!(decide(Some(&namespace), false).is_some());
        assert!(decide(Some(&namespace), true).is_none());
        assert!(decide(None, false).is_none());
        namespace.status.get_or_insert_default().phase = Some("Terminating".into());
        assert!(decide(Some(&namespace), false).is_none());
    }
}
