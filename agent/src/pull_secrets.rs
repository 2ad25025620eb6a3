//! Registry credentials from the pod's `imagePullSecrets`.

use base64::Engine as _;
use steersman_cri::v1::AuthConfig;
use steersman_types::api::core::v1::{Pod, Secret};

use crate::pod;
use crate::sources::Objects;

/// Credentials that fit the image's registry, in the order of the pod's secrets. Secrets that are missing or malformed
/// give none: the pull then says what is wrong.
pub async fn credentials(objects: &dyn Objects, pod: &Pod, image: &str) -> Vec<AuthConfig> {
    let mut found = Vec::new();
    for reference in pod::spec(pod).image_pull_secrets.iter().flatten() {
        if let Ok(Some(secret)) = objects.secret(pod::namespace(pod), &reference.name).await {
            found.extend(of_secret(&secret, image));
        }
    }
    found
}

/// The registry's host and the repository, as credentials name them.
fn repository(image: &str) -> String {
    let name = image.split('@').next().unwrap_or_default();
    match name.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}

fn of_secret(secret: &Secret, image: &str) -> Vec<AuthConfig> {
    let data = secret.data.as_ref();
    let parsed = match data.and_then(|d| d.get(".dockerconfigjson")) {
        Some(json) => serde_json::from_slice::<serde_json::Value>(&json.0)
            .ok()
            .map(|v| v["auths"].clone()),
        None => data
            .and_then(|d| d.get(".dockercfg"))
            .and_then(|json| serde_json::from_slice(&json.0).ok()),
    };
    let repository = repository(image);
    let mut fitting: Vec<(usize, AuthConfig)> = Vec::new();
    for (server, auth) in parsed.as_ref().and_then(|v| v.as_object()).into_iter().flatten() {
        let plain = server
            .trim_start_matches("https://")
            .trim_start_matches("http://")
            .trim_end_matches('/');
        let plain = plain
            .trim_end_matches("/v1")
            .trim_end_matches("/v2")
            .replace("index.docker.io", "docker.io");
        if repository == plain || repository.starts_with(&format!("{plain}/")) {
            fitting.push((plain.len(), one(auth)));
        }
    }
    // The longest match is the most specific.
    fitting.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    fitting.into_iter().map(|(_, auth)| auth).collect()
}

fn one(auth: &serde_json::Value) -> AuthConfig {
    let text = |key: &str| auth[key].as_str().unwrap_or_default().to_owned();
    let (mut username, mut password) = (text("username"), text("password"));
    let decoded = base64::engine::general_purpose::STANDARD.decode(text("auth")).ok();
    if let Some((user, pass)) = decoded
        .as_deref()
        .and_then(|d| std::str::from_utf8(d).ok())
        .and_then(|d| d.split_once(':'))
    {
        username = user.to_owned();
        password = pass.trim_end_matches('\0').to_owned();
    }
    AuthConfig {
        username,
        password,
        identity_token: text("identitytoken"),
        registry_token: text("registrytoken"),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::fake::FakeObjects;
    use steersman_types::Typed;

    #[tokio::test]
    async fn credentials_of_the_images_registry_are_chosen() {
        let config = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"YTpi"},"reg.example:5000/team":{"username":"c","password":"d"}}}"#;
        let objects = FakeObjects::default().with_secret("ns", "s", &[(".dockerconfigjson", config)]);
        let pod = Pod::from_value(&serde_json::json!({"metadata": {"namespace": "ns"},
            "spec": {"containers": [], "imagePullSecrets": [{"name": "s"}, {"name": "missing"}]}}))
        .unwrap();
        for (image, user) in [
            ("busybox", Some("a")),
            ("reg.example:5000/team/app:1", Some("c")),
            ("reg.example:5000/other", None),
        ] {
            let found = credentials(&objects, &pod, image).await;
            assert_eq!(found.first().map(|a| a.username.as_str()), user, "{image}");
        }
    }
}
