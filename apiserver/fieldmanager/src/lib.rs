//! Who owns which field of an object, and server-side apply (upstream: KEP-555, `apimachinery/pkg/util/managedfields`).
//!
//! Called by the request path: [`FieldManager::update`] after a create, update or patch has been put together and before
//! admission changes it; [`FieldManager::apply`] for a PATCH of type apply. Everything here is a pure function of the
//! objects, the time and the table of API facts; nothing knows of requests or of the store.
//!
//! What stays true: an update never fails for what is owned, it takes it; an apply that is not forced changes nothing that
//! somebody else owns, and removes only what the same applier applied before and nobody else owns.

pub mod element;
pub mod managers;
pub mod set;
pub mod shape;
pub mod typed;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::LazyLock;

use serde_json::{Map, Value};
use steersman_schema::codec::{self, MediaType};
use steersman_schema::facts::Type;

use crate::element::{Element, path_text};
use crate::managers::{Manager, Managers, Operation, Owned, is_reset};
use crate::set::Set;
use crate::shape::{Shape, with_named_fields};
use crate::typed::{Difference, compare, fields, merge, remove};

/// The annotation that `kubectl apply` keeps on the client's side.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The applier that takes over from `kubectl apply` without `--server-side`.
const KUBECTL: &str = "kubectl";
/// The owner of all that an object had before ownership was tracked.
const BEFORE: &str = "before-first-apply";

/// Fields that nobody owns: they are the server's, or part of the object's name.
static NOBODYS: LazyLock<Set> = LazyLock::new(|| {
    Set::of_fields(&[
        "apiVersion",
        "kind",
        "metadata",
        "metadata.name",
        "metadata.namespace",
        "metadata.creationTimestamp",
        "metadata.selfLink",
        "metadata.uid",
        "metadata.clusterName",
        "metadata.generation",
        "metadata.managedFields",
        "metadata.resourceVersion",
    ])
});

/// Everything that decides about ownership besides the objects.
pub struct FieldManager<'a> {
    /// The kind in the version in which the request speaks.
    pub ty: &'static Type,
    /// That version, as objects carry it.
    pub version: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// What requests of this kind cannot change, and so do not own (upstream: `GetResetFields`).
    pub reset: &'a Set,
    /// An object in another version and the type there; `None`: no such version is served.
    pub convert: &'a dyn Fn(&Value, &str) -> Option<(Value, &'static Type)>,
    /// RFC 3339.
    pub now: &'a str,
}

/// A field that an apply would change and that somebody else owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Who, as upstream's texts say it: `"kubectl" using apps/v1`.
    pub manager: String,
    pub path: Vec<Element>,
}

impl Conflict {
    /// The field, as upstream's texts name it.
    #[must_use]
    pub fn field(&self) -> String {
        path_text(&self.path)
    }
}

/// Why an apply is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    Conflicts(Vec<Conflict>),
    /// The request is wrong: upstream's text.
    Bad(String),
    /// The configuration does not fit the kind: upstream's text.
    Misfit(String),
}

/// The message of conflicts.
#[must_use]
pub fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [only] = conflicts {
        return format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            only.manager,
            only.field()
        );
    }
    let mut managers: Vec<&str> = conflicts.iter().map(|conflict| conflict.manager.as_str()).collect();
    managers.sort_unstable();
    managers.dedup();
    let mut lines = Vec::new();
    for manager in managers {
        lines.push(format!("conflicts with {manager}:"));
        let theirs = conflicts.iter().filter(|conflict| conflict.manager == manager);
        lines.extend(theirs.map(|conflict| format!("- {}", conflict.field())));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// An object as Go shows it: without what it leaves out, with the zero values that it prints. Two objects that Go holds
/// for the same have the same fields here.
fn shown(object: &Value) -> Value {
    let bytes = codec::encode(MediaType::Json, object).unwrap_or_default();
    let mut value = serde_json::from_slice(&bytes).unwrap_or_else(|_| object.clone());
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    value
}

impl FieldManager<'_> {
    fn shape(&self) -> Shape {
        Shape::of_type(self.ty)
    }

    fn manager(&self, name: &str, operation: Operation) -> Manager {
        Manager::new(name, operation, self.version, self.subresource)
    }

    /// Writes into `new` who owns what after somebody changed `live` (`None`: created) into it.
    ///
    /// What the request says of `managedFields` counts on the object itself, if it can be read: so a client may reset or
    /// correct the list. Objects that were never tracked stay so until somebody applies to them.
    pub fn update(&self, live: Option<&Value>, new: &mut Value, manager: &str) {
        let of_live = || live.and_then(|live| Managers::read(live).ok()).unwrap_or_default();
        let mut managers = if !self.subresource.is_empty() {
            of_live()
        } else if is_reset(new) {
            Managers::default()
        } else {
            match Managers::read(new) {
                Ok(managers) if !managers.0.is_empty() => managers,
                _ => of_live(),
            }
        };
        if managers.0.is_empty() && live.is_some() {
            managers.write(new);
            return;
        }
        let empty = self.empty();
        let before = shown(live.unwrap_or(&empty));
        self.take(
            &before,
            &shown(new),
            &mut managers,
            &self.manager(manager, Operation::Update),
        );
        managers.write(new);
    }

    /// An object of the kind with nothing in it.
    fn empty(&self) -> Value {
        let mut object = Map::new();
        object.insert("apiVersion".into(), self.version.into());
        object.insert("kind".into(), self.ty.short.into());
        Value::Object(object)
    }

    /// The difference of two objects in the version in which an owner speaks.
    fn difference(&self, old: &Value, new: &Value, version: &str) -> Option<Difference> {
        let difference = if version == self.version {
            compare(old, new, self.shape())
        } else {
            let ((old, ty), (new, _)) = ((self.convert)(old, version)?, (self.convert)(new, version)?);
            compare(&shown(&old), &shown(&new), Shape::of_type(ty))
        };
        Some(difference.ignoring(self.reset))
    }

    /// An update: what changed is the updater's now, and nobody else's.
    fn take(&self, old: &Value, new: &Value, managers: &mut Managers, manager: &Manager) {
        let Some(own) = self.difference(old, new, self.version) else {
            return;
        };
        managers.0.retain(|_, owned| {
            let difference = if owned.version == self.version {
                Cow::Borrowed(&own)
            } else {
                match self.difference(old, new, &owned.version) {
                    Some(difference) => Cow::Owned(difference),
                    None => return false,
                }
            };
            let lost = owned.set.intersection(&difference.written()).union(&difference.removed);
            owned.set = owned.set.difference(&lost);
            !owned.set.is_empty()
        });
        let won = own.written().difference(&NOBODYS);
        if !won.is_empty() {
            let entry = managers.0.entry(manager.clone()).or_insert_with(|| Owned {
                version: self.version.to_owned(),
                set: Set::default(),
                time: None,
            });
            entry.set = entry.set.union(&won);
            // Upstream's way through the scale subresource keeps no time.
            entry.time = (self.subresource != "scale").then(|| self.now.to_owned());
        }
        managers.cap();
    }

    /// Applies a configuration to the live object: the result, with `managedFields`; it is not defaulted.
    ///
    /// # Errors
    /// Conflicts, unless `force`; what is wrong with the configuration.
    pub fn apply(&self, live: &Value, config: &Value, manager: &str, force: bool) -> Result<Value, Refusal> {
        self.check(config)?;
        let mut managers =
            Managers::read(live).map_err(|why| Refusal::Misfit(format!("failed to decode managed fields: {why}")))?;
        let before = shown(live);
        let exists = live
            .pointer("/metadata/uid")
            .and_then(Value::as_str)
            .is_some_and(|uid| !uid.is_empty());
        if managers.0.is_empty() && exists {
            let first = self.manager(BEFORE, Operation::Update);
            self.take(&shown(&self.empty()), &before, &mut managers, &first);
        }
        let outcome = match self.put(&before, config, managers.clone(), manager, force) {
            Err(Refusal::Conflicts(conflicts)) if manager == KUBECTL => {
                // What kubectl applied on its own side and nobody changed since is its own.
                let own = self.last_applied(&before).unwrap_or_default();
                let left: Vec<Conflict> = conflicts.into_iter().filter(|c| !own.has(&c.path)).collect();
                if left.is_empty() {
                    self.put(&before, config, managers, manager, true)
                } else {
                    Err(Refusal::Conflicts(left))
                }
            }
            other => other,
        };
        let (merged, managers) = outcome?;
        let mut object = merged.unwrap_or(before);
        if manager == KUBECTL {
            keep_last_applied(&mut object, config);
        }
        managers.write(&mut object);
        Ok(object)
    }

    fn check(&self, config: &Value) -> Result<(), Refusal> {
        let text = |pointer: &str| config.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        if config
            .pointer("/metadata/managedFields")
            .is_some_and(|fields| !fields.is_null())
        {
            return Err(Refusal::Bad("metadata.managedFields must be nil".into()));
        }
        let faults = typed::faults(config, self.shape());
        if faults.is_empty() {
            return Ok(());
        }
        let (group, version) = steersman_schema::facts::split_api_version(self.version);
        let gvk = if group.is_empty() {
            format!("/{version}")
        } else {
            self.version.to_owned()
        };
        let faults = match faults.as_slice() {
            [only] => only.clone(),
            several => format!("errors:\n  {}", several.join("\n  ")),
        };
        Err(Refusal::Misfit(format!(
            "failed to create typed patch object ({}/{}; {gvk}, Kind={}): {faults}",
            text("/metadata/namespace"),
            text("/metadata/name"),
            self.ty.short
        )))
    }

    /// One attempt: the merged object (`None`: it is as it was) and the owners.
    fn put(
        &self,
        live: &Value,
        config: &Value,
        mut managers: Managers,
        manager: &str,
        force: bool,
    ) -> Result<(Option<Value>, Managers), Refusal> {
        let shape = self.shape();
        let own = self.manager(manager, Operation::Apply);
        let merged = merge(Some(live), Some(config), shape).unwrap_or_else(|| live.clone());
        let last = managers.0.get(&own).cloned();
        let entry = managers.0.entry(own.clone()).or_insert_with(|| Owned {
            version: self.version.to_owned(),
            set: Set::default(),
            time: None,
        });
        self.version.clone_into(&mut entry.version);
        entry.set = fields(config, shape).without(self.reset);
        let new = match &last {
            Some(last) if !last.set.is_empty() => self.prune(&merged, &managers, last),
            _ => merged,
        };
        let mut conflicts = Vec::new();
        let mut losses = Vec::new();
        for (other, owned) in &managers.0 {
            if *other == own {
                continue;
            }
            // Owners who speak in a version that is no longer served lose everything.
            let Some(difference) = self.difference(live, &new, &owned.version) else {
                losses.push((other.clone(), owned.set.clone()));
                continue;
            };
            let taken = owned.set.intersection(&difference.written());
            let shown = describe(other, owned);
            conflicts.extend(taken.paths().into_iter().map(|path| Conflict {
                manager: shown.clone(),
                path,
            }));
            losses.push((other.clone(), taken.union(&difference.removed)));
        }
        if !force && !conflicts.is_empty() {
            return Err(Refusal::Conflicts(conflicts));
        }
        for (other, lost) in losses {
            if let Some(owned) = managers.0.get_mut(&other) {
                owned.set = owned.set.difference(&lost);
            }
        }
        let same = *live == new;
        if let Some(owned) = managers.0.get_mut(&own) {
            owned.set = owned.set.difference(&NOBODYS);
            if !same {
                owned.time = Some(self.now.to_owned());
            }
        }
        managers.sweep();
        Ok(((!same).then_some(new), managers))
    }

    /// Removes what the applier applied last time, does not apply now, and nobody else owns.
    fn prune(&self, merged: &Value, managers: &Managers, last: &Owned) -> Value {
        let Some((at_last, ty)) = self.in_version(merged, &last.version) else {
            return merged.clone();
        };
        let shape = Shape::of_type(ty);
        let named = |set: &Set| with_named_fields(set, shape);
        let fields_of = |value: &Value| named(&fields(value, shape));
        let without = |set: &Set| remove(&at_last, set, shape).unwrap_or_else(|| at_last.clone());
        let (all, applied) = (fields_of(&at_last), named(&last.set));
        let mut owned = Set::default();
        for other in managers.0.values() {
            owned = owned.union(&self.owned_in(&at_last, other, &last.version));
        }
        // First all that was applied goes, then what somebody owns comes back, then what only went along with a parent.
        let pruned = without(&applied);
        let pruned = without(&all.difference(&fields_of(&pruned).union(&named(&owned))));
        let pruned = without(&all.difference(&fields_of(&pruned)).intersection(&applied));
        match self.back(&pruned, &last.version) {
            Some(value) => value,
            None => merged.clone(),
        }
    }

    fn in_version(&self, object: &Value, version: &str) -> Option<(Value, &'static Type)> {
        if version == self.version {
            return Some((object.clone(), self.ty));
        }
        (self.convert)(object, version).map(|(object, ty)| (shown(&object), ty))
    }

    fn back(&self, object: &Value, version: &str) -> Option<Value> {
        if version == self.version {
            return Some(object.clone());
        }
        (self.convert)(object, self.version).map(|(object, _)| object)
    }

    /// An owner's fields as another version names them: those which are left when everything else is removed there.
    fn owned_in(&self, object: &Value, owned: &Owned, version: &str) -> Set {
        if owned.version == version {
            return owned.set.clone();
        }
        // Across versions names may differ: what the owner's part of the object becomes is what it owns.
        let part = || {
            let (theirs, ty) = if owned.version == self.version {
                (self.back(object, version)?, self.ty)
            } else {
                (self.convert)(&self.back(object, version)?, &owned.version)?
            };
            let shape = Shape::of_type(ty);
            let set = with_named_fields(&owned.set, shape);
            let others = with_named_fields(&fields(&theirs, shape), shape).difference(&set);
            let mut left = remove(&theirs, &others, shape)?;
            left["apiVersion"] = theirs["apiVersion"].clone();
            left["kind"] = theirs["kind"].clone();
            let (converted, ty) = self.between(&left, &owned.version, version)?;
            Some(fields(&converted, Shape::of_type(ty)))
        };
        part().unwrap_or_default()
    }

    fn between(&self, object: &Value, from: &str, to: &str) -> Option<(Value, &'static Type)> {
        if to == self.version {
            let object = if from == self.version {
                object.clone()
            } else {
                (self.convert)(object, self.version)?.0
            };
            return Some((object, self.ty));
        }
        (self.convert)(object, to)
    }

    /// The fields that `kubectl apply` set on the client's side and that are still as it set them.
    fn last_applied(&self, live: &Value) -> Option<Set> {
        let annotations = live.pointer("/metadata/annotations")?;
        let text = annotations
            .get(LAST_APPLIED)?
            .as_str()
            .filter(|text| !text.is_empty())?;
        let applied: Value = serde_json::from_str(text).ok()?;
        if applied.get("apiVersion")?.as_str()? != self.version {
            return None;
        }
        let shape = self.shape();
        let difference = compare(&applied, live, shape);
        let set = fields(&applied, shape).difference(&difference.modified);
        Some(set.difference(&difference.added).difference(&difference.removed))
    }
}

/// Keeps the annotation of client-side apply true, so that a user can go back to it.
fn keep_last_applied(object: &mut Value, config: &Value) {
    let has = object
        .pointer("/metadata/annotations")
        .and_then(|annotations| annotations.get(LAST_APPLIED))
        .and_then(Value::as_str)
        .is_some_and(|text| !text.is_empty());
    if !has {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = config
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.remove(LAST_APPLIED);
    }
    if let Some(annotations) = object
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.insert(LAST_APPLIED.into(), format!("{config}\n").into());
    }
}

/// An owner as conflicts name it.
fn describe(manager: &Manager, owned: &Owned) -> String {
    let mut text = format!("{:?}", manager.name);
    if !manager.subresource.is_empty() {
        text = format!("{text} with subresource {:?}", manager.subresource);
    }
    if manager.operation == Operation::Update {
        text = format!("{text} using {}", owned.version);
    }
    text
}
