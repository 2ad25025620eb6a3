//! Where records come from: Services and EndpointSlices, looked up by name and by address.
//!
//! [`Source`] is all that answering needs; [`Cluster`] is the real one, over informers. Nothing is copied into zones: a
//! question costs a look-up or two, a changed EndpointSlice costs nothing here.

use std::sync::Arc;

use steersman_runtime::informer::{IndexId, Informer};
use steersman_types::api::core::v1::Service;
use steersman_types::api::discovery::v1::EndpointSlice;

/// The label of the Service that a slice belongs to.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Read access to what the cluster has now.
pub trait Source: Send + Sync {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>>;
    /// The slices of one Service.
    fn slices(&self, namespace: &str, name: &str) -> Vec<Arc<EndpointSlice>>;
    /// Services with this cluster IP, in its canonical text form.
    fn services_at(&self, address: &str) -> Vec<Arc<Service>>;
    /// Slices with an endpoint at this address.
    fn slices_at(&self, address: &str) -> Vec<Arc<EndpointSlice>>;
    /// Whether anything in the namespace could have a name.
    fn has_namespace(&self, namespace: &str) -> bool;
}

/// The cluster as the API server tells it.
pub struct Cluster {
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    services_by_address: IndexId,
    slices_by_service: IndexId,
    slices_by_address: IndexId,
}

impl Cluster {
    /// Adds the indexes it needs.
    #[must_use]
    pub fn new(services: Informer<Service>, slices: Informer<EndpointSlice>) -> Self {
        let services_by_address = services.add_index(|service| {
            let spec = service.spec.as_ref();
            let many = spec.and_then(|s| s.cluster_ips.as_ref()).into_iter().flatten();
            let mut addresses: Vec<String> = many.chain(spec.and_then(|s| s.cluster_ip.as_ref())).cloned().collect();
            addresses.sort_unstable();
            addresses.dedup();
            addresses
        });
        let slices_by_service = slices.add_index(|slice| {
            service_of(slice)
                .map(|(ns, n)| format!("{ns}/{n}"))
                .into_iter()
                .collect()
        });
        let slices_by_address = slices.add_index(|slice| {
            slice
                .endpoints
                .iter()
                .flatten()
                .flat_map(|endpoint| endpoint.addresses.iter().cloned())
                .collect()
        });
        Self {
            services,
            slices,
            services_by_address,
            slices_by_service,
            slices_by_address,
        }
    }

    /// Whether the first lists have arrived: before that, "no such name" would be a lie.
    #[must_use]
    pub fn synced(&self) -> bool {
        self.services.has_synced() && self.slices.has_synced()
    }
}

/// Namespace and name of the Service that a slice belongs to.
#[must_use]
pub fn service_of(slice: &EndpointSlice) -> Option<(&str, &str)> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some((slice.metadata.namespace.as_deref().unwrap_or_default(), name))
}

impl Source for Cluster {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services.get(namespace, name)
    }

    fn slices(&self, namespace: &str, name: &str) -> Vec<Arc<EndpointSlice>> {
        self.slices
            .by_index(self.slices_by_service, &format!("{namespace}/{name}"))
    }

    fn services_at(&self, address: &str) -> Vec<Arc<Service>> {
        self.services.by_index(self.services_by_address, address)
    }

    fn slices_at(&self, address: &str) -> Vec<Arc<EndpointSlice>> {
        self.slices.by_index(self.slices_by_address, address)
    }

    fn has_namespace(&self, namespace: &str) -> bool {
        !self.services.list_in(namespace).is_empty()
    }
}
