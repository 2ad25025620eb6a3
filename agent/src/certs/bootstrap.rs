//! The first client certificate: with the credentials of a bootstrap kubeconfig, a certificate of the node's own is asked
//! for, and a kubeconfig written that names it.

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest, Sha512_256};
use steersman_runtime::Client;
use steersman_runtime::pki::SigningKey;
use steersman_runtime::pki::request::{facts, public_key};
use steersman_runtime::serve::tls::Serving;
use steersman_types::jiff::Timestamp;

use super::Wish;
use super::request::ask;
use super::store::Store;

const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(10);

fn load(path: &Path) -> Result<Value, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("open {}: {e}", path.display()))?;
    serde_saphyr::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))
}

/// What the current context of a kubeconfig names in one of its lists.
fn named<'a>(config: &'a Value, list: &str, entry: &str, context_field: &str) -> Option<&'a Value> {
    let find = |list: &str, name: &Value| config[list].as_array()?.iter().find(|e| e["name"] == *name);
    let context = find("contexts", &config["current-context"])?;
    Some(&find(list, &context["context"][context_field])?[entry])
}

/// The client certificate that a kubeconfig names, without its key.
#[must_use]
pub fn identity_of(kubeconfig: &Path) -> Option<Serving> {
    let config = load(kubeconfig).ok()?;
    let user = named(&config, "users", "user", "user")?;
    let inline = user["client-certificate-data"]
        .as_str()
        .and_then(|d| STANDARD.decode(d).ok());
    let file = || {
        let path = Path::new(user["client-certificate"].as_str()?);
        let folder = kubeconfig.parent().unwrap_or(Path::new("/"));
        std::fs::read(folder.join(path)).ok()
    };
    Some(Serving {
        certificate: inline.or_else(file)?,
        key: Vec::new(),
    })
}

/// Whether the kubeconfig has a client certificate that has not expired.
#[must_use]
pub fn still_valid(kubeconfig: &Path, now: Timestamp) -> bool {
    let found = identity_of(kubeconfig).and_then(|i| facts(&i.certificate));
    found.is_some_and(|f| f.not_after > now)
}

/// A kubeconfig for the same cluster with the certificate and key in that file. Names are upstream's.
fn kubeconfig(bootstrap: &Value, folder: &Path, identity: &Path) -> Result<Value, String> {
    let cluster = named(bootstrap, "clusters", "cluster", "cluster");
    let mut cluster = cluster.ok_or("the bootstrap kubeconfig names no cluster")?.clone();
    if let Some(ca) = cluster["certificate-authority"].as_str() {
        cluster["certificate-authority"] = folder.join(ca).display().to_string().into();
    }
    let identity = identity.display().to_string();
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "default-cluster", "cluster": cluster}],
        "contexts": [{"name": "default-context",
            "context": {"cluster": "default-cluster", "namespace": "default", "user": "default-auth"}}],
        "current-context": "default-context",
        "users": [{"name": "default-auth", "user": {"client-certificate": identity, "client-key": identity}}],
    }))
}

/// The request's name follows from its key and subject: who asks again with the same finds what he asked before.
fn name(public_key: &[u8], wish: &Wish) -> String {
    let mut hash = Sha512_256::new();
    let subject = [
        wish.subject.common_name.as_bytes(),
        wish.subject.organization.as_bytes(),
    ];
    let usages = wish.usages.iter().map(|u| u.as_bytes());
    for part in std::iter::once(public_key).chain(subject).chain(usages) {
        hash.update(URL_SAFE_NO_PAD.encode(part));
        hash.update("|");
    }
    format!("node-csr-{}", URL_SAFE_NO_PAD.encode(hash.finalize()))
}

/// Gets the certificate, however long that takes, and writes the kubeconfig.
///
/// # Errors
/// When the bootstrap kubeconfig is unusable or files cannot be written; one line.
pub async fn run(bootstrap: &Path, target: &Path, cert_dir: &Path, node: &str, agent: &str) -> Result<(), String> {
    let why = |e: String| format!("unable to load bootstrap kubeconfig: {e}");
    let config = load(bootstrap).map_err(why)?;
    let folder = bootstrap.parent().unwrap_or(Path::new("/"));
    let store = Store::new(cert_dir, "kubelet-client");
    let target_config = kubeconfig(&config, folder, &store.current_path())?;
    let client = Client::from_kubeconfig(bootstrap, agent)
        .await
        .map_err(|e| why(e.to_string()))?;
    let wish = super::client(node);
    let key = kept_key(cert_dir)?;
    let public = SigningKey::from_pem(key.as_bytes()).and_then(|k| public_key(&k));
    let name = name(&public.map_err(|e| e.to_string())?, &wish);
    let mut retry = RETRY;
    let issued = loop {
        match ask(&client, &wish, &key, Some(&name)).await {
            Ok(issued) => break issued,
            Err(e) => tracing::warn!(error = e, "Bootstrapping the client certificate failed, will retry"),
        }
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(RETRY_MAX);
    };
    let failed = |e: std::io::Error| format!("failed to write the client certificate or kubeconfig: {e}");
    store.update(&issued, Timestamp::now()).map_err(failed)?;
    write_private(target, target_config.to_string().as_bytes()).map_err(failed)?;
    let _ = std::fs::remove_file(cert_dir.join(KEY));
    tracing::info!("The node has a client certificate of its own");
    Ok(())
}

/// The key is kept until its certificate is there: a restart in between asks for the same.
const KEY: &str = "kubelet-client.key.tmp";

fn kept_key(dir: &Path) -> Result<String, String> {
    let path = dir.join(KEY);
    if let Ok(key) = std::fs::read_to_string(&path)
        && SigningKey::from_pem(key.as_bytes()).is_ok()
    {
        return Ok(key);
    }
    let (_, key) = SigningKey::generate().map_err(|e| e.to_string())?;
    write_private(&path, key.as_bytes()).map_err(|e| format!("open {}: {e}", path.display()))?;
    Ok(key)
}

fn write_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let new = path.with_extension("new");
    let mut out = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    out.write_all(content)?;
    out.sync_all()?;
    std::fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOTSTRAP: &str = "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: k, user: u}}]\n\
        clusters: [{name: k, cluster: {server: 'https://h:6443', certificate-authority: ca.crt}}]\nusers: [{name: u, user: {token: t}}]\n";

    #[test]
    fn the_new_kubeconfig_has_the_cluster_and_the_certificate() {
        let config: Value = serde_saphyr::from_str(BOOTSTRAP).unwrap();
        let made = kubeconfig(
            &config,
            Path::new("/etc/b"),
            Path::new("/pki/kubelet-client-current.pem"),
        )
        .unwrap();
        assert_eq!(made["clusters"][0]["cluster"]["certificate-authority"], "/etc/b/ca.crt");
        assert_eq!(
            named(&made, "users", "user", "user").unwrap()["client-key"],
            "/pki/kubelet-client-current.pem"
        );
        assert!(kubeconfig(&json!({}), Path::new("/"), Path::new("/x")).is_err());
    }

    #[test]
    fn a_kubeconfig_without_certificate_is_not_valid() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        assert!(!still_valid(&path, Timestamp::UNIX_EPOCH));
        std::fs::write(&path, BOOTSTRAP).unwrap();
        assert!(!still_valid(&path, Timestamp::UNIX_EPOCH));
    }

    #[test]
    fn the_key_is_kept_and_the_name_follows_from_it() {
        let dir = tempfile::tempdir().unwrap();
        let key = kept_key(dir.path()).unwrap();
        assert_eq!(kept_key(dir.path()).unwrap(), key);
        let public = public_key(&SigningKey::from_pem(key.as_bytes()).unwrap()).unwrap();
        let wish = super::super::client("n");
        assert_eq!(name(&public, &wish), name(&public, &wish));
        assert!(name(&public, &wish).starts_with("node-csr-") && name(&public, &wish).len() == 9 + 43);
        assert_ne!(name(&public, &wish), name(&public, &super::super::client("m")));
    }
}
