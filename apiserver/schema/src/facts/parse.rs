//! Reads `data/types.txt`, whose form `hack/gen/facts.py` describes, into interned static structures.
//!
//! Two passes: declarations first (types refer to each other in any order), then fields. A type's text is resolved once
//! per package and shared by every field that has it. What is interned is leaked on purpose: the table lives as long as
//! the process. The file is ours and checked by tests, so a line that makes no sense is a bug: it panics with the line.

use std::collections::HashMap;

use super::{Field, ListType, MapType, PatchStrategy, Place, Shape, Ty, Type, TypeRef};

/// A declaration by qualifier and name.
enum Decl {
    Special(&'static str),
    Scalar(&'static str, &'static [&'static str]),
    Alias(&'static str, &'static str),
    Wrapper(&'static str, &'static str),
    Struct(TypeRef),
}

struct Parser {
    decls: HashMap<(&'static str, &'static str), Decl>,
    /// Types by package and text.
    tys: HashMap<(&'static str, &'static str), &'static Ty>,
}

pub(super) fn types(text: &'static str) -> Vec<Type> {
    let (mut parser, mut types) = declarations(text);
    let mut package = "";
    let mut current = usize::MAX;
    let mut next = 0;
    let mut fields = Vec::new();
    for line in text.lines() {
        if let Some(field) = line.strip_prefix(' ') {
            fields.push(parser.field(package, field));
        } else if let Some(rest) = line.strip_prefix("package ") {
            package = rest.split(' ').next().unwrap_or_default();
        } else if line.starts_with("struct ") {
            if current != usize::MAX {
                types[current].fields = std::mem::take(&mut fields).into();
            }
            current = next;
            next += 1;
        }
    }
    if current != usize::MAX {
        types[current].fields = fields.into();
    }
    index(&mut types);
    mark_defaults(&mut types);
    types
}

/// The first pass: names, without fields.
fn declarations(text: &'static str) -> (Parser, Vec<Type>) {
    let mut decls = HashMap::with_capacity(2048);
    let mut types = Vec::with_capacity(1280);
    let (mut qualifier, mut prefix, mut group, mut version) = ("", "", "", "");
    for line in text.lines().filter(|l| !l.starts_with(' ') && !l.starts_with('#')) {
        let mut words = line.split(' ');
        let (Some(word), Some(name)) = (words.next(), words.next()) else {
            continue;
        };
        let decl = match word {
            "package" => {
                qualifier = name;
                prefix = words.next().unwrap_or_default();
                group = words.next().filter(|g| *g != "-").unwrap_or_default();
                version = words.next().filter(|v| *v != "-").unwrap_or_default();
                continue;
            }
            "special" => Decl::Special(words.next().unwrap_or_default()),
            "scalar" => {
                let base = words.next().unwrap_or_default();
                let values: Vec<&'static str> = words.collect();
                Decl::Scalar(base, if values.is_empty() { &[] } else { values.leak() })
            }
            "alias" => Decl::Alias(qualifier, words.next().unwrap_or_default()),
            "wrapper" => Decl::Wrapper(qualifier, words.next().unwrap_or_default()),
            "struct" => {
                let flags: Vec<&str> = words.collect();
                types.push(Type {
                    name: format!("{prefix}.{name}").into(),
                    go: format!("{}.{name}", go_package(qualifier)).into(),
                    short: name,
                    group,
                    version,
                    kind: flags.contains(&"kind"),
                    atomic: flags.contains(&"atomic"),
                    list: false,
                    fields: Box::default(),
                    flat: Box::default(),
                    ascending: Box::default(),
                    unset: Box::default(),
                    defaulted: Box::default(),
                });
                Decl::Struct(TypeRef::new(types.len() - 1))
            }
            _ => panic!("types.txt: {line}"),
        };
        decls.insert((qualifier, name), decl);
    }
    (
        Parser {
            decls,
            tys: HashMap::with_capacity(2048),
        },
        types,
    )
}

/// Go's package name: the last part of its path.
fn go_package(qualifier: &str) -> &str {
    qualifier.rsplit('/').next().unwrap_or(qualifier)
}

impl Parser {
    fn field(&mut self, package: &'static str, line: &'static str) -> Field {
        let mut words = line.split(' ');
        let (Some(json), Some(number), Some(ty)) = (words.next(), words.next(), words.next()) else {
            panic!("types.txt: {line}")
        };
        let pointer = ty.starts_with('*');
        let mut field = Field {
            json: if json == "-" { "" } else { json },
            proto: json,
            number: number.parse().unwrap_or(0),
            ty: self.ty(package, ty.trim_start_matches('*')),
            pointer,
            omitempty: false,
            omitzero: false,
            required: false,
            inline: false,
            default: None,
            list: None,
            map_type: None,
            patch_strategy: PatchStrategy::default(),
            patch_merge_key: None,
        };
        for word in words {
            match word.split_once('=').unwrap_or((word, "")) {
                ("omit", _) => field.omitempty = true,
                ("zero", _) => field.omitzero = true,
                ("req", _) => field.required = true,
                ("inline", _) => field.inline = true,
                ("proto", name) => field.proto = name,
                ("list", "atomic") => field.list = Some(ListType::Atomic),
                ("list", "set") => field.list = Some(ListType::Set),
                ("list", keys) => {
                    field.list = keys.strip_prefix("map:").map(|k| ListType::Map(k.split(',').collect()));
                }
                ("map", kind) => {
                    field.map_type = Some(if kind == "atomic" {
                        MapType::Atomic
                    } else {
                        MapType::Granular
                    });
                }
                ("patch", value) => {
                    let (strategies, key) = value.split_once(':').map_or((value, None), |(s, k)| (s, Some(k)));
                    field.patch_strategy = PatchStrategy {
                        merge: strategies.split(',').any(|s| s == "merge"),
                        retain_keys: strategies.split(',').any(|s| s == "retainKeys"),
                    };
                    field.patch_merge_key = key;
                }
                ("default", value) => field.default = serde_json::from_str(value).ok(),
                _ => panic!("types.txt: {line}"),
            }
        }
        field
    }

    fn ty(&mut self, package: &'static str, text: &'static str) -> &'static Ty {
        if let Some(known) = self.tys.get(&(package, text)) {
            return known;
        }
        let ty: &'static Ty = Box::leak(Box::new(self.resolve(package, text)));
        self.tys.insert((package, text), ty);
        ty
    }

    fn resolve(&mut self, package: &'static str, text: &'static str) -> Ty {
        let plain = |shape| Ty {
            shape,
            go: text.into(),
            values: &[],
        };
        if text == "[]byte" {
            return Ty {
                shape: Shape::Bytes,
                go: "[]uint8".into(),
                values: &[],
            };
        }
        if let Some(element) = text.strip_prefix("[]") {
            let element = self.ty(package, element.trim_start_matches('*'));
            return Ty {
                go: format!("[]{}", element.go).into(),
                shape: Shape::List(element),
                values: &[],
            };
        }
        if let Some((key, value)) = text.strip_prefix("map[").and_then(|t| t.split_once(']')) {
            let (key, value) = (self.ty(package, key), self.ty(package, value));
            return Ty {
                go: format!("map[{}]{}", key.go, value.go).into(),
                shape: Shape::Map(value),
                values: &[],
            };
        }
        match base(text) {
            Some(shape) => plain(shape),
            None => self.named(package, text),
        }
    }

    fn named(&mut self, package: &'static str, text: &'static str) -> Ty {
        let (qualifier, name) = text.split_once('.').unwrap_or((package, text));
        let go: Box<str> = format!("{}.{name}", go_package(qualifier)).into();
        let schema = || match self.decls.get(&(qualifier, "JSONSchemaProps")) {
            Some(Decl::Struct(id)) => *id,
            _ => panic!("types.txt: no JSONSchemaProps beside {text}"),
        };
        let (shape, values): (Shape, &'static [&'static str]) = match self.decls.get(&(qualifier, name)) {
            Some(Decl::Special(leaf)) => {
                let shape = match *leaf {
                    "time" => Shape::Time,
                    "microtime" => Shape::MicroTime,
                    "duration" => Shape::Duration,
                    "quantity" => Shape::Quantity,
                    "intorstring" => Shape::IntOrString,
                    "raw" => Shape::Raw,
                    "schema-or-array" => Shape::SchemaOrArray(schema()),
                    "schema-or-bool" => Shape::SchemaOrBool(schema()),
                    "schema-or-strings" => Shape::SchemaOrStrings(schema()),
                    other => panic!("types.txt: special {other}"),
                };
                (shape, &[])
            }
            Some(Decl::Scalar(text, values)) => (
                base(text).unwrap_or_else(|| panic!("types.txt: scalar {text}")),
                *values,
            ),
            Some(Decl::Struct(id)) => (Shape::Struct(*id), &[]),
            Some(&Decl::Alias(package, target)) => {
                let target = self.ty(package, target);
                let shape = match &target.shape {
                    Shape::List(element) => Shape::List(element),
                    Shape::Map(value) => Shape::Map(value),
                    Shape::Struct(id) => Shape::Struct(*id),
                    Shape::String => Shape::String,
                    _ => panic!("types.txt: alias {text}"),
                };
                (shape, target.values)
            }
            Some(&Decl::Wrapper(package, target)) => match self.ty(package, target).shape {
                Shape::List(element) => (Shape::Wrapped(element), &[]),
                _ => panic!("types.txt: wrapper {text}"),
            },
            None => panic!("types.txt: no type {text} for {package}"),
        };
        Ty { shape, go, values }
    }
}

fn base(text: &str) -> Option<Shape> {
    Some(match text {
        "string" => Shape::String,
        "bool" => Shape::Bool,
        "int32" => Shape::Int32,
        "int" | "int64" => Shape::Int64,
        "float64" => Shape::Float64,
        "interface{}" => Shape::Any,
        _ => return None,
    })
}

/// Fills the lookups, once all fields are known.
fn index(types: &mut [Type]) {
    for i in 0..types.len() {
        let mut flat = Vec::new();
        flatten(types, i, &[], &mut flat);
        flat.sort_by_key(|(name, _)| *name);
        let unset = flat.iter().enumerate().filter(|(_, (_, place))| {
            types[usize::from(place.owner.0)].fields[usize::from(place.index)].printed_unset()
        });
        let unset: Vec<u16> = unset.filter_map(|(n, _)| u16::try_from(n).ok()).collect();
        let fields = &types[i].fields;
        let mut ascending: Vec<u16> = (0..fields.len()).filter_map(|n| u16::try_from(n).ok()).collect();
        ascending.retain(|n| fields[usize::from(*n)].number != 0);
        ascending.sort_by_key(|n| fields[usize::from(*n)].number);
        let is_list_meta = |f: &Field| {
            f.json == "metadata"
                && matches!(&f.ty.shape, Shape::Struct(t) if types[usize::from(t.0)].short == "ListMeta")
        };
        let list = types[i].kind && fields.iter().any(|f| f.json == "items") && fields.iter().any(is_list_meta);
        types[i].list = list;
        types[i].flat = flat.into();
        types[i].ascending = ascending.into();
        types[i].unset = unset.into();
    }
}

/// The struct that a shape holds, directly or as element.
fn struct_in(shape: &Shape) -> Option<TypeRef> {
    match shape {
        Shape::Struct(inner) => Some(*inner),
        Shape::List(element) | Shape::Map(element) => struct_in(&element.shape),
        _ => None,
    }
}

/// Finds which fields lead to a default: round after round, until nothing new is found (types may be recursive).
fn mark_defaults(types: &mut [Type]) {
    let mut leads = vec![false; types.len()];
    let leading = |types: &[Type], leads: &[bool], place: &Place| {
        let field = &types[usize::from(place.owner.0)].fields[usize::from(place.index)];
        field.default.is_some() || struct_in(&field.ty.shape).is_some_and(|inner| leads[usize::from(inner.0)])
    };
    loop {
        let found: Vec<usize> = (0..types.len())
            .filter(|i| !leads[*i] && types[*i].flat.iter().any(|(_, place)| leading(types, &leads, place)))
            .collect();
        if found.is_empty() {
            break;
        }
        found.into_iter().for_each(|i| leads[i] = true);
    }
    for i in 0..types.len() {
        let flat = types[i].flat.iter().enumerate();
        let defaulted = flat.filter(|(_, (_, place))| leading(types, &leads, place));
        types[i].defaulted = defaulted.filter_map(|(n, _)| u16::try_from(n).ok()).collect();
    }
}

fn flatten(types: &[Type], at: usize, via: &'static [&'static str], into: &mut Vec<(&'static str, Place)>) {
    for (n, field) in types[at].fields.iter().enumerate() {
        match &field.ty.shape {
            Shape::Struct(inner) if field.inline => {
                let inner = usize::from(inner.0);
                let via: Vec<_> = via.iter().copied().chain([types[inner].short]).collect();
                flatten(types, inner, via.leak(), into);
            }
            _ => into.push((
                field.json,
                Place {
                    owner: TypeRef::new(at),
                    index: u16::try_from(n).unwrap_or(0),
                    via,
                },
            )),
        }
    }
}
