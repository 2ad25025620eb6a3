//! A pod's volumes on disk: made before its containers, refreshed while it runs, removed after it.
//!
//! Callers: the pod's worker ([`Volumes::setup`] each round, [`Volumes::teardown`] at the end) and the cleaner of
//! orphans. What stays true: `setup` is idempotent, so refreshing is setting up again; files change atomically;
//! everything of a pod lies under its own directory, laid out as upstream's.
//! Not here: persistent volumes and CSI.

pub mod atomic;
mod empty_dir;
mod host_path;
pub mod mounts;
mod ownership;
mod payload;
pub mod subpath;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use steersman_types::api::core::v1::Volume;
use steersman_types::jiff::Timestamp;

use crate::env::fields::PodFields;
use crate::pod;
use crate::sources::Objects;

/// A volume that could not be made, with upstream's message for the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeError {
    pub volume: String,
    pub message: String,
}

impl std::fmt::Display for VolumeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "MountVolume.SetUp failed for volume {:?} : {}",
            self.volume, self.message
        )
    }
}

/// Where a pod's volume is on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    pub path: PathBuf,
    /// Containers may only read it, whatever they ask.
    pub read_only: bool,
    /// The volume is an image: the runtime mounts it, and `path` is empty.
    pub image: bool,
}

/// By volume name.
pub type MountedVolumes = BTreeMap<String, Mounted>;

/// The volumes of all pods of this node.
pub struct Volumes {
    /// `<root-dir>/pods`.
    pods: PathBuf,
    objects: Arc<dyn Objects>,
}

impl Volumes {
    #[must_use]
    pub fn new(root: &Path, objects: Arc<dyn Objects>) -> Self {
        Self {
            pods: root.join("pods"),
            objects,
        }
    }

    /// `<root-dir>/pods/<uid>`.
    #[must_use]
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.pods.join(uid)
    }

    /// The pod's own directories.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn make_pod_dirs(&self, uid: &str) -> std::io::Result<()> {
        let dir = self.pod_dir(uid);
        for part in ["volumes", "plugins", "containers"] {
            std::fs::create_dir_all(dir.join(part))?;
        }
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o750))
    }

    /// Where a volume's files are, if they are on this node and the pod's own.
    #[must_use]
    pub fn folder(&self, uid: &str, volume: &Volume) -> Option<PathBuf> {
        let kind = if volume.empty_dir.is_some() {
            "empty-dir"
        } else if volume.config_map.is_some() {
            "configmap"
        } else if volume.secret.is_some() {
            "secret"
        } else if volume.downward_api.is_some() {
            "downward-api"
        } else if volume.projected.is_some() {
            "projected"
        } else {
            return None;
        };
        let folder = self.pod_dir(uid).join("volumes").join(format!("kubernetes.io~{kind}"));
        Some(folder.join(&volume.name))
    }

    /// Makes or refreshes all volumes of the pod.
    ///
    /// # Errors
    /// Every volume that failed; the others are there.
    pub async fn setup(&self, fields: &PodFields<'_>) -> Result<MountedVolumes, Vec<VolumeError>> {
        let volumes = pod::spec(fields.pod).volumes.as_deref().unwrap_or_default();
        let all = volumes
            .iter()
            .map(|v| async move { (v.name.clone(), self.one(v, fields).await) });
        let mut mounted = MountedVolumes::new();
        let mut errors = Vec::new();
        for (name, result) in futures::future::join_all(all).await {
            match result {
                Ok(volume) => {
                    mounted.insert(name, volume);
                }
                Err(message) => errors.push(VolumeError { volume: name, message }),
            }
        }
        if errors.is_empty() { Ok(mounted) } else { Err(errors) }
    }

    async fn one(&self, volume: &Volume, fields: &PodFields<'_>) -> Result<Mounted, String> {
        let dir = |kind: &str| {
            self.pod_dir(pod::uid(fields.pod))
                .join("volumes")
                .join(format!("kubernetes.io~{kind}"))
                .join(&volume.name)
        };
        let context = pod::spec(fields.pod).security_context.as_ref();
        let group = context.and_then(|c| c.fs_group);
        let memory = fields.allocatable.get("memory").copied().unwrap_or(0);
        if let Some(source) = &volume.empty_dir {
            let path = dir("empty-dir");
            empty_dir::setup(&path, source, group, memory).map_err(|e| e.to_string())?;
            return Ok(Mounted {
                path,
                read_only: false,
                image: false,
            });
        }
        if let Some(source) = &volume.host_path {
            host_path::check(Path::new(&source.path), source.type_.as_deref().unwrap_or_default())?;
            return Ok(Mounted {
                path: source.path.clone().into(),
                read_only: false,
                image: false,
            });
        }
        if volume.image.is_some() {
            return Ok(Mounted {
                path: PathBuf::new(),
                read_only: true,
                image: true,
            });
        }
        let (kind, in_memory) = if volume.config_map.is_some() {
            ("configmap", false)
        } else if volume.secret.is_some() {
            ("secret", true)
        } else if volume.downward_api.is_some() {
            ("downward-api", true)
        } else if volume.projected.is_some() {
            ("projected", true)
        } else {
            return Err("this agent does not support the volume's type".into());
        };
        let payload = payload::of(volume, fields, self.objects.as_ref()).await?;
        let path = dir(kind);
        let target = path.clone();
        let write = move || -> std::io::Result<()> {
            empty_dir::prepare(&target, in_memory.then_some(memory), group)?;
            atomic::write(&target, &payload, Timestamp::now(), |new| match group {
                Some(group) => ownership::apply(new, group, true),
                None => Ok(()),
            })?;
            Ok(())
        };
        tokio::task::spawn_blocking(write)
            .await
            .map_err(|e| e.to_string())?
            .map_err(|e| e.to_string())?;
        Ok(Mounted {
            path,
            read_only: true,
            image: false,
        })
    }

    /// Unmounts everything of the pod and removes its directory. Succeeds when nothing is there.
    ///
    /// # Errors
    /// When a mount is busy or a file cannot be removed; to be tried again.
    pub async fn teardown(&self, uid: &str) -> std::io::Result<()> {
        // What is removed is named by labels and directories: never more than one step below.
        if uid.is_empty() || uid.contains('/') || uid.starts_with('.') {
            return Err(std::io::Error::other(format!("{uid:?} is not a pod's uid")));
        }
        let dir = self.pod_dir(uid);
        let remove = move || -> std::io::Result<()> {
            mounts::unmount_below(&dir)?;
            match std::fs::remove_dir_all(&dir) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
                other => other,
            }
        };
        tokio::task::spawn_blocking(remove)
            .await
            .map_err(std::io::Error::other)?
    }

    /// The pods that have a directory.
    #[must_use]
    pub fn pods_on_disk(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.pods).into_iter().flatten().flatten();
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    }
}
