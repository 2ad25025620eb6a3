//! How a value is merged: which parts have owners of their own. Follows from the table of API facts.

use serde_json::Value;
use steersman_schema::facts::{Field, ListType, MapType, Shape as Wire, Ty, Type};

use crate::element::{Element, Scalar};
use crate::set::Set;

/// What a value is to somebody who merges it.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// Owned as a whole: scalars, and lists and maps that are atomic.
    Leaf,
    Struct(&'static Type),
    /// A map whose values have owners of their own.
    Map(&'static Ty),
    /// A list whose elements are known by the values of these fields.
    ByKeys(&'static Ty, &'static [&'static str]),
    /// A list that is a set.
    ByValue,
    /// Any JSON: its objects are maps, everything else is a leaf.
    Free,
}

impl Shape {
    /// The shape of an object of a kind, or of a struct.
    #[must_use]
    pub fn of_type(ty: &'static Type) -> Self {
        if ty.atomic { Self::Leaf } else { Self::Struct(ty) }
    }

    fn of_field(field: &'static Field) -> Self {
        if field.map_type == Some(MapType::Atomic) {
            return Self::Leaf;
        }
        match (&field.ty.shape, &field.list) {
            (Wire::List(element), Some(ListType::Map(keys))) => Self::ByKeys(element, keys),
            (Wire::List(_), Some(ListType::Set)) => Self::ByValue,
            _ => Self::of_ty(field.ty),
        }
    }

    fn of_ty(ty: &'static Ty) -> Self {
        match &ty.shape {
            Wire::Struct(inner) => Self::of_type(inner.get()),
            Wire::Map(element) => Self::Map(element),
            Wire::Raw if ty.go.ends_with("RawExtension") => Self::Free,
            Wire::Any | Wire::SchemaOrArray(_) | Wire::SchemaOrBool(_) | Wire::SchemaOrStrings(_) => Self::Free,
            _ => Self::Leaf,
        }
    }

    /// The shape of a field or of a map's value; `None`: there is no such field.
    #[must_use]
    pub fn field(self, name: &str) -> Option<Self> {
        match self {
            Self::Struct(ty) => ty
                .field(name)
                .map(Self::of_field)
                // Every object has them, though the types of Go do not list them.
                .or_else(|| (ty.kind && matches!(name, "apiVersion" | "kind")).then_some(Self::Leaf)),
            Self::Map(element) => Some(Self::of_ty(element)),
            Self::Free => Some(Self::Free),
            Self::Leaf | Self::ByKeys(..) | Self::ByValue => None,
        }
    }

    /// Whether this is a struct's own field rather than a map's key.
    #[must_use]
    pub fn names(self, name: &str) -> bool {
        matches!(self, Self::Struct(_)) && self.field(name).is_some()
    }

    /// The shape of a list's elements.
    #[must_use]
    pub fn item(self) -> Self {
        match self {
            Self::ByKeys(element, _) => Self::of_ty(element),
            _ => Self::Leaf,
        }
    }

    /// By what an element of a list is known.
    ///
    /// # Errors
    /// It has none of the keys, or is of the wrong kind; in upstream's words.
    pub fn element(self, item: &Value) -> Result<Element, String> {
        match self {
            Self::ByKeys(_, keys) => self.by_keys(keys, item),
            _ => match item {
                Value::Object(_) => Err("associative list without keys has an element that's a map type".into()),
                Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
                Value::Null => Err("associative list without keys has an element that's an explicit null".into()),
                scalar => Ok(Element::Value(Scalar(scalar.clone()))),
            },
        }
    }

    fn by_keys(self, keys: &[&str], item: &Value) -> Result<Element, String> {
        let object = match item {
            Value::Object(object) => object,
            Value::Null => return Err("associative list with keys may not have a null element".into()),
            _ => return Err("associative list with keys may not have non-map elements".into()),
        };
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            let value = object.get(*key).or_else(|| match self.item() {
                Self::Struct(ty) => ty.field(key).and_then(|field| field.default.as_ref()),
                _ => None,
            });
            if let Some(value) = value {
                found.push(((*key).to_owned(), Scalar(value.clone())));
            }
        }
        if found.is_empty() {
            let quoted: Vec<String> = keys.iter().map(|key| format!("{key:?}")).collect();
            return Err(format!(
                "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
                quoted.join(" ")
            ));
        }
        found.sort();
        Ok(Element::Key(found))
    }

    /// The shape below one step.
    fn below(self, element: &Element) -> Self {
        match element {
            Element::Field(name) => self.field(name).unwrap_or(Self::Leaf),
            _ => self.item(),
        }
    }
}

/// The set with every struct's field on the way as a member: whoever owns `spec.replicas` owns `spec`. Keys of maps and
/// elements of lists are not added.
#[must_use]
pub fn with_named_fields(set: &Set, shape: Shape) -> Set {
    set.rebuild(
        |element| matches!(element, Element::Field(name) if shape.names(name)),
        |element, child| with_named_fields(child, shape.below(element)),
    )
}
