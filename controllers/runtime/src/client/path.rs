//! Addresses of resources.

use steersman_types::Typed;

/// A resource as discovery names it: enough to build its URLs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    /// Empty for core.
    pub group: String,
    pub version: String,
    pub plural: String,
    pub kind: String,
    pub namespaced: bool,
}

impl Resource {
    #[must_use]
    pub fn of<T: Typed>() -> Self {
        Self {
            group: T::GROUP.to_owned(),
            version: T::VERSION.to_owned(),
            plural: T::PLURAL.to_owned(),
            kind: T::KIND.to_owned(),
            namespaced: T::NAMESPACED,
        }
    }

    /// `group/version`, or `version` for core.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The URL path of the collection or of one object. A namespace given for a cluster-scoped kind is left out.
    #[must_use]
    pub fn path(&self, namespace: Option<&str>, name: Option<&str>, subresource: Option<&str>) -> String {
        let mut path = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if let Some(namespace) = namespace.filter(|n| self.namespaced && !n.is_empty()) {
            path.push_str("/namespaces/");
            escape(namespace, &mut path);
        }
        path.push('/');
        path.push_str(&self.plural);
        for part in [name, subresource].into_iter().flatten() {
            path.push('/');
            escape(part, &mut path);
        }
        path
    }
}

/// `path` with a query made of `pairs`.
#[must_use]
pub fn query(path: &str, pairs: &[(&str, String)]) -> String {
    let mut text = path.to_owned();
    for (i, (name, value)) in pairs.iter().enumerate() {
        text.push(if i == 0 { '?' } else { '&' });
        text.push_str(name);
        text.push('=');
        escape(value, &mut text);
    }
    text
}

fn escape(part: &str, out: &mut String) {
    for byte in part.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => out.push(char::from(byte)),
            _ => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                out.push('%');
                for nibble in [byte >> 4, byte & 15] {
                    out.push(char::from(HEX[usize::from(nibble)]));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use steersman_types::api::apps::v1::Deployment;
    use steersman_types::api::core::v1::Node;

    #[test]
    fn paths_follow_group_and_scope() {
        let deployments = Resource::of::<Deployment>();
        assert_eq!(
            deployments.path(Some("a"), Some("b"), Some("status")),
            "/apis/apps/v1/namespaces/a/deployments/b/status"
        );
        assert_eq!(deployments.path(None, None, None), "/apis/apps/v1/deployments");
        assert_eq!(
            Resource::of::<Node>().path(Some("ignored"), Some("n:1"), None),
            "/api/v1/nodes/n:1"
        );
    }

    #[test]
    fn queries_are_escaped() {
        assert_eq!(
            query("/p", &[("labelSelector", "a=b,c in (d)".into())]),
            "/p?labelSelector=a%3Db%2Cc%20in%20%28d%29"
        );
    }
}
