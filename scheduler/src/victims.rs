//! Carries out a preemption: the victims are told why they go, then they go.

use serde_json::json;
use steersman_runtime::events::{EventType, Recorder, reference};
use steersman_runtime::{ApiError, Client, DeleteOptions, Patch};
use steersman_types::api::core::v1::Pod;
use steersman_types::jiff::Timestamp;
use tracing::{info, warn};

use crate::pod::PodInfo;
use crate::preempt::Preemption;

/// Makes room for `pod`; failures are logged, since the next try finds out what is left to do.
pub async fn displace(client: &Client, recorder: &Recorder, scheduler: &str, pod: &PodInfo, room: &Preemption) {
    for victim in &room.victims {
        if victim.pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        match one(client, scheduler, victim).await {
            Err(error) if !(error.is_not_found() || error.is_conflict()) => {
                warn!(pod = %pod.key, victim = %victim.key, %error, "preempting failed");
            }
            Err(_) => {}
            Ok(()) => {
                info!(pod = %pod.key, victim = %victim.key, node = room.node, "preempted");
                let text = format!("Preempted by pod {} on node {}", pod.key.uid, room.node);
                recorder.event(&reference(&*victim.pod), EventType::Normal, "Preempted", &text);
            }
        }
    }
}

async fn one(client: &Client, scheduler: &str, victim: &PodInfo) -> Result<(), ApiError> {
    let (key, now) = (&victim.key, Timestamp::now());
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
        "message": format!("{scheduler}: preempting to accommodate a higher priority pod"),
        "lastTransitionTime": format!("{now:.0}"), "observedGeneration": victim.pod.metadata.generation,
    });
    let patch = Patch::Strategic(json!({"metadata": {"uid": key.uid}, "status": {"conditions": [condition]}}));
    client
        .patch::<Pod>(&patch, Some(&key.namespace), &key.name, Some("status"))
        .await?;
    client
        .delete::<Pod>(Some(&key.namespace), &key.name, &DeleteOptions::uid(&key.uid))
        .await
}

/// Takes back what lower-priority pods were promised on a node that somebody else gets now.
pub async fn clear_nomination(client: &Client, pod: &PodInfo) {
    let patch = Patch::Strategic(json!({"metadata": {"uid": pod.key.uid}, "status": {"nominatedNodeName": null}}));
    let done = client
        .patch::<Pod>(&patch, Some(&pod.key.namespace), &pod.key.name, Some("status"))
        .await;
    if let Err(error) = done
        && !(error.is_not_found() || error.is_conflict())
    {
        warn!(pod = %pod.key, %error, "clearing the nominated node failed");
    }
}
