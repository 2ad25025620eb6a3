//! Resources: what `/api` and `/apis` serve, and under which etcd key. Parsed from `data/resources.txt`, whose form
//! `hack/gen/resources.py` describes.

/// An API group.
#[derive(Debug)]
pub struct Group {
    /// Empty for core.
    pub name: &'static str,
    /// In order of preference.
    pub versions: Vec<&'static str>,
}

/// A resource of one group-version.
#[derive(Debug)]
pub struct Resource {
    /// Empty for core.
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub kind: &'static str,
    pub namespaced: bool,
    pub short_names: Vec<&'static str>,
    pub categories: Vec<&'static str>,
    /// Sorted, as discovery lists them.
    pub verbs: Vec<&'static str>,
    /// Sorted by name.
    pub subresources: Vec<Subresource>,
    /// Group and version in which it is stored; its own when it is not stored.
    pub storage: (&'static str, &'static str),
    /// Where it is in etcd, for instance `/registry/pods` or `/registry/services/specs`; empty when it is not stored
    /// (reviews, bindings, component statuses). The rest of the key is `/NAMESPACE/NAME` or `/NAME`.
    pub key_prefix: String,
    /// Whether its group-version is served when nobody asks for it.
    pub default_on: bool,
}

impl Resource {
    /// Whether objects of it are kept.
    #[must_use]
    pub fn stored(&self) -> bool {
        !self.key_prefix.is_empty()
    }

    #[must_use]
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// `v1` or `group/version`.
    #[must_use]
    pub fn api_version(&self) -> String {
        super::join_api_version(self.group, self.version)
    }
}

/// Something below an object's path, for instance `status`.
#[derive(Debug)]
pub struct Subresource {
    pub name: &'static str,
    /// Group, version and kind of the body.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    /// Sorted, as discovery lists them.
    pub verbs: Vec<&'static str>,
}

fn verbs(letters: &str) -> Vec<&'static str> {
    letters
        .chars()
        .filter_map(|c| match c {
            'c' => Some("create"),
            'd' => Some("delete"),
            'D' => Some("deletecollection"),
            'g' => Some("get"),
            'l' => Some("list"),
            'p' => Some("patch"),
            'u' => Some("update"),
            'w' => Some("watch"),
            _ => None,
        })
        .collect()
}

fn group_version(text: &'static str) -> (&'static str, &'static str) {
    let (group, version) = text.split_once('/').unwrap_or(("-", text));
    (if group == "-" { "" } else { group }, version)
}

/// Reads the table. Lines it does not understand are left out; a test counts what came in.
pub(super) fn parse(text: &'static str) -> (Vec<Group>, Vec<Resource>) {
    let (mut groups, mut resources) = (Vec::new(), Vec::<Resource>::new());
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("group") => {
                let name = words.next().unwrap_or_default();
                groups.push(Group {
                    name: if name == "-" { "" } else { name },
                    versions: words.collect(),
                });
            }
            Some("resource") => {
                let (group, version) = group_version(words.next().unwrap_or_default());
                let mut resource = Resource {
                    group,
                    version,
                    plural: words.next().unwrap_or_default(),
                    singular: words.next().unwrap_or_default(),
                    kind: words.next().unwrap_or_default(),
                    namespaced: words.next() == Some("ns"),
                    short_names: Vec::new(),
                    categories: Vec::new(),
                    verbs: Vec::new(),
                    subresources: Vec::new(),
                    storage: (group, version),
                    key_prefix: String::new(),
                    default_on: true,
                };
                for word in words {
                    match word.split_once('=').unwrap_or((word, "")) {
                        ("verbs", value) => resource.verbs = verbs(value),
                        ("short", value) => resource.short_names = value.split(',').collect(),
                        ("cat", value) => resource.categories = value.split(',').collect(),
                        ("store", value) => resource.storage = group_version(value),
                        ("key", value) => resource.key_prefix = format!("/registry{value}"),
                        ("off", _) => resource.default_on = false,
                        _ => {}
                    }
                }
                resources.push(resource);
            }
            Some("sub") => {
                let Some(parent) = resources.last_mut() else { continue };
                let name = words.next().unwrap_or_default();
                let kind = words.next().unwrap_or_default();
                let letters = words.next().unwrap_or_default();
                let gvk = words.next().and_then(|w| w.strip_prefix("gvk=")).map(group_version);
                let (group, version) = gvk.unwrap_or((parent.group, parent.version));
                parent.subresources.push(Subresource {
                    name,
                    group,
                    version,
                    kind,
                    verbs: verbs(letters),
                });
            }
            _ => {}
        }
    }
    (groups, resources)
}
