//! Which credentials an image was pulled with: a pod that could not pull an image itself must not get it either, just
//! because another pod's credentials brought it to this node.
//!
//! Images that were there before the agent first pulled them (imported ones) are for everybody, as upstream's default
//! policy `NeverVerifyPreloadedImages` has it. Kept in a file, so that a restart of the agent forgets nothing; only
//! digests of credentials are written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use steersman_cri::v1::AuthConfig;

/// Who may use an image that the agent pulled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Access {
    /// It was pulled without credentials.
    everyone: bool,
    /// Digests of the credentials that worked.
    credentials: BTreeSet<String>,
}

/// By the runtime's image id.
pub struct Pulled {
    file: PathBuf,
    images: Mutex<BTreeMap<String, Access>>,
}

fn digest(auth: &AuthConfig) -> String {
    let mut hash = Sha256::new();
    for part in [
        &auth.username,
        &auth.password,
        &auth.identity_token,
        &auth.registry_token,
    ] {
        hash.update(part.len().to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Pulled {
    /// Reads what an earlier run knew.
    #[must_use]
    pub fn open(file: PathBuf) -> Self {
        let known = std::fs::read(&file).ok();
        let known = known.and_then(|text| serde_json::from_slice(&text).ok());
        Self {
            file,
            images: Mutex::new(known.unwrap_or_default()),
        }
    }

    /// Whether who has these credentials may use the image without asking the registry.
    #[must_use]
    pub fn may_use(&self, image: &str, own: &[AuthConfig]) -> bool {
        let images = self.images.lock();
        images
            .get(image)
            .is_none_or(|access| access.everyone || own.iter().any(|a| access.credentials.contains(&digest(a))))
    }

    /// The image was pulled with these credentials, or without any.
    pub fn add(&self, image: &str, auth: Option<&AuthConfig>) {
        let mut images = self.images.lock();
        let access = images.entry(image.to_owned()).or_default();
        let before = access.clone();
        match auth {
            Some(auth) => {
                access.credentials.insert(digest(auth));
            }
            None => access.everyone = true,
        }
        if *access != before {
            self.store(&images);
        }
    }

    /// The image is no longer on the node.
    pub fn remove(&self, image: &str) {
        let mut images = self.images.lock();
        if images.remove(image).is_some() {
            self.store(&images);
        }
    }

    fn store(&self, images: &BTreeMap<String, Access>) {
        let new = self.file.with_extension("new");
        let text = serde_json::to_vec(images).unwrap_or_default();
        let directory = self.file.parent().map_or(Ok(()), std::fs::create_dir_all);
        let written = directory
            .and_then(|()| std::fs::write(&new, text))
            .and_then(|()| std::fs::rename(&new, &self.file));
        if let Err(e) = written {
            tracing::warn!(file = %self.file.display(), error = %e, "Failed to remember how images were pulled");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_for_those_whose_credentials_brought_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("image_manager/pulled.json");
        let auth = |user: &str| AuthConfig {
            username: user.into(),
            password: "p".into(),
            ..Default::default()
        };
        let pulled = Pulled::open(file.clone());
        assert!(pulled.may_use("imported", &[]), "nobody pulled it");
        pulled.add("private", Some(&auth("a")));
        pulled.add("public", None);
        let pulled = Pulled::open(file);
        assert!(pulled.may_use("private", &[auth("b"), auth("a")]));
        assert!(!pulled.may_use("private", &[auth("b")]) && !pulled.may_use("private", &[]));
        assert!(pulled.may_use("public", &[]));
        pulled.remove("private");
        assert!(pulled.may_use("private", &[]));
    }
}
