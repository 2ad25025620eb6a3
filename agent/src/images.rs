//! Gets an image onto the node before a container starts.
//!
//! Callers: the worker. Pull policies, events and texts are upstream's. Failed pulls back off per pod and image, 10 s
//! to 5 min. How many pulls run at once is bounded (`serializeImagePulls`, `maxParallelImagePulls`).

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use steersman_cri::{CriError, Runtime, v1};
use steersman_types::api::core::v1::Pod;
use steersman_types::jiff::Timestamp;
use tokio::sync::Semaphore;

use crate::events::PodEvents;
use crate::pod;
use crate::pod::backoff::{Backoff, MAX};
use crate::pod::seen::Trouble;
use crate::pulled::Pulled;
use crate::runtime::security::ImageUser;

/// Parallel pulls without a limit in the configuration are limited all the same.
const MANY: usize = 64;

/// An image that is on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// The runtime's name for it.
    pub id: String,
    pub user: ImageUser,
}

/// What to get: a container's image, or that of a volume.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub image: &'a str,
    /// `None` for the default, which the tag decides.
    pub policy: Option<&'a str>,
    /// Which container the events are about; `None` for the pod.
    pub container: Option<&'a str>,
}

/// Pulls images for all pods.
pub struct Images {
    runtime: Arc<dyn Runtime>,
    pulls: Semaphore,
    pulled: Pulled,
    /// By pod uid and image: back-off and the last error.
    failed: Mutex<HashMap<(String, String), (Backoff, String)>>,
}

impl Images {
    /// `parallel` pulls at a time; `None` for no limit that matters. `root` is the agent's directory.
    #[must_use]
    pub fn new(runtime: Arc<dyn Runtime>, parallel: Option<usize>, root: &Path) -> Self {
        Self {
            runtime,
            pulled: Pulled::open(root.join("image_manager/pulled.json")),
            pulls: Semaphore::new(parallel.unwrap_or(MANY)),
            failed: Mutex::default(),
        }
    }

    /// Makes sure that an image is here.
    ///
    /// # Errors
    /// Reason and message of the container's waiting state.
    pub async fn ensure(
        &self,
        pod: &Pod,
        asked: &Wanted<'_>,
        events: &PodEvents,
        sandbox: &v1::PodSandboxConfig,
        auth: &[v1::AuthConfig],
    ) -> Result<Present, Trouble> {
        let (wanted, name) = (asked.image, asked.container);
        let image = with_tag(wanted).ok_or_else(|| {
            let message = format!("Failed to apply default image tag {wanted:?}: couldn't parse image name {wanted:?}: invalid reference format");
            events.warning(name, "InspectFailed", &message);
            Trouble { reason: "InvalidImageName".into(), message }
        })?;
        let policy = asked.policy.unwrap_or(default_policy(&image));
        if policy != "Always" {
            let found = self.inspect(&image).await.map_err(|e| {
                let message = format!("Failed to inspect image {image:?}: {e}");
                events.warning(name, "InspectFailed", &message);
                Trouble {
                    reason: "ImageInspectError".into(),
                    message,
                }
            })?;
            let found = found.filter(|found| self.pulled.may_use(&found.id, auth));
            if let Some(found) = found {
                let text =
                    format!("Container image {wanted:?} already present on machine and can be accessed by the pod");
                events.normal(name, "Pulled", &text);
                return Ok(found);
            }
            if policy == "Never" {
                let message = format!("Container image {wanted:?} is not present with pull policy of Never");
                events.warning(name, "ErrImageNeverPull", &message);
                return Err(Trouble {
                    reason: "ErrImageNeverPull".into(),
                    message,
                });
            }
        }
        self.pull(pod, wanted, &image, name, events, sandbox, auth).await
    }

    async fn inspect(&self, image: &str) -> Result<Option<Present>, CriError> {
        Ok(self.runtime.image_status(image).await?.map(|found| Present {
            user: ImageUser {
                uid: found.uid.map(|u| u.value),
                name: found.username,
            },
            id: found.id,
        }))
    }

    #[allow(clippy::too_many_arguments)]
    async fn pull(
        &self,
        pod: &Pod,
        wanted: &str,
        image: &str,
        container: Option<&str>,
        events: &PodEvents,
        sandbox: &v1::PodSandboxConfig,
        auth: &[v1::AuthConfig],
    ) -> Result<Present, Trouble> {
        let key = (pod::uid(pod).to_owned(), wanted.to_owned());
        let now = Timestamp::now();
        let earlier = self.failed.lock().get(&key).cloned();
        if let Some((backoff, last)) = &earlier
            && backoff.until(backoff.raised, now, MAX).is_some()
        {
            let message = format!("Back-off pulling image {wanted:?}");
            events.normal(container, "BackOff", &message);
            return Err(Trouble {
                reason: "ImagePullBackOff".into(),
                message: format!("{message}: {last}"),
            });
        }
        events.normal(container, "Pulling", &format!("Pulling image {wanted:?}"));
        let asked = Instant::now();
        let permit = self.pulls.acquire().await;
        let started = Instant::now();
        let mut result = Err(None);
        let mut used = None;
        // Without credentials last: a public image needs none.
        for auth in auth
            .iter()
            .map(Some)
            .chain(if auth.is_empty() { vec![None] } else { Vec::new() })
        {
            result = self
                .runtime
                .pull_image(image, auth.cloned(), sandbox.clone())
                .await
                .map_err(Some);
            if result.is_ok() {
                used = auth;
                break;
            }
        }
        drop(permit);
        let pulled = match result {
            Ok(reference) => self.inspect(&reference).await.map_err(|e| e.to_string()),
            Err(e) => Err(e.map(|e| e.to_string()).unwrap_or_default()),
        };
        match pulled {
            Ok(Some(found)) => {
                self.failed.lock().remove(&key);
                self.pulled.add(&found.id, used);
                let size = self
                    .runtime
                    .image_status(&found.id)
                    .await
                    .ok()
                    .flatten()
                    .map_or(0, |i| i.size);
                events.normal(
                    container,
                    "Pulled",
                    &format!(
                        "Successfully pulled image {wanted:?} in {} ({} including waiting). Image size: {size} bytes.",
                        millis(started),
                        millis(asked)
                    ),
                );
                Ok(found)
            }
            other => {
                let error = other.err().unwrap_or_else(|| "the pulled image is gone".into());
                events.warning(
                    container,
                    "Failed",
                    &format!("Failed to pull image {wanted:?}: {error}"),
                );
                let now = Timestamp::now();
                let next = Backoff::next(earlier.map(|e| e.0).as_ref(), now, now, MAX);
                self.failed.lock().insert(key, (next, format!("ErrImagePull: {error}")));
                Err(Trouble {
                    reason: "ErrImagePull".into(),
                    message: error,
                })
            }
        }
    }

    /// When the pod's next pull may be tried, if one waits.
    #[must_use]
    pub fn next_try(&self, pod: &Pod) -> Option<Timestamp> {
        let failed = self.failed.lock();
        let of_pod = failed.iter().filter(|((uid, _), _)| uid == pod::uid(pod));
        of_pod
            .filter_map(|(_, (b, _))| b.raised.checked_add(b.delay).ok())
            .min()
    }

    /// The image was removed from the node.
    pub fn removed(&self, id: &str) {
        self.pulled.remove(id);
    }

    /// The pod is gone.
    pub fn forget(&self, uid: &str) {
        self.failed.lock().retain(|(u, _), _| u != uid);
    }
}

fn millis(since: Instant) -> String {
    let ms = since.elapsed().as_millis();
    if ms < 1000 {
        format!("{ms}ms")
    } else {
        format!("{}.{:03}s", ms / 1000, ms % 1000)
    }
}

/// Adds `:latest` to a name without tag or digest; `None` for what is no image name.
#[must_use]
pub fn with_tag(image: &str) -> Option<String> {
    let ok = |c: char| c.is_ascii_alphanumeric() || "._-/:@[]+".contains(c);
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let last = name.rsplit('/').next().unwrap_or_default();
    let (last_name, tag) = match last.split_once(':') {
        Some((n, t)) => (n, Some(t)),
        None => (last, None),
    };
    let lower = !last_name.chars().any(|c| c.is_ascii_uppercase());
    let starts = last_name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if image.is_empty() || !image.chars().all(ok) || !lower || !starts || tag == Some("") || digest == Some("") {
        return None;
    }
    if tag.is_some() || digest.is_some() {
        Some(image.to_owned())
    } else {
        Some(format!("{image}:latest"))
    }
}

fn default_policy(image: &str) -> &'static str {
    if image.ends_with(":latest") {
        "Always"
    } else {
        "IfNotPresent"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_the_default_tag_and_nonsense_is_refused() {
        for (image, full) in [
            ("busybox", Some("busybox:latest")),
            ("localhost:5000/a/b", Some("localhost:5000/a/b:latest")),
            ("a/b:1", Some("a/b:1")),
            ("a@sha256:00", Some("a@sha256:00")),
            ("", None),
            ("a b", None),
            ("UPPER", None),
            ("a:", None),
        ] {
            assert_eq!(with_tag(image).as_deref(), full, "{image}");
        }
    }
}
