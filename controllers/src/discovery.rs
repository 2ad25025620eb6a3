//! Which resources the server has, for the controllers that deal with all of them.

use http::Method;
use serde_json::Value;
use steersman_runtime::client::{ApiError, Client, Resource};

/// A resource with its verbs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovered {
    pub resource: Resource,
    pub verbs: Vec<String>,
}

impl Discovered {
    #[must_use]
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
}

/// What was found, and which group-versions could not be asked.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub resources: Vec<Discovered>,
    /// `group/version: why`, sorted.
    pub failures: Vec<String>,
}

/// Every resource in its group's preferred version, subresources left out.
///
/// # Errors
/// When not even the groups can be listed.
pub async fn discover(client: &Client) -> Result<Found, ApiError> {
    let mut found = Found::default();
    let mut versions = vec![(String::new(), "v1".to_owned())];
    let groups = client.request_value(Method::GET, "/apis", None).await?;
    for group in groups["groups"].as_array().into_iter().flatten() {
        // The preferred version first; a resource that only another version has is taken from there.
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let preferred = text(&group["preferredVersion"]["version"]);
        let mut all: Vec<String> = group["versions"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|v| text(&v["version"]))
            .collect();
        all.sort_by_key(|version| *version != preferred);
        versions.extend(all.into_iter().map(|version| (text(&group["name"]), version)));
    }
    for (group, version) in versions {
        let path = if group.is_empty() {
            format!("/api/{version}")
        } else {
            format!("/apis/{group}/{version}")
        };
        match client.request_value(Method::GET, &path, None).await {
            Ok(list) => {
                let fresh: Vec<Discovered> = resources(&group, &version, &list).collect();
                for one in fresh {
                    let known = found
                        .resources
                        .iter()
                        .any(|k| k.resource.group == one.resource.group && k.resource.plural == one.resource.plural);
                    if !known {
                        found.resources.push(one);
                    }
                }
            }
            Err(error) => found
                .failures
                .push(format!("{}: {error}", path.trim_start_matches("/apis/"))),
        }
    }
    found.failures.sort();
    Ok(found)
}

/// The resources of one group-version's APIResourceList.
fn resources<'a>(group: &'a str, version: &'a str, list: &'a Value) -> impl Iterator<Item = Discovered> + 'a {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    list["resources"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(move |one| {
            let plural = text(&one["name"]);
            (!plural.is_empty() && !plural.contains('/')).then(|| Discovered {
                resource: Resource {
                    group: group.to_owned(),
                    version: version.to_owned(),
                    plural,
                    kind: text(&one["kind"]),
                    namespaced: one["namespaced"] == true,
                },
                verbs: one["verbs"].as_array().into_iter().flatten().map(text).collect(),
            })
        })
}
