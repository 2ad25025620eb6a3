//! The files of configMap, secret, downwardAPI and projected volumes.

use steersman_types::api::core::v1::{
    ConfigMapVolumeSource, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, SecretVolumeSource, Volume,
    VolumeProjection,
};

use super::atomic::{FileSpec, Payload};
use crate::env::fields::{PodFields, pod_field, resource_field};
use crate::pod;
use crate::sources::Objects;

/// When a source says nothing.
const DEFAULT_MODE: i32 = 0o644;
/// A token without `expirationSeconds`.
const DEFAULT_TOKEN_SECONDS: i64 = 3600;

/// The files that the volume holds now.
///
/// # Errors
/// Upstream's text for what is missing.
pub async fn of(volume: &Volume, fields: &PodFields<'_>, objects: &dyn Objects) -> Result<Payload, String> {
    let mut files = Payload::new();
    if let Some(source) = &volume.config_map {
        config_map(
            source,
            source.default_mode.unwrap_or(DEFAULT_MODE),
            fields.pod,
            objects,
            &mut files,
        )
        .await?;
    } else if let Some(source) = &volume.secret {
        secret(
            source,
            source.default_mode.unwrap_or(DEFAULT_MODE),
            fields.pod,
            objects,
            &mut files,
        )
        .await?;
    } else if let Some(source) = &volume.downward_api {
        let items = source.items.as_deref().unwrap_or_default();
        downward(items, source.default_mode.unwrap_or(DEFAULT_MODE), fields, &mut files)?;
    } else if let Some(source) = &volume.projected {
        projected(source, fields, objects, &mut files).await?;
    }
    Ok(files)
}

async fn projected(
    source: &ProjectedVolumeSource,
    fields: &PodFields<'_>,
    objects: &dyn Objects,
    files: &mut Payload,
) -> Result<(), String> {
    let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
    for part in source.sources.iter().flatten() {
        if let Some(s) = &part.config_map {
            let source = ConfigMapVolumeSource {
                name: s.name.clone(),
                items: s.items.clone(),
                optional: s.optional,
                ..Default::default()
            };
            config_map(&source, mode, fields.pod, objects, files).await?;
        } else if let Some(s) = &part.secret {
            let name = Some(s.name.clone());
            let source = SecretVolumeSource {
                secret_name: name,
                items: s.items.clone(),
                optional: s.optional,
                ..Default::default()
            };
            secret(&source, mode, fields.pod, objects, files).await?;
        } else if let Some(s) = &part.downward_api {
            downward(s.items.as_deref().unwrap_or_default(), mode, fields, files)?;
        } else {
            token(part, mode, fields.pod, objects, files).await?;
        }
    }
    Ok(())
}

async fn token(
    part: &VolumeProjection,
    mode: i32,
    pod: &Pod,
    objects: &dyn Objects,
    files: &mut Payload,
) -> Result<(), String> {
    let Some(source) = &part.service_account_token else {
        return Err("this agent does not support a source of the projected volume".into());
    };
    let seconds = source.expiration_seconds.unwrap_or(DEFAULT_TOKEN_SECONDS);
    let text = objects
        .token(pod, source.audience.as_deref().unwrap_or_default(), seconds)
        .await?;
    let user = common_user(pod);
    let group = pod::spec(pod).security_context.as_ref().and_then(|c| c.fs_group);
    // A token is for its owner only, if there is one; upstream's rule.
    let mode = if user.is_some() || group.is_some() { 0o600 } else { mode };
    put(
        files,
        &source.path,
        text.into_bytes(),
        mode,
        user.and_then(|u| u32::try_from(u).ok()),
    );
    Ok(())
}

/// The user that all containers run as, if the spec says one.
fn common_user(pod: &Pod) -> Option<i64> {
    let default = pod::spec(pod).security_context.as_ref().and_then(|c| c.run_as_user);
    let mut users =
        pod::all_containers(pod).map(|(_, c)| c.security_context.as_ref().and_then(|s| s.run_as_user).or(default));
    let first = users.next()??;
    users.all(|u| u == Some(first)).then_some(first)
}

fn put(files: &mut Payload, path: &str, data: Vec<u8>, mode: i32, user: Option<u32>) {
    files.insert(
        path.to_owned(),
        FileSpec {
            data,
            mode: u32::try_from(mode).unwrap_or(0o644),
            user,
        },
    );
}

async fn config_map(
    source: &ConfigMapVolumeSource,
    mode: i32,
    pod: &Pod,
    objects: &dyn Objects,
    files: &mut Payload,
) -> Result<(), String> {
    let optional = source.optional == Some(true);
    let Some(map) = objects.config_map(pod::namespace(pod), &source.name).await? else {
        return if optional {
            Ok(())
        } else {
            Err(format!("configmap {:?} not found", source.name))
        };
    };
    let text = map.data.iter().flatten().map(|(k, v)| (k.as_str(), v.as_bytes()));
    let binary = map
        .binary_data
        .iter()
        .flatten()
        .map(|(k, v)| (k.as_str(), v.0.as_slice()));
    let all: Vec<(&str, &[u8])> = text.chain(binary).collect();
    choose(
        &all,
        source.items.as_deref(),
        mode,
        optional,
        "references non-existent config key",
        files,
    )
}

async fn secret(
    source: &SecretVolumeSource,
    mode: i32,
    pod: &Pod,
    objects: &dyn Objects,
    files: &mut Payload,
) -> Result<(), String> {
    let optional = source.optional == Some(true);
    let name = source.secret_name.as_deref().unwrap_or_default();
    let Some(secret) = objects.secret(pod::namespace(pod), name).await? else {
        return if optional {
            Ok(())
        } else {
            Err(format!("secret {name:?} not found"))
        };
    };
    let all: Vec<(&str, &[u8])> = secret
        .data
        .iter()
        .flatten()
        .map(|(k, v)| (k.as_str(), v.0.as_slice()))
        .collect();
    choose(
        &all,
        source.items.as_deref(),
        mode,
        optional,
        "references non-existent secret key",
        files,
    )
}

/// All keys, or the chosen ones under their paths.
fn choose(
    all: &[(&str, &[u8])],
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
    missing: &str,
    files: &mut Payload,
) -> Result<(), String> {
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        for (key, data) in all {
            put(files, key, data.to_vec(), mode, None);
        }
        return Ok(());
    };
    for item in items {
        match all.iter().find(|(key, _)| *key == item.key) {
            Some((_, data)) => put(files, &item.path, data.to_vec(), item.mode.unwrap_or(mode), None),
            None if optional => {}
            None => return Err(format!("{missing}: {}", item.key)),
        }
    }
    Ok(())
}

fn downward(
    items: &[DownwardAPIVolumeFile],
    mode: i32,
    fields: &PodFields<'_>,
    files: &mut Payload,
) -> Result<(), String> {
    for item in items {
        let text = if let Some(field) = &item.field_ref {
            pod_field(fields, &field.field_path)?
        } else if let Some(wanted) = &item.resource_field_ref {
            let name = wanted.container_name.as_deref().unwrap_or_default();
            let (_, container) =
                pod::find_container(fields.pod, name).ok_or_else(|| format!("container {name} not found"))?;
            resource_field(
                &container,
                &wanted.resource,
                wanted.divisor.as_ref(),
                &fields.allocatable,
            )?
        } else {
            continue;
        };
        put(files, &item.path, text.into_bytes(), item.mode.unwrap_or(mode), None);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::fake::FakeObjects;
    use std::collections::BTreeMap;
    use steersman_types::Typed;

    async fn check(volume: serde_json::Value) -> Result<Vec<String>, String> {
        let objects = FakeObjects::default()
            .with_config_map("ns", "cm", &[("a", "1"), ("b", "2")])
            .with_secret("ns", "sec", &[("pw", "s3")]);
        let mut volume = volume;
        volume["name"] = "v".into();
        let pod = Pod::from_value(&serde_json::json!({
            "metadata": {"name": "p", "namespace": "ns", "labels": {"x": "y"}},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "250m"}}}], "volumes": [volume]},
        }))
        .unwrap();
        let fields = PodFields {
            pod: &pod,
            pod_ips: &[],
            host_ips: &[],
            allocatable: BTreeMap::new(),
        };
        let volume = &pod::spec(&pod).volumes.as_ref().unwrap()[0];
        let files = of(volume, &fields, &objects).await?;
        let line = |(p, f): (&String, &FileSpec)| format!("{p} {:o} {}", f.mode, String::from_utf8_lossy(&f.data));
        Ok(files.iter().map(line).collect())
    }

    #[tokio::test]
    async fn each_source_gives_its_files_with_their_modes() {
        let cm = serde_json::json!({"configMap": {"name": "cm", "defaultMode": 256, "items": [{"key": "a", "path": "d/x"}, {"key": "b", "path": "y", "mode": 511}]}});
        assert_eq!(check(cm).await, Ok(vec!["d/x 400 1".into(), "y 777 2".into()]));
        let secret = serde_json::json!({"secret": {"secretName": "sec"}});
        assert_eq!(check(secret).await, Ok(vec!["pw 644 s3".into()]));
        let all = serde_json::json!({"projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "cm"}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                {"path": "cpu", "resourceFieldRef": {"containerName": "c", "resource": "requests.cpu", "divisor": "1m"}}]}}]}});
        let expected = [
            "a 644 1",
            "b 644 2",
            "cpu 644 250",
            "labels 644 x=\"y\"",
            "token 644 token:p::3607",
        ];
        assert_eq!(check(all).await, Ok(expected.map(str::to_owned).to_vec()));
    }

    #[tokio::test]
    async fn missing_objects_and_keys_are_errors_unless_optional() {
        let none = serde_json::json!({"configMap": {"name": "x"}});
        assert_eq!(check(none).await, Err("configmap \"x\" not found".into()));
        assert_eq!(
            check(serde_json::json!({"configMap": {"name": "x", "optional": true}})).await,
            Ok(vec![])
        );
        let key = serde_json::json!({"secret": {"secretName": "sec", "items": [{"key": "no", "path": "p"}]}});
        assert_eq!(check(key).await, Err("references non-existent secret key: no".into()));
    }
}
