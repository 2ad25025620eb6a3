//! DefaultStorageClass and DefaultIngressClass: what names no class gets the default one.
//!
//! Both follow the same rule (the newest class with the annotation wins, by name among equals), so they share a file.

use std::sync::Arc;

use serde_json::Value;
use steersman_auth::lister::text;
use steersman_schema::status::Status;

use crate::edit::part_mut;
use crate::{Cluster, Operation, Plugin, Request, Surroundings};

struct DefaultClass {
    cluster: Arc<dyn Cluster>,
    rule: Rule,
}

/// How one resource gets its class.
struct Rule {
    plugin: &'static str,
    /// Group and plural of what gets a class.
    resource: (&'static str, &'static str),
    /// Group and plural of the classes.
    classes: (&'static str, &'static str),
    /// Annotations that make a class the default.
    marks: &'static [&'static str],
    /// The field in `spec`, and the annotation by which it was said before there was the field.
    field: &'static str,
    annotation: &'static str,
}

pub(crate) fn build_storage(around: &Surroundings) -> Arc<dyn Plugin> {
    let rule = Rule {
        plugin: "DefaultStorageClass",
        resource: ("", "persistentvolumeclaims"),
        classes: ("storage.k8s.io", "storageclasses"),
        marks: &[
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        ],
        field: "storageClassName",
        annotation: "volume.beta.kubernetes.io/storage-class",
    };
    Arc::new(DefaultClass {
        cluster: around.cluster.clone(),
        rule,
    })
}

pub(crate) fn build_ingress(around: &Surroundings) -> Arc<dyn Plugin> {
    let rule = Rule {
        plugin: "DefaultIngressClass",
        resource: ("networking.k8s.io", "ingresses"),
        classes: ("networking.k8s.io", "ingressclasses"),
        marks: &["ingressclass.kubernetes.io/is-default-class"],
        field: "ingressClassName",
        annotation: "kubernetes.io/ingress.class",
    };
    Arc::new(DefaultClass {
        cluster: around.cluster.clone(),
        rule,
    })
}

fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.pointer("/metadata/annotations")?.get(key)?.as_str()
}

impl DefaultClass {
    fn default_class(&self) -> Option<String> {
        let classes = self.cluster.list(self.rule.classes.0, self.rule.classes.1, None);
        let marked = |class: &&Arc<Value>| self.rule.marks.iter().any(|m| annotation(class, m) == Some("true"));
        let made = |class: &Arc<Value>| text(class, "/metadata/creationTimestamp").to_owned();
        let name = |class: &Arc<Value>| text(class, "/metadata/name").to_owned();
        // RFC 3339 in UTC without fractions sorts as text.
        let newest = classes
            .iter()
            .filter(marked)
            .max_by(|a, b| made(a).cmp(&made(b)).then(name(b).cmp(&name(a))));
        newest.map(name)
    }
}

#[async_trait::async_trait]
impl Plugin for DefaultClass {
    fn name(&self) -> &'static str {
        self.rule.plugin
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, request: &mut Request) -> Result<(), Box<Status>> {
        let Rule {
            resource: (group, plural),
            field,
            annotation: said,
            ..
        } = self.rule;
        if !request.is(group, plural) || !request.subresource.is_empty() {
            return Ok(());
        }
        let Some(object) = request.object.as_mut() else {
            return Ok(());
        };
        let given = object.pointer(&format!("/spec/{field}")).is_some_and(|v| !v.is_null());
        if given || annotation(object, said).is_some() {
            return Ok(());
        }
        if let (Some(class), Some(spec)) = (self.default_class(), part_mut(object, "spec")) {
            spec.insert(field.into(), class.into());
        }
        Ok(())
    }
}
