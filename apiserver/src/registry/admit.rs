//! The admission chain around a write, and the ticket without which the store takes nothing.

use std::sync::Arc;

use serde_json::Value;
use steersman_admission::{Operation, Request, Warnings};
use steersman_schema::facts::Gvk;
use steersman_schema::status::Status;

use crate::api::Api;
use crate::call::{Authorized, Target};

/// An object that has passed mutating admission, preparation, validation and validating admission, in that order.
pub struct Admitted(Value);

impl Admitted {
    pub fn object(&self) -> &Value {
        &self.0
    }
    pub fn into_object(self) -> Value {
        self.0
    }
}

/// The question to the chain about one write.
pub struct Admission<'a> {
    pub api: &'a Api,
    pub ticket: &'a Authorized,
    pub target: &'a Target,
    /// Kind of the body.
    pub gvk: &'a Gvk,
    pub operation: Operation,
    pub options: Value,
    pub dry_run: bool,
}

impl Admission<'_> {
    fn request(&self, object: Option<Value>, old: Option<Arc<Value>>) -> Request {
        let resource = &self.target.resource;
        let is_namespace = resource.is("", "namespaces");
        let name = match &object {
            _ if !self.target.name.is_empty() => self.target.name.clone(),
            Some(object) => object
                .pointer("/metadata/name")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            None => String::new(),
        };
        Request {
            operation: self.operation,
            user: self.ticket.user().clone(),
            group: resource.facts.group.to_owned(),
            version: resource.facts.version.to_owned(),
            resource: resource.facts.plural.to_owned(),
            subresource: self.target.subresource.clone(),
            kind: self.gvk.kind.clone(),
            kind_group: self.gvk.group.clone(),
            namespace: if is_namespace {
                name.clone()
            } else {
                self.target.namespace.clone()
            },
            name,
            object,
            old,
            options: self.options.clone(),
            dry_run: self.dry_run,
            now: self.ticket.call().now,
            random: rand::random(),
            warnings: Warnings::default(),
        }
    }

    fn pass_on(&self, request: &Request) {
        for text in request.warnings.take() {
            self.ticket.call().warn(&text);
        }
    }

    /// The mutating pass: the object as plugins leave it.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn mutate(&self, object: Value, old: Option<Arc<Value>>) -> Result<Value, Status> {
        self.ticket.call().stage("mutating admission");
        if !self.api.admission.handles(self.operation) {
            return Ok(object);
        }
        let mut request = self.request(Some(object), old);
        let outcome = self.api.admission.admit(&mut request).await;
        self.pass_on(&request);
        outcome.map_err(|status| *status)?;
        request
            .object
            .ok_or_else(|| Status::internal("admission lost the object"))
    }

    /// The validating pass: the ticket for the store.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn validate(&self, object: Value, old: Option<Arc<Value>>) -> Result<Admitted, Status> {
        self.ticket.call().stage("validating admission");
        if !self.api.admission.handles(self.operation) {
            return Ok(Admitted(object));
        }
        let request = self.request(Some(object), old);
        let outcome = self.api.admission.validate(&request).await;
        self.pass_on(&request);
        outcome.map_err(|status| *status)?;
        let object = request
            .object
            .ok_or_else(|| Status::internal("admission lost the object"))?;
        Ok(Admitted(object))
    }

    /// Both passes for a delete: there is only the old object.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn delete(&self, old: Arc<Value>) -> Result<(), Status> {
        self.ticket.call().stage("mutating admission");
        self.ticket.call().stage("validating admission");
        if !self.api.admission.handles(self.operation) {
            return Ok(());
        }
        let mut request = self.request(None, Some(old));
        self.api.admission.admit(&mut request).await.map_err(|status| *status)?;
        self.api.admission.validate(&request).await.map_err(|status| *status)
    }
}
