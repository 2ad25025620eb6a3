//! Typed views of the built-in objects, compiled once.
//!
//! The structs are k8s-openapi's. What this crate adds is [`Typed`]: conversions from and to JSON whose code is
//! generated here, in a leaf crate that nobody edits, instead of in every crate that mentions a `Pod` (serde's generic
//! code for one kind costs seconds of build time wherever it is instantiated).
//!
//! Callers: the API server's validation (from [`serde_json::Value`]), and the scheduler, the controllers and the node
//! programs (from and to bytes on the wire). Missing fields read as their zero value; unknown fields are ignored: strict
//! decoding is the schema crate's business and has happened before.

pub use k8s_openapi::ByteString;
pub use k8s_openapi::api;
pub use k8s_openapi::apimachinery;
pub use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference, Time};
pub use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
pub use k8s_openapi::jiff;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An object that does not have the shape of its kind. The text is serde's and names the offending value.
#[derive(Debug, thiserror::Error)]
#[error("decoding {kind}: {source}")]
pub struct DecodeError {
    /// The kind that was asked for.
    pub kind: &'static str,
    #[source]
    pub source: serde_json::Error,
}

/// A built-in kind with object metadata, addressable on the wire.
pub trait Typed: Sized + Clone + std::fmt::Debug + PartialEq + Send + Sync + 'static {
    /// API group, empty for core.
    const GROUP: &'static str;
    const VERSION: &'static str;
    /// `group/version`, or `version` for core: what `apiVersion` holds.
    const API_VERSION: &'static str;
    const KIND: &'static str;
    /// The resource's plural name in URLs, for instance `pods`.
    const PLURAL: &'static str;
    const NAMESPACED: bool;

    /// # Errors
    /// When a field holds a value of another type than the kind's.
    fn from_value(value: &Value) -> Result<Self, DecodeError>;
    /// # Errors
    /// When `bytes` is not JSON, or not of this kind's shape.
    fn from_slice(bytes: &[u8]) -> Result<Self, DecodeError>;
    /// With `apiVersion` and `kind`.
    fn to_value(&self) -> Value;
    /// JSON with `apiVersion` and `kind`.
    fn to_vec(&self) -> Vec<u8>;
    fn metadata(&self) -> &ObjectMeta;
    fn metadata_mut(&mut self) -> &mut ObjectMeta;
}

fn value_of<T: Serialize>(object: &T) -> Value {
    // Serialising these structs fails only for maps with keys that are not strings, of which there are none.
    serde_json::to_value(object).unwrap_or(Value::Null)
}

fn bytes_of<T: Serialize>(object: &T) -> Vec<u8> {
    serde_json::to_vec(object).unwrap_or_default()
}

macro_rules! typed {
    ($($ty:path, $plural:literal, $namespaced:literal;)*) => {$(
        impl Typed for $ty {
            const GROUP: &'static str = <$ty as k8s_openapi::Resource>::GROUP;
            const VERSION: &'static str = <$ty as k8s_openapi::Resource>::VERSION;
            const API_VERSION: &'static str = <$ty as k8s_openapi::Resource>::API_VERSION;
            const KIND: &'static str = <$ty as k8s_openapi::Resource>::KIND;
            const PLURAL: &'static str = $plural;
            const NAMESPACED: bool = $namespaced;

            fn from_value(value: &Value) -> Result<Self, DecodeError> {
                Self::deserialize(value).map_err(|source| DecodeError { kind: Self::KIND, source })
            }
            fn from_slice(bytes: &[u8]) -> Result<Self, DecodeError> {
                serde_json::from_slice(bytes).map_err(|source| DecodeError { kind: Self::KIND, source })
            }
            fn to_value(&self) -> Value {
                value_of(self)
            }
            fn to_vec(&self) -> Vec<u8> {
                bytes_of(self)
            }
            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn metadata_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    )*};
}

typed! {
    api::apps::v1::ControllerRevision, "controllerrevisions", true;
    api::apps::v1::DaemonSet, "daemonsets", true;
    api::apps::v1::Deployment, "deployments", true;
    api::apps::v1::ReplicaSet, "replicasets", true;
    api::apps::v1::StatefulSet, "statefulsets", true;
    api::autoscaling::v2::HorizontalPodAutoscaler, "horizontalpodautoscalers", true;
    api::batch::v1::CronJob, "cronjobs", true;
    api::batch::v1::Job, "jobs", true;
    api::certificates::v1::CertificateSigningRequest, "certificatesigningrequests", false;
    api::coordination::v1::Lease, "leases", true;
    api::core::v1::ConfigMap, "configmaps", true;
    api::core::v1::Endpoints, "endpoints", true;
    api::core::v1::Event, "events", true;
    api::core::v1::LimitRange, "limitranges", true;
    api::core::v1::Namespace, "namespaces", false;
    api::core::v1::Node, "nodes", false;
    api::core::v1::PersistentVolume, "persistentvolumes", false;
    api::core::v1::PersistentVolumeClaim, "persistentvolumeclaims", true;
    api::core::v1::Pod, "pods", true;
    api::core::v1::PodTemplate, "podtemplates", true;
    api::core::v1::ReplicationController, "replicationcontrollers", true;
    api::core::v1::ResourceQuota, "resourcequotas", true;
    api::core::v1::Secret, "secrets", true;
    api::core::v1::Service, "services", true;
    api::core::v1::ServiceAccount, "serviceaccounts", true;
    api::discovery::v1::EndpointSlice, "endpointslices", true;
    api::networking::v1::IPAddress, "ipaddresses", false;
    api::networking::v1::Ingress, "ingresses", true;
    api::networking::v1::IngressClass, "ingressclasses", false;
    api::networking::v1::NetworkPolicy, "networkpolicies", true;
    api::networking::v1::ServiceCIDR, "servicecidrs", false;
    api::node::v1::RuntimeClass, "runtimeclasses", false;
    api::policy::v1::PodDisruptionBudget, "poddisruptionbudgets", true;
    api::rbac::v1::ClusterRole, "clusterroles", false;
    api::rbac::v1::ClusterRoleBinding, "clusterrolebindings", false;
    api::rbac::v1::Role, "roles", true;
    api::rbac::v1::RoleBinding, "rolebindings", true;
    api::scheduling::v1::PriorityClass, "priorityclasses", false;
    api::storage::v1::CSINode, "csinodes", false;
    api::storage::v1::StorageClass, "storageclasses", false;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_reads_back_equal_from_its_own_bytes() {
        let mut pod = api::core::v1::Pod::default();
        pod.metadata_mut().name = Some("a".into());
        let again = api::core::v1::Pod::from_slice(&pod.to_vec()).map_err(|e| e.to_string());
        assert_eq!(again, Ok(pod));
    }

    #[test]
    fn a_value_of_another_shape_is_an_error_that_names_the_kind() {
        let error = api::core::v1::Pod::from_value(&serde_json::json!({"spec": []}));
        assert!(error.is_err_and(|e| e.to_string().starts_with("decoding Pod: ")));
    }
}
