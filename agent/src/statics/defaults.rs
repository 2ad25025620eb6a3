//! Defaults of a pod that no API server has seen. Only those on which the agent depends: the picture in the API gets its
//! own.

use serde_json::{Map, Value, json};

fn set(object: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    let absent = match object.get(name) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(_) => false,
    };
    if absent {
        object.insert(name.to_owned(), value.into());
    }
}

fn each<'a>(object: &'a mut Map<String, Value>, name: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    let items = object.get_mut(name).and_then(Value::as_array_mut);
    items.into_iter().flatten().filter_map(Value::as_object_mut)
}

fn child<'a>(object: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Map<String, Value>> {
    object.get_mut(name).and_then(Value::as_object_mut)
}

/// Sets what is absent.
pub fn apply(pod: &mut Value) {
    steersman_schema::defaults::apply(pod);
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    set(spec, "restartPolicy", "Always");
    set(spec, "dnsPolicy", "ClusterFirst");
    set(spec, "schedulerName", "default-scheduler");
    set(spec, "terminationGracePeriodSeconds", 30);
    set(spec, "enableServiceLinks", true);
    set(spec, "securityContext", json!({}));
    let on_host = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["initContainers", "containers"] {
        for c in each(spec, list) {
            container(c, on_host);
        }
    }
    for v in each(spec, "volumes") {
        if v.len() == 1 {
            v.insert("emptyDir".into(), json!({}));
        }
        for kind in ["downwardAPI", "projected"] {
            if let Some(source) = child(v, kind) {
                set(source, "defaultMode", 0o644);
            }
        }
        if let Some(path) = child(v, "hostPath") {
            path.entry("type").or_insert_with(|| "".into());
        }
    }
}

fn container(c: &mut Map<String, Value>, on_host: bool) {
    let image = c.get("image").and_then(Value::as_str).unwrap_or_default().to_owned();
    let latest = crate::images::with_tag(&image).is_some_and(|i| i.ends_with(":latest"));
    set(c, "imagePullPolicy", if latest { "Always" } else { "IfNotPresent" });
    set(c, "terminationMessagePath", "/dev/termination-log");
    set(c, "terminationMessagePolicy", "File");
    set(c, "resources", json!({}));
    if let Some(resources) = child(c, "resources")
        && let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned()
    {
        set(resources, "requests", json!({}));
        if let Some(requests) = child(resources, "requests") {
            for (name, amount) in limits {
                requests.entry(name).or_insert(amount);
            }
        }
    }
    for port in each(c, "ports") {
        set(port, "protocol", "TCP");
        if on_host && let Some(own) = port.get("containerPort").cloned() {
            set(port, "hostPort", own);
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = child(c, probe) else { continue };
        for (name, number) in [
            ("timeoutSeconds", 1),
            ("periodSeconds", 10),
            ("successThreshold", 1),
            ("failureThreshold", 3),
        ] {
            if probe.get(name).and_then(Value::as_i64).unwrap_or(0) == 0 {
                probe.insert(name.to_owned(), number.into());
            }
        }
        get_request(probe);
    }
    if let Some(lifecycle) = child(c, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = child(lifecycle, hook) {
                get_request(hook);
            }
        }
    }
}

fn get_request(handler: &mut Map<String, Value>) {
    if let Some(get) = child(handler, "httpGet") {
        set(get, "path", "/");
        set(get, "scheme", "HTTP");
    }
}
