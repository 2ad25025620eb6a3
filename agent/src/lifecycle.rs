//! postStart and preStop hooks.

use std::time::Duration;

use steersman_cri::Runtime;
use steersman_types::api::core::v1::{Container, LifecycleHandler};

use crate::probes::http::{Get, send};
use crate::probes::port_of;

/// Runs a hook to its end. No deadline of its own: postStart may take as long as it likes, preStop is cut by the caller.
///
/// # Errors
/// What went wrong, for the log; the event's text is upstream's fixed one.
pub async fn run(
    runtime: &dyn Runtime,
    id: &str,
    container: &Container,
    hook: &LifecycleHandler,
    pod_ip: Option<&String>,
) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.as_deref().unwrap_or_default();
        let done = runtime
            .exec_sync(id, command, Duration::ZERO)
            .await
            .map_err(|e| e.to_string())?;
        if done.exit_code == 0 {
            return Ok(());
        }
        let output = String::from_utf8_lossy(if done.stderr.is_empty() {
            &done.stdout
        } else {
            &done.stderr
        })
        .into_owned();
        return Err(format!(
            "command '{}' exited with {}: {output}",
            command.join(" "),
            done.exit_code
        ));
    }
    if let Some(get) = &hook.http_get {
        let port = port_of(&get.port, container).unwrap_or(80);
        let host = get.host.clone().filter(|h| !h.is_empty()).or_else(|| pod_ip.cloned());
        let host = host.ok_or("failed to find networking container: the pod has no address")?;
        let headers = get
            .http_headers
            .iter()
            .flatten()
            .map(|h| (h.name.clone(), h.value.clone()))
            .collect();
        let https = get.scheme.as_deref() == Some("HTTPS");
        let request = Get {
            https,
            host,
            port,
            path: get.path.clone().unwrap_or_default(),
            headers,
        };
        let answer = match send(&request).await {
            // A server that speaks plain HTTP on a port declared as HTTPS was served before hooks knew TLS.
            Err(_) if https => {
                send(&Get {
                    https: false,
                    ..request
                })
                .await
            }
            other => other,
        }?;
        return if (200..400).contains(&answer.status) {
            Ok(())
        } else {
            Err(format!("HTTP status {}", answer.status))
        };
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err("invalid handler".into())
}
