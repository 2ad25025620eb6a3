//! `/containerLogs/<namespace>/<pod>/<container>`.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::{Response, StatusCode};
use steersman_cri::v1;
use steersman_types::api::core::v1::{ContainerStatus, Pod};
use steersman_types::jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;

use super::{Body, Server, query, text};
use crate::logs::read::{LogOptions, send};
use crate::pod;
use crate::runtime::container::log_path;
use crate::runtime::sandbox::log_directory;

/// Answers with the log as it is read; an error after that ends the stream.
pub async fn serve(server: &Arc<Server>, namespace: &str, name: &str, container: &str, raw: &str) -> Response<Body> {
    let pairs = query::pairs(raw);
    let options = match options(&pairs, Timestamp::now()) {
        Ok(options) => options,
        Err(e) => return text(StatusCode::BAD_REQUEST, &e),
    };
    let Some(found) = server.pods.find(namespace, name) else {
        return text(StatusCode::NOT_FOUND, &format!("pod {name:?} does not exist\n"));
    };
    if pod::find_container(&found, container).is_none() {
        let message = format!("container {container:?} not found in pod {name:?}\n");
        return text(StatusCode::NOT_FOUND, &message);
    }
    let chosen = match choose(server, &found, container, query::flag(&pairs, "previous")).await {
        Ok(chosen) => chosen,
        Err(message) => return text(StatusCode::BAD_REQUEST, &message),
    };
    if let Err(e) = tokio::fs::metadata(&chosen.path).await {
        return text(
            StatusCode::INTERNAL_SERVER_ERROR,
            &format!("failed to try resolving symlinks in path: {e}"),
        );
    }
    let (out, chunks) = mpsc::channel::<Bytes>(16);
    let server = server.clone();
    tokio::spawn(async move {
        let id = chosen.id.clone();
        let ended = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let watcher = options
            .follow
            .then(|| tokio::spawn(wait_for_end(server, id, ended.clone())));
        let finished = move || ended.load(std::sync::atomic::Ordering::SeqCst);
        if let Err(e) = send(&chosen.path, &options, finished, &out).await {
            tracing::warn!(path = %chosen.path.display(), error = %e, "Failed to read a container's log");
        }
        if let Some(watcher) = watcher {
            watcher.abort();
        }
    });
    let frames = tokio_stream::wrappers::ReceiverStream::new(chunks).map(|c| Ok::<_, std::io::Error>(Frame::data(c)));
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    response
}

/// Asks now and then whether the container still runs.
async fn wait_for_end(server: Arc<Server>, id: String, ended: Arc<std::sync::atomic::AtomicBool>) {
    loop {
        let running = match server.context.runtime.container_status(&id).await {
            Ok(status) => status.state == v1::ContainerState::ContainerRunning as i32,
            Err(e) => !e.is_not_found(),
        };
        if !running {
            ended.store(true, std::sync::atomic::Ordering::SeqCst);
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
}

struct Chosen {
    id: String,
    path: PathBuf,
}

/// The container instance whose log is wanted.
async fn choose(server: &Server, found: &Pod, container: &str, previous: bool) -> Result<Chosen, String> {
    let name = pod::name(found);
    let label_selector = [(crate::runtime::labels::POD_UID.to_owned(), pod::uid(found).to_owned())].into();
    let filter = v1::ContainerFilter {
        label_selector,
        ..Default::default()
    };
    let mut all = server
        .context
        .runtime
        .list_containers(filter)
        .await
        .map_err(|e| e.to_string())?;
    all.retain(|c| c.metadata.as_ref().is_some_and(|m| m.name == container));
    all.sort_by_key(|c| std::cmp::Reverse(c.created_at));
    let ended = |c: &&v1::Container| c.state == v1::ContainerState::ContainerExited as i32;
    let instance = if previous {
        let newest_ended = all.first().is_some_and(|c| ended(&c)) && waiting(found, container).is_some();
        let skip = usize::from(!newest_ended);
        all.iter().skip(skip).find(ended)
    } else {
        all.iter()
            .find(|c| c.state != v1::ContainerState::ContainerCreated as i32)
    };
    let Some(instance) = instance else {
        if previous {
            return Err(format!(
                "previous terminated container {container:?} in pod {name:?} not found"
            ));
        }
        let why = match waiting(found, container).as_deref() {
            Some("ErrImagePull") => "image can't be pulled".to_owned(),
            Some("ImagePullBackOff") => "trying and failing to pull image".to_owned(),
            Some(reason) => reason.to_owned(),
            None => return Err(format!("container {container:?} in pod {name:?} is not available")),
        };
        return Err(format!(
            "container {container:?} in pod {name:?} is waiting to start: {why}"
        ));
    };
    let attempt = instance
        .metadata
        .as_ref()
        .map_or(0, |m| i32::try_from(m.attempt).unwrap_or(0));
    let path = log_directory(&server.context.pod_logs, found).join(log_path(container, attempt));
    Ok(Chosen {
        id: instance.id.clone(),
        path,
    })
}

fn waiting(found: &Pod, container: &str) -> Option<String> {
    let status = found.status.as_ref()?;
    let lists = [
        &status.container_statuses,
        &status.init_container_statuses,
        &status.ephemeral_container_statuses,
    ];
    let own: Option<&ContainerStatus> = lists.into_iter().flatten().flatten().find(|s| s.name == container);
    own?.state.as_ref()?.waiting.as_ref()?.reason.clone()
}

fn options(pairs: &[(String, String)], now: Timestamp) -> Result<LogOptions, String> {
    let number = |name: &str| -> Result<Option<i64>, String> {
        match query::get(pairs, name) {
            None | Some("") => Ok(None),
            Some(text) => text
                .parse()
                .map(Some)
                .map_err(|_| format!("{name}: invalid number {text:?}\n")),
        }
    };
    let seconds = number("sinceSeconds")?;
    let since_time = match query::get(pairs, "sinceTime") {
        None | Some("") => None,
        Some(text) => Some(text.parse::<Timestamp>().map_err(|e| format!("sinceTime: {e}\n"))?),
    };
    let since_seconds = seconds.and_then(|s| now.checked_sub(SignedDuration::from_secs(s)).ok());
    Ok(LogOptions {
        follow: query::flag(pairs, "follow"),
        timestamps: query::flag(pairs, "timestamps"),
        tail: number("tailLines")?,
        since: since_time.or(since_seconds),
        limit_bytes: number("limitBytes")?.and_then(|n| u64::try_from(n).ok()),
        only_stdout: match query::get(pairs, "stream") {
            Some("Stdout") => Some(true),
            Some("Stderr") => Some(false),
            _ => None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_become_options() {
        let now = Timestamp::from_second(1000).unwrap();
        let read = |q: &str| options(&query::pairs(q), now);
        let all = read("follow=true&timestamps=1&tailLines=5&sinceSeconds=10&limitBytes=7&stream=Stderr").unwrap();
        let expected = LogOptions {
            follow: true,
            timestamps: true,
            tail: Some(5),
            since: Some(Timestamp::from_second(990).unwrap()),
            limit_bytes: Some(7),
            only_stdout: Some(false),
        };
        assert_eq!(all, expected);
        assert!(read("tailLines=x").is_err());
        assert!(read("sinceTime=yesterday").is_err());
    }
}
