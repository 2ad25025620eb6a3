//! The table of API facts: every built-in type and resource of Kubernetes v1.36, as data.
//!
//! The table is text under `data/`, embedded, written by `hack/gen`, parsed once by [`facts`] (a few milliseconds). From
//! it follow decoding, encoding, defaults, strategic merge patch, OpenAPI and discovery: nothing else in this project
//! says which fields a `Pod` has.
//!
//! What stays true: everything here is immutable and lives as long as the process. What is not here: field descriptions
//! (OpenAPI takes them from k8s-openapi when this crate is built), and decisions of kinds (steersman-kinds).

mod parse;
mod resources;

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::LazyLock;

use serde_json::Value;

pub use resources::{Group, Resource, Subresource};

/// Group, version and kind of an object. The group is empty for core.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gvk {
    pub group: String,
    pub version: String,
    pub kind: String,
}

impl Gvk {
    #[must_use]
    pub fn new(group: &str, version: &str, kind: &str) -> Self {
        Self {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
        }
    }

    /// From the two fields an object carries; `api_version` is `v1` or `group/version`.
    #[must_use]
    pub fn from_api_version(api_version: &str, kind: &str) -> Self {
        let (group, version) = split_api_version(api_version);
        Self::new(group, version, kind)
    }

    /// What `apiVersion` holds.
    #[must_use]
    pub fn api_version(&self) -> String {
        join_api_version(&self.group, &self.version)
    }
}

/// `apps/v1` into `("apps", "v1")`; `v1` into `("", "v1")`.
#[must_use]
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// The inverse of [`split_api_version`].
#[must_use]
pub fn join_api_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// The whole table.
pub struct Facts {
    types: Vec<Type>,
    by_name: HashMap<Box<str>, TypeRef>,
    by_kind: HashMap<(&'static str, &'static str, &'static str), TypeRef>,
    resources: Vec<Resource>,
    groups: Vec<Group>,
}

/// The table, parsed at the first call.
#[must_use]
pub fn facts() -> &'static Facts {
    static FACTS: LazyLock<Facts> = LazyLock::new(|| {
        let table = parse::types(include_str!("../../data/types.txt"));
        let (groups, resources) = resources::parse(include_str!("../../data/resources.txt"));
        let by_name = table
            .iter()
            .enumerate()
            .map(|(i, t)| (t.name.clone(), TypeRef::new(i)))
            .collect();
        let mut by_kind: HashMap<_, _> = HashMap::new();
        for (i, t) in table.iter().enumerate().filter(|(_, t)| t.kind) {
            by_kind.insert((t.group, t.version, t.short), TypeRef::new(i));
        }
        Facts {
            types: table,
            by_name,
            by_kind,
            resources,
            groups,
        }
    });
    &FACTS
}

impl Facts {
    /// The type of a kind, also of the kinds that every group-version has (`Status`, `DeleteOptions`, `WatchEvent`, …).
    #[must_use]
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<&'static Type> {
        let found = |g: &str, v: &str| self.by_kind.get(&(g, v, kind)).copied().map(TypeRef::get);
        found(group, version).or_else(|| match kind {
            // Registered by upstream in "v1" although the Go package is meta.k8s.io's.
            "Status" | "APIVersions" | "APIGroup" | "APIGroupList" | "APIResourceList" if group.is_empty() => {
                found("meta.k8s.io", "v1")
            }
            "CreateOptions" | "DeleteOptions" | "GetOptions" | "ListOptions" | "PatchOptions" | "UpdateOptions" => {
                found("meta.k8s.io", "v1")
            }
            "WatchEvent" => self.named("io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent"),
            "List" if group.is_empty() && version == "v1" => found("meta.k8s.io", "v1"),
            "Table" | "TableOptions" | "PartialObjectMetadata" | "PartialObjectMetadataList"
                if group == "meta.k8s.io" && version == "v1beta1" =>
            {
                found("meta.k8s.io", "v1")
            }
            _ => None,
        })
    }

    /// [`Self::kind`] by what an object carries.
    #[must_use]
    pub fn kind_of(&self, api_version: &str, kind: &str) -> Option<&'static Type> {
        let (group, version) = split_api_version(api_version);
        self.kind(group, version, kind)
    }

    /// A type by its OpenAPI name, for instance `io.k8s.api.core.v1.PodSpec`.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&'static Type> {
        self.by_name.get(name).copied().map(TypeRef::get)
    }

    /// Every struct type, sorted by package and name.
    #[must_use]
    pub fn types(&self) -> &[Type] {
        &self.types
    }

    /// Every resource of every group-version, groups in order of priority; also those not served by default.
    #[must_use]
    pub fn resources(&self) -> &[Resource] {
        &self.resources
    }

    /// The resource of a path.
    #[must_use]
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Resource> {
        self.resources
            .iter()
            .find(|r| r.plural == plural && r.version == version && r.group == group)
    }

    /// Groups in the order of `/apis`, core first.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }
}

/// A type by its place in the table; dereferences to the [`Type`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TypeRef(u16);

impl TypeRef {
    fn new(index: usize) -> Self {
        Self(u16::try_from(index).unwrap_or(u16::MAX))
    }

    #[must_use]
    pub fn get(self) -> &'static Type {
        &facts().types[usize::from(self.0)]
    }
}

impl Deref for TypeRef {
    type Target = Type;

    fn deref(&self) -> &Type {
        self.get()
    }
}

/// A struct type.
#[derive(Debug)]
pub struct Type {
    /// OpenAPI name, for instance `io.k8s.api.core.v1.PodSpec`.
    pub name: Box<str>,
    /// Go's name, as it appears in texts: `v1.PodSpec`.
    pub go: Box<str>,
    /// The bare name: `PodSpec`. For a kind, this is the kind.
    pub short: &'static str,
    /// The group and version of the package it belongs to; empty group for core.
    pub group: &'static str,
    pub version: &'static str,
    /// Whether it is an object with `apiVersion` and `kind`.
    pub kind: bool,
    /// Whether it is replaced as a whole when merged (`x-kubernetes-map-type: atomic`).
    pub atomic: bool,
    list: bool,
    /// In order of declaration, which is the order in which upstream prints them. Inline ones stand for themselves here.
    pub fields: Box<[Field]>,
    /// Field names as JSON has them, inline fields flattened, sorted.
    flat: Box<[(&'static str, Place)]>,
    /// Indices into `fields`, by ascending protobuf number; fields without one are left out.
    ascending: Box<[u16]>,
    /// Indices into `flat`, of fields that Go prints although nobody set them.
    unset: Box<[u16]>,
    /// Indices into `flat`, of fields that have a default themselves or somewhere below.
    defaulted: Box<[u16]>,
}

/// Where a flattened field is: the type that declares it, and its index there.
#[derive(Clone, Copy, Debug)]
struct Place {
    owner: TypeRef,
    index: u16,
    /// Go's names of the inline structs on the way there.
    via: &'static [&'static str],
}

impl Type {
    /// A field by its JSON name, looking through inline structs.
    #[must_use]
    pub fn field(&self, json: &str) -> Option<&'static Field> {
        self.flat_field(self.flat_index(json)?)
    }

    /// Where a field stands among [`Self::flat_fields`].
    #[must_use]
    pub fn flat_index(&self, json: &str) -> Option<usize> {
        self.flat.binary_search_by(|(name, _)| (*name).cmp(json)).ok()
    }

    /// The inverse of [`Self::flat_index`].
    #[must_use]
    pub fn flat_field(&self, at: usize) -> Option<&'static Field> {
        let place = self.flat.get(at)?.1;
        place.owner.get().fields.get(usize::from(place.index))
    }

    /// Go's names of the inline structs between this type and a field, as its decoding errors show them.
    #[must_use]
    pub fn embedded(&self, at: usize) -> &'static [&'static str] {
        self.flat.get(at).map_or(&[], |(_, place)| place.via)
    }

    /// All JSON fields, inline structs flattened, sorted by name.
    pub fn flat_fields(&self) -> impl Iterator<Item = &'static Field> + '_ {
        (0..self.flat.len()).filter_map(|at| self.flat_field(at))
    }

    /// The fields that Go prints although nobody set them: scalars without `omitempty` and structs held by value.
    pub fn unset_fields(&self) -> impl Iterator<Item = &'static Field> + '_ {
        self.unset.iter().filter_map(|at| self.flat_field(usize::from(*at)))
    }

    /// The fields that have a default, or whose type has one somewhere below.
    pub fn defaulted_fields(&self) -> impl Iterator<Item = &'static Field> + '_ {
        self.defaulted.iter().filter_map(|at| self.flat_field(usize::from(*at)))
    }

    /// Fields in the order in which protobuf writes them.
    pub fn by_number(&self) -> impl DoubleEndedIterator<Item = &Field> {
        self.ascending.iter().map(|i| &self.fields[usize::from(*i)])
    }

    /// A field by its protobuf number.
    #[must_use]
    pub fn numbered(&self, number: u32) -> Option<&Field> {
        let at = self
            .ascending
            .binary_search_by_key(&number, |i| self.fields[usize::from(*i)].number)
            .ok()?;
        self.fields.get(usize::from(self.ascending[at]))
    }

    /// Group, version and kind, for a kind. Options and `Status` say `meta.k8s.io/v1` here.
    #[must_use]
    pub fn gvk(&self) -> Option<Gvk> {
        self.kind.then(|| Gvk::new(self.group, self.version, self.short))
    }

    /// Whether this is a list kind: `metadata` is list metadata and there are `items`.
    #[must_use]
    pub fn is_list(&self) -> bool {
        self.list
    }
}

/// A field of a struct.
#[derive(Debug)]
pub struct Field {
    /// Name in JSON; empty for an inline field.
    pub json: &'static str,
    /// Name in the `.proto` file.
    pub proto: &'static str,
    /// Number in protobuf; 0 when protobuf does not have the field.
    pub number: u32,
    pub ty: &'static Ty,
    /// Whether Go holds it behind a pointer: then absent and zero differ, on every wire.
    pub pointer: bool,
    /// Go's `omitempty`: JSON leaves it out when it is zero (never so for a struct that is not a pointer).
    pub omitempty: bool,
    /// Go's `omitzero`: like omitempty, also for structs.
    pub omitzero: bool,
    /// Listed under `required` in OpenAPI.
    pub required: bool,
    /// Whether its fields stand beside those of the struct around it in JSON.
    pub inline: bool,
    /// The `+default` that the API server applies.
    pub default: Option<Value>,
    pub list: Option<ListType>,
    pub map_type: Option<MapType>,
    pub patch_strategy: PatchStrategy,
    /// Key by which strategic merge patch finds elements of a list.
    pub patch_merge_key: Option<&'static str>,
}

impl Field {
    /// Whether Go prints the field although nobody set it, as something else than `null`.
    fn printed_unset(&self) -> bool {
        !self.pointer
            && match &self.ty.shape {
                Shape::String | Shape::Bool | Shape::Int32 | Shape::Int64 | Shape::Float64 => !self.omitempty,
                Shape::Struct(_) | Shape::Quantity | Shape::IntOrString | Shape::Duration => !self.omitzero,
                _ => false,
            }
    }

    /// The values of an enumeration, sorted; empty when any value may be given.
    #[must_use]
    pub fn enum_values(&self) -> &'static [&'static str] {
        match &self.ty.shape {
            Shape::List(element) => element.values,
            _ => self.ty.values,
        }
    }
}

/// `x-kubernetes-list-type`, with `x-kubernetes-list-map-keys`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListType {
    Atomic,
    Set,
    Map(Box<[&'static str]>),
}

/// `x-kubernetes-map-type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapType {
    Atomic,
    Granular,
}

/// `x-kubernetes-patch-strategy`; both false means replace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    pub merge: bool,
    pub retain_keys: bool,
}

/// What a field, an element or a map's value is.
#[derive(Debug)]
pub struct Ty {
    pub shape: Shape,
    /// Go's text of the type, pointers left out, as decoding errors name it: `int32`, `[]v1.Container`.
    pub go: Box<str>,
    /// Values of a named string that is an enumeration, sorted.
    pub values: &'static [&'static str],
}

/// How a value is written.
#[derive(Debug)]
pub enum Shape {
    String,
    Bool,
    Int32,
    Int64,
    Float64,
    /// Base64 text in JSON.
    Bytes,
    /// RFC 3339 to the second.
    Time,
    /// RFC 3339 to the microsecond.
    MicroTime,
    /// `1h30m0s`.
    Duration,
    Quantity,
    IntOrString,
    /// Any JSON, which protobuf wraps into a message with the text (RawExtension, FieldsV1, JSON).
    Raw,
    /// Any JSON, unknown to protobuf.
    Any,
    Struct(TypeRef),
    List(&'static Ty),
    /// Keys are strings.
    Map(&'static Ty),
    /// A list which is a message of its own in protobuf.
    Wrapped(&'static Ty),
    /// JSONSchemaPropsOrArray, OrBool and OrStringArray; the type is JSONSchemaProps.
    SchemaOrArray(TypeRef),
    SchemaOrBool(TypeRef),
    SchemaOrStrings(TypeRef),
}

#[cfg(test)]
mod tests;
