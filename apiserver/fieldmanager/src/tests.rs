#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::json;
use steersman_schema::facts::facts;

use super::*;

const NOW: &str = "2026-01-01T00:00:00Z";

fn with<T>(version: &str, kind: &str, subresource: &str, run: impl FnOnce(&FieldManager<'_>) -> T) -> T {
    let reset = match subresource {
        "" => Set::of_fields(&["status"]),
        _ => Set::of_fields(&["spec"]),
    };
    let convert = |object: &Value, version: &str| {
        let kind = object["kind"].as_str()?;
        let mut object = object.clone();
        object["apiVersion"] = version.into();
        Some((object, facts().kind_of(version, kind)?))
    };
    run(&FieldManager {
        ty: facts().kind_of(version, kind).unwrap(),
        version,
        subresource,
        reset: &reset,
        convert: &convert,
        now: NOW,
    })
}

fn deployment<T>(run: impl FnOnce(&FieldManager<'_>) -> T) -> T {
    with("apps/v1", "Deployment", "", run)
}

fn web(replicas: i64, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": image}]}}},
    })
}

/// The object as the store gives it back.
fn stored(mut object: Value) -> Value {
    object["metadata"]["uid"] = "1".into();
    object
}

fn owned(object: &Value, manager: &str) -> Value {
    let entries = object["metadata"]["managedFields"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let own = entries.into_iter().find(|entry| entry["manager"] == manager);
    own.map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

fn applied(live: &Value, config: &Value, manager: &str) -> Value {
    deployment(|fields| fields.apply(live, config, manager, false)).unwrap()
}

fn conflicts(live: &Value, config: &Value, manager: &str) -> Vec<String> {
    match deployment(|fields| fields.apply(live, config, manager, false)) {
        Err(Refusal::Conflicts(conflicts)) => conflicts
            .iter()
            .map(|c| format!("{} {}", c.manager, c.field()))
            .collect(),
        other => panic!("{other:?}"),
    }
}

fn nothing() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment"})
}

#[test]
fn who_creates_owns_what_was_written_and_the_structs_on_the_way_behind_pointers() {
    let mut object = web(1, "a");
    object["spec"]["template"]["spec"]["containers"][0]["livenessProbe"] = json!({"httpGet": {"port": 80}});
    deployment(|fields| fields.update(None, &mut object, "me"));
    let entry = &object["metadata"]["managedFields"][0];
    assert_eq!(entry["operation"], "Update");
    assert_eq!(entry["time"], NOW);
    assert_eq!(
        entry["fieldsV1"],
        json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:replicas": {}, "f:selector": {}, "f:template": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {
                    ".": {}, "f:image": {}, "f:name": {}, "f:resources": {},
                    "f:livenessProbe": {".": {}, "f:httpGet": {".": {}, "f:port": {}}}}}}}},
        })
    );
}

#[test]
fn who_changes_a_field_takes_it() {
    let mut live = web(1, "a");
    deployment(|fields| fields.update(None, &mut live, "first"));
    let live = stored(live);
    let mut new = live.clone();
    new["spec"]["replicas"] = 2.into();
    deployment(|fields| fields.update(Some(&live), &mut new, "second"));
    assert_eq!(owned(&new, "second"), json!({"f:spec": {"f:replicas": {}}}));
    assert!(owned(&new, "first")["f:spec"].get("f:replicas").is_none());
    // Removing it makes it nobody's.
    let live = new.clone();
    new["spec"].as_object_mut().unwrap().remove("replicas");
    deployment(|fields| fields.update(Some(&live), &mut new, "third"));
    assert_eq!(
        (owned(&new, "second"), owned(&new, "third")),
        (Value::Null, Value::Null)
    );
}

#[test]
fn a_write_of_status_owns_nothing_else_and_says_where_it_came_from() {
    let mut live = web(1, "a");
    deployment(|fields| fields.update(None, &mut live, "me"));
    let live = stored(live);
    let mut new = live.clone();
    new["status"] = json!({"replicas": 1});
    with("apps/v1", "Deployment", "status", |fields| {
        fields.update(Some(&live), &mut new, "me")
    });
    let entries = new["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[1]["subresource"], "status");
    assert_eq!(entries[1]["fieldsV1"], json!({"f:status": {"f:replicas": {}}}));
}

#[test]
fn objects_that_were_not_tracked_stay_so_until_somebody_applies() {
    let live = stored(web(1, "a"));
    let mut new = web(2, "a");
    deployment(|fields| fields.update(Some(&live), &mut new, "me"));
    assert!(new["metadata"].get("managedFields").is_none());
    let config =
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"x": "y"}}});
    let new = applied(&live, &config, "me");
    assert_eq!(owned(&new, "me"), json!({"f:metadata": {"f:labels": {"f:x": {}}}}));
    assert!(owned(&new, BEFORE)["f:spec"].get("f:replicas").is_some());
}

#[test]
fn an_apply_conflicts_with_what_others_own_unless_it_agrees_or_is_forced() {
    let live = stored(applied(&nothing(), &web(1, "a"), "first"));
    assert_eq!(conflicts(&live, &web(2, "a"), "second"), ["\"first\" .spec.replicas"]);
    let both = applied(&live, &web(1, "a"), "second");
    assert_eq!(owned(&both, "first"), owned(&both, "second"));
    let forced = deployment(|fields| fields.apply(&live, &web(2, "a"), "second", true)).unwrap();
    assert_eq!(forced["spec"]["replicas"], 2);
    assert!(owned(&forced, "first")["f:spec"].get("f:replicas").is_none());
}

#[test]
fn conflicts_with_updaters_name_their_version_and_several_are_listed_by_manager() {
    let mut live = web(1, "a");
    deployment(|fields| fields.update(None, &mut live, "kubectl-create"));
    let live = stored(live);
    let container = r#".spec.template.spec.containers[name="web"].image"#;
    assert_eq!(
        conflicts(&live, &web(2, "b"), "me"),
        [
            "\"kubectl-create\" using apps/v1 .spec.replicas".to_owned(),
            format!("\"kubectl-create\" using apps/v1 {container}"),
        ]
    );
    let refusal = deployment(|fields| fields.apply(&live, &web(2, "b"), "me", false)).unwrap_err();
    let Refusal::Conflicts(all) = refusal else {
        panic!("{refusal:?}")
    };
    assert_eq!(
        conflict_message(&all),
        format!(
            "Apply failed with 2 conflicts: conflicts with \"kubectl-create\" using apps/v1:\n- .spec.replicas\n- {container}"
        )
    );
    assert_eq!(
        conflict_message(&all[..1]),
        "Apply failed with 1 conflict: conflict with \"kubectl-create\" using apps/v1: .spec.replicas"
    );
}

#[test]
fn what_is_no_longer_applied_goes_unless_somebody_else_owns_it() {
    let mut config = web(1, "a");
    config["metadata"]["annotations"] = json!({"mine": "1", "ours": "1"});
    config["spec"]["template"]["spec"]["containers"][0]["env"] =
        json!([{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]);
    let live = stored(applied(&nothing(), &config, "me"));
    let other = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "annotations": {"ours": "1"}}});
    let live = applied(&live, &other, "other");
    let mut less = web(1, "a");
    less["spec"]["template"]["spec"]["containers"][0]["env"] = json!([{"name": "B", "value": "2"}]);
    let new = applied(&live, &less, "me");
    assert_eq!(new["metadata"]["annotations"], json!({"ours": "1"}));
    assert_eq!(
        new["spec"]["template"]["spec"]["containers"][0]["env"],
        json!([{"name": "B", "value": "2"}])
    );
    assert_eq!(new["spec"]["replicas"], 1);
}

#[test]
fn elements_that_others_added_keep_their_place() {
    let sidecar = |names: &[&str]| {
        let containers: Vec<Value> = names.iter().map(|name| json!({"name": name, "image": "i"})).collect();
        let mut object = web(1, "a");
        object["spec"]["template"]["spec"]["containers"] = containers.into();
        object
    };
    let names = |object: &Value| -> Vec<String> {
        let containers = object["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        containers
            .iter()
            .map(|c| c["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let mut live = stored(applied(&nothing(), &sidecar(&["a", "c"]), "me"));
    live["spec"]["template"]["spec"]["containers"] =
        sidecar(&["a", "x", "c"])["spec"]["template"]["spec"]["containers"].clone();
    assert_eq!(
        names(&applied(&live, &sidecar(&["a", "b", "c"]), "me")),
        ["a", "x", "b", "c"]
    );
    assert_eq!(names(&applied(&live, &sidecar(&["c", "a"]), "me")), ["x", "c", "a"]);
    assert_eq!(names(&applied(&live, &sidecar(&["c"]), "me")), ["x", "c"]);
}

#[test]
fn atomic_lists_and_maps_are_replaced_and_owned_as_a_whole() {
    let service = |selector: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"selector": selector, "externalIPs": ["1.1.1.1"]}});
    with("v1", "Service", "", |fields| {
        let empty = json!({"apiVersion": "v1", "kind": "Service"});
        let live = fields.apply(&empty, &service(json!({"a": "1"})), "me", false).unwrap();
        assert_eq!(
            owned(&live, "me"),
            json!({"f:spec": {"f:externalIPs": {}, "f:selector": {}}})
        );
        let new = fields.apply(&live, &service(json!({"b": "2"})), "me", false).unwrap();
        assert_eq!(new["spec"]["selector"], json!({"b": "2"}));
    });
}

#[test]
fn ports_are_known_by_number_and_defaulted_protocol() {
    with("v1", "Service", "", |fields| {
        let config = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
        let live = fields
            .apply(&json!({"apiVersion": "v1", "kind": "Service"}), &config, "me", false)
            .unwrap();
        let ports = json!({"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}});
        assert_eq!(owned(&live, "me"), json!({"f:spec": {"f:ports": ports}}));
    });
}

#[test]
fn a_configuration_that_does_not_fit_is_refused_with_the_field() {
    let mut config = web(1, "a");
    config["spec"]["nope"] = 1.into();
    let misfit = |config: &Value| match deployment(|fields| fields.apply(&nothing(), config, "me", false)) {
        Err(Refusal::Misfit(why)) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        misfit(&config),
        "failed to create typed patch object (default/web; apps/v1, Kind=Deployment): .spec.nope: field not declared in schema"
    );
    let mut config = web(1, "a");
    config["spec"]["template"]["spec"]["containers"] = json!([{"name": "a"}, {"name": "a"}]);
    assert!(misfit(&config).ends_with(r#".spec.template.spec.containers: duplicate entries for key [name="a"]"#));
    let mut config = web(1, "a");
    config["metadata"]["managedFields"] = json!([]);
    let refusal = deployment(|fields| fields.apply(&nothing(), &config, "me", false));
    assert_eq!(refusal, Err(Refusal::Bad("metadata.managedFields must be nil".into())));
}

#[test]
fn kubectl_takes_over_what_it_applied_on_the_clients_side() {
    let mut live = web(1, "a");
    let annotation = web(1, "a").to_string();
    live["metadata"]["annotations"] = json!({LAST_APPLIED: annotation});
    deployment(|fields| fields.update(None, &mut live, "kubectl-client-side-apply"));
    let mut live = stored(live);
    let new = applied(&live, &web(2, "a"), KUBECTL);
    assert_eq!(new["spec"]["replicas"], 2);
    let kept: Value = serde_json::from_str(new["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap()).unwrap();
    assert_eq!(kept["spec"]["replicas"], 2);
    // Somebody has scaled since: that is a conflict.
    let before = live.clone();
    live["spec"]["replicas"] = 5.into();
    deployment(|fields| fields.update(Some(&before), &mut live, "scaler"));
    assert_eq!(
        conflicts(&live, &web(2, "a"), KUBECTL),
        ["\"scaler\" using apps/v1 .spec.replicas"]
    );
}

#[test]
fn a_list_of_owners_is_reset_by_an_empty_entry_and_corrected_by_a_readable_one() {
    let mut live = web(1, "a");
    deployment(|fields| fields.update(None, &mut live, "me"));
    let live = stored(live);
    let mut new = live.clone();
    new["metadata"]["managedFields"] = json!([{}]);
    deployment(|fields| fields.update(Some(&live), &mut new, "me"));
    assert!(new["metadata"].get("managedFields").is_none());
    let mut new = live.clone();
    new["metadata"]["managedFields"][0]["manager"] = "renamed".into();
    deployment(|fields| fields.update(Some(&live), &mut new, "me"));
    assert!(owned(&new, "renamed").is_object());
    let mut new = live.clone();
    new["metadata"]["managedFields"][0]["fieldsV1"] = json!({"x": {}});
    deployment(|fields| fields.update(Some(&live), &mut new, "me"));
    assert_eq!(new, live);
}

#[test]
fn the_oldest_of_many_updaters_become_ancient_changes() {
    let mut live = web(0, "a");
    deployment(|fields| fields.update(None, &mut live, "writer-0"));
    for n in 1..15 {
        let old = stored(live.clone());
        live = old.clone();
        live["metadata"]["labels"][format!("l{n}")] = "x".into();
        deployment(|fields| fields.update(Some(&old), &mut live, &format!("writer-{n:02}")));
    }
    let entries = live["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 10);
    assert!(entries.iter().any(|entry| entry["manager"] == "ancient-changes"));
}

#[test]
fn a_write_that_changes_only_times_changes_nothing() {
    let mut old = web(1, "a");
    deployment(|fields| fields.update(None, &mut old, "me"));
    let mut new = old.clone();
    new["metadata"]["managedFields"][0]["time"] = "2030-01-01T00:00:00Z".into();
    managers::keep_times(&mut new, &old);
    assert_eq!(new, old);
}

fn config() -> impl Strategy<Value = Value> {
    let labels = proptest::collection::btree_map("[abc]", "[xy]", 0..3);
    let env = proptest::collection::btree_map("[ABC]", "[12]", 0..3);
    (labels, env, proptest::option::of(0..3i64)).prop_map(|(labels, env, replicas)| {
        let mut object = web(0, "i");
        object["metadata"]["labels"] = json!(labels);
        let env: Vec<Value> = env
            .into_iter()
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect();
        object["spec"]["template"]["spec"]["containers"][0]["env"] = env.into();
        match replicas {
            Some(replicas) => object["spec"]["replicas"] = replicas.into(),
            None => {
                object["spec"].as_object_mut().unwrap().remove("replicas");
            }
        }
        object
    })
}

proptest! {
    #[test]
    fn an_applier_alone_gets_what_it_applied_last(configs in proptest::collection::vec(config(), 1..5)) {
        let mut live = nothing();
        for config in &configs {
            live = stored(applied(&live, config, "me"));
        }
        let fresh = stored(applied(&nothing(), configs.last().unwrap(), "me"));
        let bare = |object: &Value| {
            let mut shown = shown(object);
            shown["metadata"]["labels"].as_object().is_some_and(serde_json::Map::is_empty).then(|| shown["metadata"].as_object_mut().map(|m| m.remove("labels")));
            shown
        };
        prop_assert_eq!(bare(&live), bare(&fresh));
        prop_assert_eq!(owned(&live, "me"), owned(&fresh, "me"));
    }

    #[test]
    fn an_apply_that_is_not_forced_changes_nothing_of_others(first in config(), second in config()) {
        let live = stored(applied(&nothing(), &first, "first"));
        let outcome = deployment(|fields| fields.apply(&live, &second, "second", false));
        if let Ok(new) = outcome {
            prop_assert_eq!(owned(&new, "first"), owned(&live, "first"));
            let again = applied(&new, &first, "first");
            prop_assert_eq!(shown(&again), shown(&new));
        }
    }

    #[test]
    fn comparing_tells_nothing_of_equal_values_and_the_converse_backwards(a in config(), b in config()) {
        let shape = Shape::of_type(facts().kind_of("apps/v1", "Deployment").unwrap());
        prop_assert_eq!(compare(&a, &a, shape), Difference::default());
        let (there, back) = (compare(&a, &b, shape), compare(&b, &a, shape));
        prop_assert_eq!(there.added, back.removed);
        prop_assert_eq!(there.modified, back.modified);
    }
}
