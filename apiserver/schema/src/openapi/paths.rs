//! The paths of a group-version: what can be asked of each resource, as OpenAPI v3 operations.

use serde_json::{Map, Value, json};

use super::schema::reference;
use crate::facts::{Facts, Resource, Subresource};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const BODY_TYPES: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];
const PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

const WRITE: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("fieldManager", "string"),
    ("fieldValidation", "string"),
];
const PATCH: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("fieldManager", "string"),
    ("fieldValidation", "string"),
    ("force", "boolean"),
];
const DELETE: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const LIST: &[(&str, &str)] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];

/// The paths of one group-version, and the names of the types that they mention.
pub struct Paths {
    pub paths: Map<String, Value>,
    pub types: Vec<String>,
}

/// Everything that is asked of the resources of `group`/`version`.
pub fn of(facts: &'static Facts, group: &str, version: &str) -> Paths {
    let root = if group.is_empty() {
        format!("/api/{version}")
    } else {
        format!("/apis/{group}/{version}")
    };
    let mut out = Paths {
        paths: Map::new(),
        types: Vec::new(),
    };
    let tag = tag(group, version);
    let kinds = format!("{META}.APIResourceList");
    let discovery = json!({"description": "get available resources", "operationId": format!("get{}APIResources", camel(group, version)),
        "responses": answer(&kinds), "tags": [tag]});
    out.paths.insert(format!("{root}/"), json!({"get": discovery}));
    out.types.push(kinds);
    for resource in facts
        .resources()
        .iter()
        .filter(|r| r.group == group && r.version == version)
    {
        let maker = Maker {
            facts,
            resource,
            tag: &tag,
            prefix: camel(group, version),
        };
        maker.add(&root, &mut out);
    }
    out.types.sort();
    out.types.dedup();
    out
}

fn tag(group: &str, version: &str) -> String {
    let short = if group.is_empty() {
        "core".to_owned()
    } else {
        group.trim_end_matches(".k8s.io").replace('.', "")
    };
    format!("{short}_{version}")
}

/// `AppsV1`, `CoreV1`, `RbacAuthorizationV1`: the middle of operation ids.
fn camel(group: &str, version: &str) -> String {
    let short = if group.is_empty() {
        "core"
    } else {
        group.trim_end_matches(".k8s.io")
    };
    short.split('.').chain([version]).map(capital).collect()
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars
        .next()
        .map(|c| c.to_uppercase().collect::<String>() + chars.as_str())
        .unwrap_or_default()
}

fn contents(types: &[&str], schema: &Value) -> Value {
    Value::Object(
        types
            .iter()
            .map(|t| ((*t).to_owned(), json!({"schema": schema})))
            .collect(),
    )
}

fn answer(name: &str) -> Value {
    let schema = reference(name);
    json!({"200": {"description": "OK", "content": contents(BODY_TYPES, &schema)}, "401": {"description": "Unauthorized"}})
}

fn parameters(list: &[(&str, &str)]) -> Value {
    list.iter()
        .map(|(name, ty)| json!({"name": name, "in": "query", "schema": {"type": ty, "uniqueItems": true}}))
        .collect()
}

struct Maker<'a> {
    facts: &'static Facts,
    resource: &'a Resource,
    tag: &'a str,
    prefix: String,
}

impl Maker<'_> {
    fn add(&self, root: &str, out: &mut Paths) {
        let r = self.resource;
        let scope = if r.namespaced { "Namespaced" } else { "" };
        let Some(kind) = self.facts.kind(r.group, r.version, r.kind) else {
            return;
        };
        let kind_name = kind.name.to_string();
        let list_name = format!("{kind_name}List");
        let has = |verb: &str| r.verbs.contains(&verb);
        out.types.push(kind_name.clone());

        let mut collection = Map::new();
        let mut item = Map::new();
        let put =
            |map: &mut Map<String, Value>, method: &str, operation: Value| drop(map.insert(method.into(), operation));
        if has("list") {
            out.types.push(list_name.clone());
            put(
                &mut collection,
                "get",
                self.operation(
                    "list",
                    &format!("list{}{scope}{}", self.prefix, r.kind),
                    LIST,
                    None,
                    &list_name,
                ),
            );
        }
        if has("create") {
            put(
                &mut collection,
                "post",
                self.operation(
                    "post",
                    &format!("create{}{scope}{}", self.prefix, r.kind),
                    WRITE,
                    Some(&kind_name),
                    &kind_name,
                ),
            );
        }
        let status = format!("{META}.Status");
        let options = format!("{META}.DeleteOptions");
        if has("deletecollection") || has("delete") {
            out.types.extend([status.clone(), options.clone()]);
        }
        if has("deletecollection") {
            let id = format!("delete{}Collection{scope}{}", self.prefix, r.kind);
            put(
                &mut collection,
                "delete",
                self.operation("deletecollection", &id, DELETE, Some(&options), &status),
            );
        }
        if has("get") {
            put(
                &mut item,
                "get",
                self.operation(
                    "get",
                    &format!("read{}{scope}{}", self.prefix, r.kind),
                    &[],
                    None,
                    &kind_name,
                ),
            );
        }
        if has("update") {
            put(
                &mut item,
                "put",
                self.operation(
                    "put",
                    &format!("replace{}{scope}{}", self.prefix, r.kind),
                    WRITE,
                    Some(&kind_name),
                    &kind_name,
                ),
            );
        }
        if has("patch") {
            put(
                &mut item,
                "patch",
                self.patch(&format!("patch{}{scope}{}", self.prefix, r.kind), &kind_name, out),
            );
        }
        if has("delete") {
            put(
                &mut item,
                "delete",
                self.operation(
                    "delete",
                    &format!("delete{}{scope}{}", self.prefix, r.kind),
                    DELETE,
                    Some(&options),
                    &status,
                ),
            );
        }
        let base = if r.namespaced {
            format!("{root}/namespaces/{{namespace}}/{}", r.plural)
        } else {
            format!("{root}/{}", r.plural)
        };
        self.insert(out, &base, collection, false);
        self.insert(out, &format!("{base}/{{name}}"), item, true);
        if r.namespaced && has("list") {
            let id = format!("list{}{}ForAllNamespaces", self.prefix, r.kind);
            let mut all = Map::new();
            all.insert("get".into(), self.operation("list", &id, LIST, None, &list_name));
            out.paths.insert(format!("{root}/{}", r.plural), Value::Object(all));
        }
        for subresource in &r.subresources {
            self.subresource(&base, subresource, scope, out);
        }
    }

    /// Operations below an object. Streams and proxies (`connect`) have no bodies to describe.
    fn subresource(&self, base: &str, sub: &Subresource, scope: &str, out: &mut Paths) {
        let Some(kind) = self.facts.kind(sub.group, sub.version, sub.kind) else {
            return;
        };
        let name = kind.name.to_string();
        out.types.push(name.clone());
        let tail = format!("{scope}{}{}", self.resource.kind, capital(sub.name));
        let mut operations = Map::new();
        for verb in &sub.verbs {
            let (method, operation) = match *verb {
                "get" => (
                    "get",
                    self.operation("get", &format!("read{}{tail}", self.prefix), &[], None, &name),
                ),
                "update" => (
                    "put",
                    self.operation(
                        "put",
                        &format!("replace{}{tail}", self.prefix),
                        WRITE,
                        Some(&name),
                        &name,
                    ),
                ),
                "patch" => ("patch", self.patch(&format!("patch{}{tail}", self.prefix), &name, out)),
                "create" => (
                    "post",
                    self.operation(
                        "post",
                        &format!("create{}{tail}", self.prefix),
                        WRITE,
                        Some(&name),
                        &name,
                    ),
                ),
                "delete" => (
                    "delete",
                    self.operation("delete", &format!("delete{}{tail}", self.prefix), DELETE, None, &name),
                ),
                _ => continue,
            };
            let mut operation = operation;
            operation["x-kubernetes-group-version-kind"] =
                json!({"group": sub.group, "version": sub.version, "kind": sub.kind});
            operations.insert(method.into(), operation);
        }
        self.insert(out, &format!("{base}/{{name}}/{}", sub.name), operations, true);
    }

    fn insert(&self, out: &mut Paths, path: &str, mut operations: Map<String, Value>, named: bool) {
        if operations.is_empty() {
            return;
        }
        let in_path = |name: &str| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}});
        let mut shared = Vec::new();
        if named {
            shared.push(in_path("name"));
        }
        if self.resource.namespaced {
            shared.push(in_path("namespace"));
        }
        shared.push(json!({"name": "pretty", "in": "query", "schema": {"type": "string", "uniqueItems": true}}));
        operations.insert("parameters".into(), Value::Array(shared));
        out.paths.insert(path.to_owned(), Value::Object(operations));
    }

    fn operation(&self, action: &str, id: &str, query: &[(&str, &str)], body: Option<&str>, result: &str) -> Value {
        let r = self.resource;
        let mut operation = json!({
            "description": format!("{action} {}", r.kind), "operationId": id, "tags": [self.tag], "responses": answer(result),
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": {"group": r.group, "version": r.version, "kind": r.kind},
        });
        if !query.is_empty() {
            operation["parameters"] = parameters(query);
        }
        if let Some(body) = body {
            operation["requestBody"] = json!({"content": contents(&["*/*"], &reference(body))});
        }
        operation
    }

    fn patch(&self, id: &str, result: &str, out: &mut Paths) -> Value {
        let patch = format!("{META}.Patch");
        let mut operation = self.operation("patch", id, PATCH, None, result);
        operation["requestBody"] = json!({"required": true, "content": contents(PATCH_TYPES, &reference(&patch))});
        out.types.push(patch);
        operation
    }
}
