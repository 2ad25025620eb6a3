//! Roles and who has them: Role, ClusterRole, RoleBinding, ClusterRoleBinding.
//!
//! Whether a user may grant what a role or binding says (escalation) is decided elsewhere: it needs the user's rights.

use crate::table::{self, AGE, NAME, column};
use crate::view::{View, child, each_mut, same, set_if_empty};
use crate::{Column, Kind, Table, nothing, selector};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use steersman_schema::field::{BadValue, FieldError, FieldErrors, Path, go_json};
use steersman_schema::name;

const GROUP: &str = "rbac.authorization.k8s.io";

pub static KINDS: &[&Kind] = &[&ROLE, &CLUSTER_ROLE, &ROLE_BINDING, &CLUSTER_ROLE_BINDING];

pub static ROLE: Kind = Kind {
    kind: "Role",
    plural: "roles",
    validate: |role| rules(role, true),
    validate_update: |new, _| rules(new, true),
    example: "apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: default}
rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]
",
    ..BASE
};

pub static CLUSTER_ROLE: Kind = Kind {
    kind: "ClusterRole",
    plural: "clusterroles",
    validate: cluster_role,
    validate_update: |new, _| cluster_role(new),
    example: "apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reader}
rules: [{nonResourceURLs: [/healthz], verbs: [get]}]
",
    ..BASE
};

pub static ROLE_BINDING: Kind = Kind {
    kind: "RoleBinding",
    plural: "rolebindings",
    default: default_binding,
    validate: |binding| validate_binding(binding, true),
    validate_update: |new, old| validate_binding_update(new, old, true),
    table: Some(Table {
        columns: COLUMNS,
        row,
        conditions: nothing::conditions,
    }),
    example: "apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: readers, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: User, name: ada, apiGroup: rbac.authorization.k8s.io}]
",
    ..BASE
};

pub static CLUSTER_ROLE_BINDING: Kind = Kind {
    kind: "ClusterRoleBinding",
    plural: "clusterrolebindings",
    default: default_binding,
    validate: |binding| validate_binding(binding, false),
    validate_update: |new, old| validate_binding_update(new, old, false),
    table: Some(Table {
        columns: COLUMNS,
        row,
        conditions: nothing::conditions,
    }),
    example: "apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: readers}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}
subjects: [{kind: ServiceAccount, name: robot, namespace: default}]
",
    ..BASE
};

/// What the four share.
const BASE: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "",
    plural: "",
    default: nothing::default,
    prepare_create: nothing::prepare_create,
    prepare_update: nothing::prepare_update,
    validate: nothing::validate,
    validate_update: nothing::validate_update,
    warnings: nothing::warnings,
    validate_name: |text, _| name::path_segment(text),
    status: None,
    updates: &[],
    generation: false,
    create_on_update: true,
    unconditional_update: true,
    scale: None,
    grace: None,
    orphans_by_default: false,
    fields: &[],
    table: None,
    example: "",
};

fn default_binding(binding: &mut Value) {
    if let Some(role) = child(binding, "roleRef") {
        set_if_empty(role, "apiGroup", GROUP);
    }
    for subject in each_mut(binding, "/subjects") {
        if matches!(subject.text("/kind"), "User" | "Group") {
            set_if_empty(subject, "apiGroup", GROUP);
        }
    }
}

fn rules(role: &Value, namespaced: bool) -> FieldErrors {
    let list = role.items("/rules").iter().enumerate();
    list.flat_map(|(i, rule)| validate_rule(rule, namespaced, &Path::new("rules").index(i)))
        .collect()
}

/// Faults of one rule.
pub fn validate_rule(rule: &Value, namespaced: bool, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let empty = |p: &str| rule.items(p).is_empty();
    if empty("/verbs") {
        errors.push(FieldError::required(
            &path.child("verbs"),
            "verbs must contain at least one value",
        ));
    }
    if !empty("/nonResourceURLs") {
        let urls = path.child("nonResourceURLs");
        let shown = rule.at("/nonResourceURLs");
        if namespaced {
            errors.push(FieldError::invalid(
                &urls,
                shown,
                "namespaced rules cannot apply to non-resource URLs",
            ));
        }
        if !(empty("/apiGroups") && empty("/resources") && empty("/resourceNames")) {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            errors.push(FieldError::invalid(&urls, shown, why));
        }
        return errors;
    }
    if empty("/apiGroups") {
        let why = "resource rules must supply at least one api group";
        errors.push(FieldError::required(&path.child("apiGroups"), why));
    }
    if empty("/resources") {
        let why = "resource rules must supply at least one resource";
        errors.push(FieldError::required(&path.child("resources"), why));
    }
    errors
}

fn cluster_role(role: &Value) -> FieldErrors {
    let mut errors = rules(role, false);
    if role.has("/aggregationRule") {
        let path = Path::new("aggregationRule").child("clusterRoleSelectors");
        let selectors = role.items("/aggregationRule/clusterRoleSelectors");
        if selectors.is_empty() {
            let why = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            errors.push(FieldError::required(&path, why));
        }
        for (i, value) in selectors.iter().enumerate() {
            if let Ok(typed) = steersman_types::LabelSelector::deserialize(value) {
                let faults = selector::validate(&typed, false, &path.index(i));
                let usable = faults.is_empty();
                errors.extend(faults);
                if !usable {
                    errors.push(FieldError::invalid(
                        &path.index(i),
                        Value::Null,
                        "invalid label selector.",
                    ));
                }
            }
        }
    }
    errors
}

fn validate_binding(binding: &Value, namespaced: bool) -> FieldErrors {
    let path = Path::new("roleRef");
    let mut errors = Vec::new();
    let group = binding.text("/roleRef/apiGroup");
    if group != GROUP {
        errors.push(FieldError::not_supported(
            &path.child("apiGroup"),
            BadValue::plain(group),
            &[GROUP],
        ));
    }
    let kinds: &[&str] = if namespaced {
        &["Role", "ClusterRole"]
    } else {
        &["ClusterRole"]
    };
    let kind = binding.text("/roleRef/kind");
    if !kinds.contains(&kind) {
        errors.push(FieldError::not_supported(
            &path.child("kind"),
            BadValue::plain(kind),
            kinds,
        ));
    }
    let role = binding.text("/roleRef/name");
    if role.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    } else {
        let found = name::path_segment(role);
        errors.extend(
            found
                .into_iter()
                .map(|m| FieldError::invalid(&path.child("name"), role, m)),
        );
    }
    for (i, subject) in binding.items("/subjects").iter().enumerate() {
        errors.extend(validate_subject(subject, namespaced, &Path::new("subjects").index(i)));
    }
    errors
}

fn validate_subject(subject: &Value, namespaced: bool, path: &Path) -> FieldErrors {
    let mut errors = Vec::new();
    let who = subject.text("/name");
    if who.is_empty() {
        errors.push(FieldError::required(&path.child("name"), ""));
    }
    let group = subject.text("/apiGroup");
    let place = path.child("apiGroup");
    match subject.text("/kind") {
        "ServiceAccount" => {
            if !who.is_empty() {
                let found = name::dns1123_subdomain(who);
                errors.extend(
                    found
                        .into_iter()
                        .map(|m| FieldError::invalid(&path.child("name"), who, m)),
                );
            }
            if !group.is_empty() {
                errors.push(FieldError::not_supported(&place, BadValue::plain(group), &[""]));
            }
            if !namespaced && subject.text("/namespace").is_empty() {
                errors.push(FieldError::required(&path.child("namespace"), ""));
            }
        }
        "User" | "Group" if group != GROUP => {
            errors.push(FieldError::not_supported(&place, BadValue::plain(group), &[GROUP]))
        }
        "User" | "Group" => {}
        other => {
            let kinds = ["ServiceAccount", "User", "Group"];
            errors.push(FieldError::not_supported(
                &path.child("kind"),
                BadValue::plain(other),
                &kinds,
            ));
        }
    }
    errors
}

fn validate_binding_update(new: &Value, old: &Value, namespaced: bool) -> FieldErrors {
    let mut errors = validate_binding(new, namespaced);
    if !same(new.at("/roleRef"), old.at("/roleRef")) {
        // Upstream prints its internal struct here, whose fields carry Go's names.
        let part = |key: &str| go_json(&Value::from(new.at("/roleRef").text(key)));
        let shown = format!(
            "{{\"APIGroup\":{},\"Kind\":{},\"Name\":{}}}",
            part("/apiGroup"),
            part("/kind"),
            part("/name")
        );
        errors.push(FieldError::invalid(
            &Path::new("roleRef"),
            BadValue::Raw(shown),
            "cannot change roleRef",
        ));
    }
    errors
}

const COLUMNS: &[Column] = &[
    NAME,
    column("Role", "string", 0, "The role that the subjects get."),
    AGE,
    column("Users", "string", 1, "Users in the roleBinding"),
    column("Groups", "string", 1, "Groups in the roleBinding"),
    column("ServiceAccounts", "string", 1, "ServiceAccounts in the roleBinding"),
];

fn row(binding: &Value, now: &Timestamp) -> Vec<Value> {
    let subjects = binding.items("/subjects");
    let of = |kind: &str| {
        let list = subjects.iter().filter(|s| s.text("/kind") == kind).map(|s| match kind {
            "ServiceAccount" => format!("{}/{}", s.text("/namespace"), s.text("/name")),
            _ => s.text("/name").to_string(),
        });
        Value::from(list.collect::<Vec<_>>().join(", "))
    };
    vec![
        binding.text("/metadata/name").into(),
        format!("{}/{}", binding.text("/roleRef/kind"), binding.text("/roleRef/name")).into(),
        table::age(binding, now),
        of("User"),
        of("Group"),
        of("ServiceAccount"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(errors: &FieldErrors) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_rule_speaks_of_resources_or_of_urls() {
        let role = json!({"rules": [{}, {"verbs": ["get"], "nonResourceURLs": ["/x"], "resources": ["pods"]}]});
        assert_eq!(
            texts(&rules(&role, true)),
            [
                "rules[0].verbs: Required value: verbs must contain at least one value",
                "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
                "rules[0].resources: Required value: resource rules must supply at least one resource",
                "rules[1].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
                "rules[1].nonResourceURLs: Invalid value: [\"/x\"]: rules cannot apply to both regular resources and non-resource URLs",
            ]
        );
    }

    #[test]
    fn the_role_of_a_binding_never_changes() {
        let old = json!({"roleRef": {"apiGroup": GROUP, "kind": "Role", "name": "a"}});
        let new = json!({"roleRef": {"apiGroup": GROUP, "kind": "Role", "name": "b"}});
        assert_eq!(
            texts(&validate_binding_update(&new, &old, true)),
            [
                r#"roleRef: Invalid value: {"APIGroup":"rbac.authorization.k8s.io","Kind":"Role","Name":"b"}: cannot change roleRef"#
            ]
        );
    }

    #[test]
    fn subjects_are_checked_by_kind() {
        let binding = json!({"roleRef": {"apiGroup": GROUP, "kind": "Role", "name": "a"}, "subjects": [
            {"kind": "ServiceAccount", "name": "x"}, {"kind": "User", "name": "u"}, {"kind": "Dog"}]});
        assert_eq!(
            texts(&validate_binding(&binding, false)),
            [
                "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
                "subjects[0].namespace: Required value",
                "subjects[1].apiGroup: Unsupported value: \"\": supported values: \"rbac.authorization.k8s.io\"",
                "subjects[2].name: Required value",
                "subjects[2].kind: Unsupported value: \"Dog\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
            ]
        );
    }
}
