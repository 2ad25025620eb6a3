//! The index against a naive reading of the objects, and upstream's texts.

use super::escalation::{Write, check};
use super::*;
use crate::lister::Fixed;
use crate::user::UserInfo;
use proptest::prelude::*;
use serde_json::json;

fn role(namespace: &str, name: &str, rules: Value) -> Value {
    json!({"kind": if namespace.is_empty() { "ClusterRole" } else { "Role" },
           "metadata": {"namespace": namespace, "name": name}, "rules": rules})
}

fn binding(namespace: &str, name: &str, kind: &str, role: &str, subjects: Value) -> Value {
    json!({"metadata": {"namespace": namespace, "name": name}, "subjects": subjects,
           "roleRef": {"apiGroup": GROUP, "kind": kind, "name": role}})
}

fn rbac(objects: &[(&str, Value)]) -> Rbac {
    let rbac = Rbac::new();
    for (plural, object) in objects {
        rbac.changed(GROUP, plural, None, Some(object));
    }
    rbac
}

fn user(name: &str, groups: &[&str]) -> User {
    let groups = groups.iter().map(|g| (*g).to_owned()).collect();
    Arc::new(UserInfo {
        groups,
        ..UserInfo::named(name)
    })
}

fn ask(user: &User, verb: &str, group: &str, resource: &str, namespace: &str, name: &str) -> Attributes {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    Attributes {
        user: user.clone(),
        verb: verb.into(),
        resource_request: true,
        group: group.into(),
        resource: resource.into(),
        subresource: subresource.into(),
        namespace: namespace.into(),
        name: name.into(),
        ..Attributes::default()
    }
}

#[test]
fn reasons_name_binding_role_and_subject() {
    let read = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]);
    let rbac = rbac(&[
        ("clusterroles", role("", "reader", read.clone())),
        ("roles", role("ns", "local", read)),
        (
            "clusterrolebindings",
            binding(
                "",
                "b",
                "ClusterRole",
                "reader",
                json!([{"kind": "User", "name": "alice"}]),
            ),
        ),
        (
            "rolebindings",
            binding("ns", "rb", "Role", "local", json!([{"kind": "Group", "name": "dev"}])),
        ),
        (
            "rolebindings",
            binding(
                "ns",
                "sa",
                "ClusterRole",
                "reader",
                json!([{"kind": "ServiceAccount", "name": "x"}]),
            ),
        ),
        (
            "rolebindings",
            binding(
                "ns",
                "broken",
                "Role",
                "absent",
                json!([{"kind": "User", "name": "dave"}]),
            ),
        ),
    ]);
    let account = user("system:serviceaccount:ns:x", &[]);
    for (user, namespace, want) in [
        (
            user("alice", &[]),
            "",
            r#"RBAC: allowed by ClusterRoleBinding "b" of ClusterRole "reader" to User "alice""#,
        ),
        (
            user("bob", &["dev"]),
            "ns",
            r#"RBAC: allowed by RoleBinding "rb/ns" of Role "local" to Group "dev""#,
        ),
        (
            account,
            "ns",
            r#"RBAC: allowed by RoleBinding "sa/ns" of ClusterRole "reader" to ServiceAccount "x/ns""#,
        ),
        (
            user("dave", &[]),
            "ns",
            r#"RBAC: role.rbac.authorization.k8s.io "absent" not found"#,
        ),
        (user("bob", &["dev"]), "other", ""),
    ] {
        let outcome = rbac.authorize(&ask(&user, "get", "", "pods", namespace, "p"));
        assert_eq!(outcome.reason.as_str(), want);
        assert_eq!(outcome.allowed(), want.starts_with("RBAC: allowed"));
    }
}

#[test]
fn rules_match_as_upstream_matches_them() {
    let rules = json!([
        {"verbs": ["get"], "apiGroups": [""], "resources": ["pods/log", "*/scale"]},
        {"verbs": ["*"], "apiGroups": ["apps"], "resources": ["*"]},
        {"verbs": ["update"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["a", "b"]},
        {"verbs": ["get"], "nonResourceURLs": ["/healthz", "/metrics/*", "/api*"]},
    ]);
    let rbac = rbac(&[
        ("clusterroles", role("", "r", rules)),
        (
            "clusterrolebindings",
            binding("", "b", "ClusterRole", "r", json!([{"kind": "User", "name": "u"}])),
        ),
    ]);
    let user = user("u", &[]);
    for (verb, group, resource, name, want) in [
        ("get", "", "pods/log", "", true),
        ("get", "", "pods", "", false),
        ("get", "", "pods/exec", "", false),
        ("get", "", "replicationcontrollers/scale", "", true),
        ("patch", "apps", "deployments/status", "", true),
        ("get", "batch", "jobs", "", false),
        ("update", "", "configmaps", "a", true),
        ("update", "", "configmaps", "c", false),
        ("update", "", "configmaps", "", false),
    ] {
        let outcome = rbac.authorize(&ask(&user, verb, group, resource, "ns", name));
        assert_eq!(outcome.allowed(), want, "{verb} {group} {resource} {name}");
    }
    for (path, want) in [
        ("/healthz", true),
        ("/healthz/", false),
        ("/metrics/a/b", true),
        ("/metrics", false),
        ("/apis", true),
    ] {
        let what = Attributes {
            user: user.clone(),
            verb: "get".into(),
            path: path.into(),
            ..Attributes::default()
        };
        assert_eq!(rbac.authorize(&what).allowed(), want, "{path}");
    }
}

#[test]
fn granting_what_one_does_not_hold_is_refused_with_the_list_of_it() {
    let own = json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]);
    let objects = [
        ("clusterroles", role("", "own", own)),
        (
            "clusterroles",
            role(
                "",
                "power",
                json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]),
            ),
        ),
        (
            "clusterrolebindings",
            binding("", "b", "ClusterRole", "own", json!([{"kind": "User", "name": "u"}])),
        ),
    ];
    let index = rbac(&objects);
    let mut lister = Fixed::default();
    for (plural, object) in objects {
        lister.put(GROUP, plural, object);
    }
    let alice = user("u", &["g", "system:authenticated"]);
    let outcome = |plural: &str, namespace: &str, object: &Value, old: Option<&Value>, user: &User| {
        let write = Write {
            user,
            plural,
            namespace,
            name: "",
            object,
            old,
        };
        check(&write, &index, &index, &lister).map_err(|status| status.to_string())
    };
    let fine = role(
        "ns",
        "r",
        json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"]}]),
    );
    assert_eq!(outcome("roles", "ns", &fine, None, &alice), Ok(()));
    let wide = role(
        "ns",
        "r",
        json!([{"verbs": ["get", "delete", "watch"], "apiGroups": [""], "resources": ["pods", "secrets"]},
               {"verbs": ["get"], "nonResourceURLs": ["/x"]}]),
    );
    let refused = outcome("roles", "ns", &wide, None, &alice).expect_err("too much");
    let want = concat!(
        r#"roles.rbac.authorization.k8s.io "r" is forbidden: user "u" (groups=["g" "system:authenticated"]) is attempting to "#,
        "grant RBAC permissions not currently held:\n",
        r#"{APIGroups:[""], Resources:["pods"], Verbs:["delete" "watch"]}"#,
        "\n",
        r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get" "delete" "watch"]}"#,
        "\n",
        r#"{NonResourceURLs:["/x"], Verbs:["get"]}"#
    );
    assert_eq!(refused, want);
    assert_eq!(
        outcome("roles", "ns", &wide, None, &user("u", &["system:masters"])),
        Ok(())
    );
    let mut touched = wide.clone();
    touched["metadata"]["finalizers"] = json!(["x"]);
    assert_eq!(outcome("roles", "ns", &touched, Some(&wide), &alice), Ok(()));

    let subjects = json!([{"kind": "User", "name": "u"}]);
    let bind = |role: &str| binding("", "new", "ClusterRole", role, subjects.clone());
    assert_eq!(outcome("clusterrolebindings", "", &bind("own"), None, &alice), Ok(()));
    assert!(outcome("clusterrolebindings", "", &bind("power"), None, &alice).is_err());
    let missing = outcome("clusterrolebindings", "", &bind("absent"), None, &alice);
    assert_eq!(
        missing,
        Err(r#"clusterrolebindings.rbac.authorization.k8s.io "absent" not found"#.into())
    );
    let mut gathers = role("", "g", json!([]));
    gathers["aggregationRule"] = json!({"clusterRoleSelectors": [{}]});
    let refused = outcome("clusterroles", "", &gathers, None, &alice).expect_err("aggregates");
    assert!(
        refused.ends_with("must have cluster-admin privileges to use the aggregationRule"),
        "{refused}"
    );
}

/// One change to the policy, over a small world in which names collide often.
#[derive(Clone, Debug)]
struct Change {
    plural: &'static str,
    namespace: &'static str,
    name: &'static str,
    object: Option<Value>,
}

fn word(words: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    proptest::sample::select(words)
}

fn words(all: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    proptest::collection::vec(word(all), 0..3)
}

const VERBS: &[&str] = &["get", "list", "*"];
const GROUPS: &[&str] = &["", "apps", "*"];
const RESOURCES: &[&str] = &["pods", "pods/log", "*/log", "*", "secrets"];
const NAMES: &[&str] = &["a", "b"];
const PATHS: &[&str] = &["/x", "/x/*", "*", "/y*"];

fn change() -> impl Strategy<Value = Change> {
    let rule = (words(VERBS), words(GROUPS), words(RESOURCES), words(NAMES), words(PATHS)).prop_map(|(v, g, r, n, p)| {
        json!({"verbs": v, "apiGroups": g, "resources": r, "resourceNames": n, "nonResourceURLs": p})
    });
    let subject = (
        word(&["User", "Group", "ServiceAccount"]),
        word(NAMES),
        word(&["", "n1"]),
    )
        .prop_map(|(k, n, ns)| json!({"kind": k, "name": n, "namespace": ns}));
    let parts = (
        word(&["clusterroles", "roles", "clusterrolebindings", "rolebindings"]),
        word(&["n1", "n2"]),
        word(NAMES),
        proptest::collection::vec(rule, 0..3),
        proptest::collection::vec(subject, 0..3),
        (word(&["Role", "ClusterRole"]), word(NAMES), any::<bool>()),
    );
    parts.prop_map(|(plural, namespace, name, rules, subjects, (kind, role, delete))| {
        let namespace = if plural.starts_with("cluster") { "" } else { namespace };
        let object = json!({"metadata": {"namespace": namespace, "name": name}, "rules": rules, "subjects": subjects,
                            "roleRef": {"kind": kind, "name": role}});
        Change {
            plural,
            namespace,
            name,
            object: (!delete).then_some(object),
        }
    })
}

type World = std::collections::BTreeMap<(&'static str, &'static str, &'static str), Value>;

/// Reads the objects as the documentation of RBAC says, without any index.
fn naive(world: &World, what: &Attributes) -> bool {
    world.iter().any(|((plural, namespace, _), binding)| {
        let here = *plural == "clusterrolebindings" || (*plural == "rolebindings" && *namespace == what.namespace);
        let subject = items(binding, "/subjects").iter().any(|s| {
            let (name, own) = (text(s, "/name"), text(s, "/namespace"));
            let of = if own.is_empty() { namespace } else { own };
            match text(s, "/kind") {
                "User" => what.user.name == name,
                "Group" => what.user.has_group(name),
                _ => !of.is_empty() && what.user.name == format!("system:serviceaccount:{of}:{name}"),
            }
        });
        let kind = text(binding, "/roleRef/kind");
        let name = text(binding, "/roleRef/name");
        let role = world.iter().find(|((p, ns, n), _)| match kind {
            "ClusterRole" => *p == "clusterroles" && *n == name,
            _ => *p == "roles" && ns == namespace && *n == name,
        });
        here && subject && role.is_some_and(|(_, role)| rules_of(role).iter().any(|rule| rule.allows(what)))
    })
}

proptest! {
    #[test]
    fn the_index_answers_as_the_objects_say(
        changes in proptest::collection::vec(change(), 0..25),
        who in word(&["a", "system:serviceaccount:n1:a", "system:serviceaccount:n2:b"]), groups in words(NAMES),
        verb in word(VERBS), group in word(GROUPS), resource in word(RESOURCES), namespace in word(&["", "n1", "n2"]),
        name in word(&["", "a"]), path in word(&["/x", "/x/y", "/yy", "/z"]),
    ) {
        let rbac = Rbac::new();
        let mut world = World::new();
        for c in &changes {
            let key = (c.plural, c.namespace, c.name);
            let old = world.get(&key).cloned();
            if c.object.is_none() && old.is_none() {
                continue;
            }
            rbac.changed(GROUP, c.plural, old.as_ref(), c.object.as_ref());
            match &c.object {
                Some(object) => world.insert(key, object.clone()),
                None => world.remove(&key),
            };
        }
        let user = user(who, &groups);
        let resource = ask(&user, verb, group, resource, namespace, name);
        let plain = Attributes { user: user.clone(), verb: verb.into(), path: path.into(), ..Attributes::default() };
        for what in [resource, plain] {
            prop_assert_eq!(rbac.authorize(&what).allowed(), naive(&world, &what));
            let held = rbac.held(&user, &what.namespace).0;
            prop_assert_eq!(held.iter().any(|rule| rule.allows(&what)), naive(&world, &what));
        }
    }

    #[test]
    fn what_covers_is_never_less_than_what_it_covers(
        rules in proptest::collection::vec((words(VERBS), words(GROUPS), words(RESOURCES), words(NAMES)), 1..4),
        verb in word(&["get", "list"]), group in word(&["", "apps"]), resource in word(&["pods", "pods/log", "secrets"]),
        name in word(&["", "a", "b"]),
    ) {
        let text = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let made: Vec<Rule> = rules.iter().map(|(v, g, r, n)| Rule {
            verbs: text(v), groups: text(g), resources: text(r), resource_names: text(n), paths: Vec::new(),
        }).collect();
        let (held, wanted) = made.split_at(made.len() / 2);
        let user = user("u", &[]);
        let what = ask(&user, verb, group, resource, "", name);
        if rule::missing(held, wanted).is_empty() && wanted.iter().any(|r| r.allows(&what)) {
            prop_assert!(held.iter().any(|r| r.allows(&what)));
        }
    }
}
