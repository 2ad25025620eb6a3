//! Rules of object metadata, the same for every kind.
//!
//! The generic request path calls, on create: [`prepare_create`], the kind's own preparation, [`validate_create`], the
//! kind's validation. On update: [`prepare_update`], the kind's own, [`bump_generation`], [`validate_update`], the
//! kind's validation. Clock and randomness are arguments.

mod conditions;
mod parts;

pub use conditions::validate_conditions;
pub use parts::{
    ANNOTATIONS_MAX, standard_finalizer, validate_annotations, validate_field_manager, validate_finalizers,
    validate_labels, validate_owners,
};

use crate::Kind;
use crate::view::{View, child, equal_field, put_back, remove, same, same_texts, set};
use parts::{carried, managed_fields};
use serde_json::Value;
use steersman_schema::field::{FieldError, FieldErrors, Path};
use steersman_schema::name;

/// Upstream's alphabet for generated names: no vowels, no letters that look alike.
pub const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// `metadata.name` may be this long when generated: 63, minus five letters.
const GENERATED_PREFIX_MAX: usize = 58;

/// The body says another namespace than the URL. A `BadRequest` with this text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamespaceMismatch;

impl std::fmt::Display for NamespaceMismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the namespace of the provided object does not match the namespace sent on the request")
    }
}
impl std::error::Error for NamespaceMismatch {}

/// `base` with five random letters; `base` is cut so that the whole has at most 63 bytes.
pub fn generate_name(base: &str, random: u64) -> String {
    let mut end = base.len().min(GENERATED_PREFIX_MAX);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut text = base[..end].to_string();
    let mut rest = random;
    for _ in 0..5 {
        text.push(char::from(ALPHABET[(rest % 27) as usize]));
        rest /= 27;
    }
    text
}

/// The namespace of the object must be the request's; an unset one is filled in. `namespace` is `None` for
/// cluster-scoped kinds, whose namespace is cleared.
///
/// # Errors
/// When both are set and differ.
pub fn ensure_namespace(object: &mut Value, namespace: Option<&str>) -> Result<(), NamespaceMismatch> {
    let own = object.text("/metadata/namespace").to_string();
    let wanted = namespace.unwrap_or_default();
    if own == wanted {
        return Ok(());
    }
    if !own.is_empty() && !wanted.is_empty() {
        return Err(NamespaceMismatch);
    }
    if let Some(metadata) = child(object, "metadata") {
        if wanted.is_empty() {
            remove(metadata, "namespace");
        } else {
            set(metadata, "namespace", wanted);
        }
    }
    Ok(())
}

/// Everything the server owns is set, whatever the client sent: uid, creation time, generation 1 if the kind counts;
/// deletion marks and selfLink go. A name is made from `generateName` if there is none.
///
/// # Errors
/// See [`ensure_namespace`].
pub fn prepare_create(
    kind: &Kind,
    object: &mut Value,
    namespace: Option<&str>,
    uid: &str,
    now: &str,
    random: u64,
) -> Result<(), NamespaceMismatch> {
    ensure_namespace(object, namespace)?;
    let Some(metadata) = child(object, "metadata") else {
        return Ok(());
    };
    for key in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "generation",
    ] {
        remove(metadata, key);
    }
    set(metadata, "uid", uid);
    set(metadata, "creationTimestamp", now);
    if kind.generation {
        set(metadata, "generation", 1);
    }
    let base = metadata.text("/generateName").to_string();
    if metadata.text("/name").is_empty() && !base.is_empty() {
        set(metadata, "name", generate_name(&base, random));
    }
    Ok(())
}

/// Puts back what an update never changes: generation (see [`bump_generation`]), uid if unset, times of birth and
/// death, grace, selfLink.
///
/// # Errors
/// See [`ensure_namespace`].
pub fn prepare_update(new: &mut Value, old: &Value, namespace: Option<&str>) -> Result<(), NamespaceMismatch> {
    ensure_namespace(new, namespace)?;
    let before = old.at("/metadata");
    let Some(metadata) = child(new, "metadata") else {
        return Ok(());
    };
    put_back(metadata, before, "generation");
    put_back(metadata, before, "creationTimestamp");
    remove(metadata, "selfLink");
    if metadata.text("/uid").is_empty() {
        put_back(metadata, before, "uid");
    }
    if before.has("/deletionTimestamp") {
        put_back(metadata, before, "deletionTimestamp");
    }
    if before.has("/deletionGracePeriodSeconds") && !metadata.has("/deletionGracePeriodSeconds") {
        put_back(metadata, before, "deletionGracePeriodSeconds");
    }
    Ok(())
}

/// Raises `metadata.generation` when the kind counts and something besides metadata and status changed. Call after the
/// kind's `prepare_update`.
pub fn bump_generation(kind: &Kind, new: &mut Value, old: &Value) {
    if !kind.generation {
        return;
    }
    let (Some(a), Some(b)) = (new.as_object(), old.as_object()) else {
        return;
    };
    let counts = |key: &str| !matches!(key, "metadata" | "status" | "apiVersion" | "kind");
    let changed = a.keys().chain(b.keys()).any(|k| counts(k) && !equal_field(new, old, k));
    // Upstream tells an empty list from none here.
    let exactly = kind.plural == "networkpolicies" && new.at("/spec") != old.at("/spec");
    // Deployments copy their annotations to their ReplicaSets, so there annotations count too.
    let annotated = kind.group == "apps"
        && kind.plural == "deployments"
        && !same_texts(new.at("/metadata/annotations"), old.at("/metadata/annotations"));
    if changed || annotated || exactly {
        // From the old number, so that a kind that raised it for its own reasons raises it once.
        let next = old.int("/metadata/generation") + 1;
        if let Some(metadata) = child(new, "metadata") {
            set(metadata, "generation", next);
        }
    }
}

fn base_faults(object: &Value, validate_name: fn(&str, bool) -> Vec<String>) -> FieldErrors {
    let base = object.text("/metadata/generateName");
    if base.is_empty() {
        return Vec::new();
    }
    let path = Path::new("metadata").child("generateName");
    crate::view::invalid(&path, base, validate_name(base, true))
}

/// Whether faults of metadata are only looked for once the kind itself has found none: upstream's own checks of these
/// kinds know nothing of metadata.
pub fn comes_last(kind: &Kind) -> bool {
    matches!(kind.plural, "events" | "poddisruptionbudgets")
}

/// Every fault of a new object's metadata. `validate_name` is the kind's.
pub fn validate_create(object: &Value, namespaced: bool, validate_name: fn(&str, bool) -> Vec<String>) -> FieldErrors {
    let mut errors = validate(object, namespaced, validate_name);
    errors.extend(strange_finalizers(object));
    errors
}

/// The same, without what only the kinds of most groups ask of finalizers.
fn validate(object: &Value, namespaced: bool, validate_name: fn(&str, bool) -> Vec<String>) -> FieldErrors {
    let path = Path::new("metadata");
    let mut errors = base_faults(object, validate_name);
    if errors.is_empty() {
        errors.extend(base_faults(object, path_segment));
    }
    let own = object.text("/metadata/name");
    if own.is_empty() {
        errors.push(FieldError::required(
            &path.child("name"),
            "name or generateName is required",
        ));
    } else {
        let path = path.child("name");
        errors.extend(
            validate_name(own, false)
                .into_iter()
                .map(|m| FieldError::invalid(&path, own, m)),
        );
        // Kinds that take any name still need one that fits into a URL.
        if errors.is_empty() {
            errors.extend(
                name::path_segment(own)
                    .into_iter()
                    .map(|m| FieldError::invalid(&path, own, m)),
            );
        }
    }
    errors.extend(common(object, namespaced, &path));
    errors
}

fn common(object: &Value, namespaced: bool, path: &Path) -> FieldErrors {
    let meta = object.at("/metadata");
    let mut errors = Vec::new();
    let namespace = meta.text("/namespace");
    let place = path.child("namespace");
    if !namespaced {
        if !namespace.is_empty() {
            errors.push(FieldError::forbidden(&place, "not allowed on this type"));
        }
    } else if namespace.is_empty() {
        errors.push(FieldError::required(&place, ""));
    } else {
        errors.extend(
            name::dns1123_label(namespace)
                .into_iter()
                .map(|m| FieldError::invalid(&place, namespace, m)),
        );
    }
    if meta.int("/generation") < 0 {
        let place = path.child("generation");
        errors.push(FieldError::invalid(
            &place,
            meta.int("/generation"),
            "must be greater than or equal to 0",
        ));
    }
    errors.extend(carried(meta, path));
    errors.extend(validate_finalizers(
        meta.items("/finalizers"),
        &path.child("finalizers"),
    ));
    errors.extend(managed_fields(
        meta.items("/managedFields"),
        &path.child("managedFields"),
    ));
    errors
}

/// Finalizers without a domain that upstream does not know, of kinds that care.
pub(crate) fn strange_finalizers(object: &Value) -> FieldErrors {
    match plain_finalizers(object) {
        true => Vec::new(),
        false => unqualified_finalizers(object),
    }
}

/// Groups whose validation upstream knows nothing of core's finalizer names.
fn plain_finalizers(object: &Value) -> bool {
    let group = object.text("/apiVersion").split('/').next().unwrap_or_default();
    if object.text("/kind") == "Event" {
        return true;
    }
    matches!(
        group,
        "admissionregistration.k8s.io"
            | "apiextensions.k8s.io"
            | "apiregistration.k8s.io"
            | "coordination.k8s.io"
            | "events.k8s.io"
            | "node.k8s.io"
            | "policy"
    )
}

/// Finalizers without a domain, of an object whose kind is [checked by itself](plain_finalizers) in that.
pub fn unqualified_finalizers(object: &Value) -> FieldErrors {
    let path = Path::new("metadata").child("finalizers");
    let names = object.items("/metadata/finalizers").iter().enumerate();
    names
        .filter_map(|(i, name)| standard_finalizer(name.as_str().unwrap_or_default(), &path.index(i)))
        .collect()
}

/// Faults of a change of metadata that are looked for whatever the kind; call after [`prepare_update`].
pub fn validate_update(new: &Value, old: &Value, namespaced: bool) -> FieldErrors {
    let mut errors = validate(new, namespaced, path_segment);
    errors.extend(validate_change(new, old));
    errors
}

/// Faults of what changes, and of what is looked at whether it changes or not.
pub(crate) fn validate_change(new: &Value, old: &Value) -> FieldErrors {
    let path = Path::new("metadata");
    let mut errors = Vec::new();
    let (meta, before) = (new.at("/metadata"), old.at("/metadata"));
    if before.has("/deletionTimestamp") {
        errors.extend(no_new_finalizers(meta, before, &path.child("finalizers")));
    }
    if meta.text("/resourceVersion").is_empty() {
        errors.push(FieldError::invalid(
            &path.child("resourceVersion"),
            "",
            "must be specified for an update",
        ));
    }
    if meta.int("/generation") < before.int("/generation") {
        let place = path.child("generation");
        errors.push(FieldError::invalid(
            &place,
            meta.int("/generation"),
            "must not be decremented",
        ));
    }
    for key in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        let (a, b) = (
            meta.get(key).unwrap_or(&Value::Null),
            before.get(key).unwrap_or(&Value::Null),
        );
        let equal = if key == "deletionGracePeriodSeconds" {
            a == b
        } else {
            same(a, b)
        };
        if !equal {
            let shown = if a.is_null() && matches!(key, "name" | "namespace" | "uid") {
                &Value::from("")
            } else {
                a
            };
            errors.push(FieldError::invalid(&path.child(key), shown, "field is immutable"));
        }
    }
    errors.extend(carried(meta, &path));
    errors
}

/// The fault of an update without resourceVersion, for kinds that demand one. A `422 Invalid` with this alone.
pub fn version_required() -> FieldError {
    FieldError::invalid(
        &Path::new("metadata").child("resourceVersion"),
        0_i64,
        "must be specified for an update",
    )
}

fn path_segment(text: &str, prefix: bool) -> Vec<String> {
    if prefix {
        name::path_segment_prefix(text)
    } else {
        name::path_segment(text)
    }
}

fn no_new_finalizers(meta: &Value, before: &Value, path: &Path) -> FieldErrors {
    let had = before.items("/finalizers");
    let mut extra: Vec<&str> = meta
        .items("/finalizers")
        .iter()
        .filter(|f| !had.contains(f))
        .filter_map(Value::as_str)
        .collect();
    if extra.is_empty() {
        return Vec::new();
    }
    extra.sort_unstable();
    extra.dedup();
    let shown: Vec<String> = extra.iter().map(|f| steersman_schema::field::quote(f)).collect();
    let why = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
        shown.join(", ")
    );
    vec![FieldError::forbidden(path, why)]
}

/// Names that are subdomains: most kinds.
pub fn name_subdomain(text: &str, prefix: bool) -> Vec<String> {
    name::dns1123_subdomain(&mask(text, prefix))
}
/// Names that are labels: namespaces, services.
pub fn name_label(text: &str, prefix: bool) -> Vec<String> {
    name::dns1123_label(&mask(text, prefix))
}
/// Names that only need to fit into a path: RBAC objects.
pub fn name_path_segment(text: &str, prefix: bool) -> Vec<String> {
    path_segment(text, prefix)
}

/// A prefix may end with a dash: the suffix follows it.
fn mask(text: &str, prefix: bool) -> String {
    match text.strip_suffix('-') {
        Some(rest) if prefix && !rest.is_empty() => {
            let mut chars = rest.chars();
            chars.next_back();
            format!("{}a", chars.as_str())
        }
        _ => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(errors: &FieldErrors) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn generated_names_have_five_letters_and_fit_a_label() {
        let short = generate_name("web-", 12345);
        assert!(short.starts_with("web-") && short.len() == 9, "{short}");
        assert_eq!(generate_name(&"a".repeat(100), u64::MAX).len(), 63);
        assert!(generate_name(&"é".repeat(40), 7).len() <= 63);
    }

    #[test]
    fn metadata_faults_have_upstreams_words() {
        let object = json!({"metadata": {"namespace": "x", "labels": {"a b": "c d"},
            "finalizers": ["kubernetes", "orphan", "foregroundDeletion"],
            "ownerReferences": [{"apiVersion": "v1", "kind": "A", "name": "b", "uid": "c", "controller": true},
                                {"apiVersion": "v1", "kind": "D", "name": "e", "uid": "f", "controller": true}]}});
        let got = texts(&validate_create(&object, true, name_subdomain));
        assert_eq!(
            got[0],
            "metadata.name: Required value: name or generateName is required"
        );
        assert!(got[1].starts_with("metadata.labels: Invalid value: \"a b\": name part must consist of"));
        assert!(got[2].starts_with("metadata.labels: Invalid value: \"c d\": a valid label must be"));
        assert!(got[3].ends_with(
            "Only one reference can have Controller set to true. Found \"true\" in references for A/b and D/e"
        ));
        assert!(got[4].starts_with("metadata.finalizers: Invalid value: [\"kubernetes\",\"orphan\""));
    }

    #[test]
    fn an_update_may_not_touch_identity() {
        let old = json!({"metadata": {"name": "a", "namespace": "n", "uid": "1", "resourceVersion": "5",
            "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 3}});
        let mut new = json!({"metadata": {"name": "b", "namespace": "n", "uid": "2"}});
        assert_eq!(prepare_update(&mut new, &old, Some("n")), Ok(()));
        assert_eq!(
            texts(&validate_update(&new, &old, true)),
            [
                "metadata.resourceVersion: Invalid value: \"\": must be specified for an update",
                "metadata.name: Invalid value: \"b\": field is immutable",
                "metadata.uid: Invalid value: \"2\": field is immutable",
            ]
        );
        assert_eq!(prepare_update(&mut new, &old, Some("m")), Err(NamespaceMismatch));
    }

    #[test]
    fn annotations_share_one_budget() {
        let object = json!({"a": "x".repeat(ANNOTATIONS_MAX)});
        assert_eq!(
            texts(&validate_annotations(
                &object,
                &Path::new("metadata").child("annotations")
            )),
            ["metadata.annotations: Too long: may not be more than 262144 bytes"]
        );
    }

    #[test]
    fn a_dying_object_gets_no_new_finalizer() {
        let old =
            json!({"metadata": {"name": "a", "resourceVersion": "1", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let mut new = old.clone();
        new["metadata"]["finalizers"] = json!(["x/y"]);
        assert_eq!(
            texts(&validate_update(&new, &old, false)),
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"x/y\"}"
            ]
        );
    }

    #[test]
    fn prefixes_may_end_with_a_dash() {
        assert!(name_label("web-", true).is_empty());
        assert!(!name_label("web-", false).is_empty());
    }
}
