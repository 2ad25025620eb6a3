//! Which plugins run, and in which order: upstream's list, the two flags, and the two passes.

use std::collections::BTreeSet;
use std::sync::Arc;

use steersman_schema::status::Status;

use crate::{Operation, Plugin, Request, Surroundings};

/// Builds one plugin.
type Build = fn(&Surroundings) -> Arc<dyn Plugin>;

/// One line of upstream's ordered list.
pub struct Entry {
    pub name: &'static str,
    /// Whether it runs unless disabled.
    pub default_on: bool,
    /// `None`: upstream has it, we do not; enabling it is an error, disabling it is fine.
    build: Option<Build>,
}

const fn on(name: &'static str, build: Option<Build>) -> Entry {
    Entry {
        name,
        default_on: true,
        build,
    }
}

const fn off(name: &'static str, build: Option<Build>) -> Entry {
    Entry {
        name,
        default_on: false,
        build,
    }
}

/// Every plugin of upstream, in the order in which they run (both passes).
pub const ORDER: &[Entry] = &[
    off("AlwaysAdmit", None),
    off("NamespaceAutoProvision", None),
    on("NamespaceLifecycle", Some(crate::namespace_lifecycle::build)),
    off("NamespaceExists", None),
    off("LimitPodHardAntiAffinityTopology", None),
    on("LimitRanger", Some(crate::limit_ranger::build)),
    on("ServiceAccount", Some(crate::service_account::build)),
    off("NodeRestriction", Some(crate::node_restriction::build)),
    on("TaintNodesByCondition", Some(crate::taint_nodes::build)),
    off("AlwaysPullImages", None),
    off("ImagePolicyWebhook", None),
    on("PodSecurity", Some(crate::pod_security::build)),
    off("PodNodeSelector", None),
    on("Priority", Some(crate::priority::build)),
    on(
        "DefaultTolerationSeconds",
        Some(crate::default_toleration_seconds::build),
    ),
    off("PodTolerationRestriction", None),
    off("EventRateLimit", None),
    off("ExtendedResourceToleration", None),
    on("DefaultStorageClass", Some(crate::default_class::build_storage)),
    on("StorageObjectInUseProtection", None),
    on("PodGroupProtection", None),
    off("OwnerReferencesPermissionEnforcement", None),
    on("PersistentVolumeClaimResize", None),
    on("RuntimeClass", Some(crate::runtime_class::build)),
    on("CertificateApproval", Some(crate::certificate_approval::build)),
    on("CertificateSigning", Some(crate::certificate_signing::build)),
    on("ClusterTrustBundleAttest", None),
    on(
        "CertificateSubjectRestriction",
        Some(crate::certificate_subject_restriction::build),
    ),
    on("DefaultIngressClass", Some(crate::default_class::build_ingress)),
    off("DenyServiceExternalIPs", None),
    on("PodTopologyLabels", None),
    on("PodGroupWorkloadExists", None),
    on("NodeDeclaredFeatureValidator", None),
    on("JobValidation", None),
    on("PodResizeValidator", Some(crate::pod_resize::build)),
    on("MutatingAdmissionPolicy", None),
    on("MutatingAdmissionWebhook", None),
    on("ValidatingAdmissionPolicy", None),
    on("ValidatingAdmissionWebhook", None),
    on("ResourceQuota", Some(crate::resource_quota::build)),
    off("AlwaysDeny", None),
];

/// A flag that cannot be obeyed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownPlugin {
    #[error("{flag} plugin {name:?} is unknown")]
    Unknown { flag: &'static str, name: String },
    #[error("enable-admission-plugins plugin {0:?} is not implemented")]
    Missing(String),
    #[error("[{0}] in enable-admission-plugins and disable-admission-plugins overlapped")]
    Overlap(String),
}

/// The plugins of one server, in order.
pub struct Chain {
    plugins: Vec<Arc<dyn Plugin>>,
}

impl Chain {
    /// The chain that `--enable-admission-plugins` and `--disable-admission-plugins` ask for.
    ///
    /// # Errors
    /// Every name that upstream does not know, that is to be enabled but not implemented, or that is in both lists.
    pub fn build(enable: &[String], disable: &[String], around: &Surroundings) -> Result<Self, Vec<UnknownPlugin>> {
        let faults = check(enable, disable);
        if !faults.is_empty() {
            return Err(faults);
        }
        let wanted =
            |e: &&Entry| enable.iter().any(|n| n == e.name) || (e.default_on && !disable.iter().any(|n| n == e.name));
        let built = ORDER
            .iter()
            .filter(wanted)
            .filter_map(|e| e.build.map(|build| build(around)));
        Ok(Self {
            plugins: built.collect(),
        })
    }

    /// A chain of given plugins, in the order given.
    pub fn of(plugins: Vec<Arc<dyn Plugin>>) -> Self {
        Self { plugins }
    }

    /// Names of the plugins that run, in order.
    pub fn names(&self) -> Vec<&'static str> {
        self.plugins.iter().map(|p| p.name()).collect()
    }

    /// Whether any plugin looks at this operation.
    pub fn handles(&self, operation: Operation) -> bool {
        self.plugins.iter().any(|p| p.handles(operation))
    }

    /// The mutating pass; stops at the first refusal.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn admit(&self, request: &mut Request) -> Result<(), Box<Status>> {
        let operation = request.operation;
        for plugin in self.plugins.iter().filter(|p| p.handles(operation)) {
            plugin.admit(request).await?;
        }
        Ok(())
    }

    /// The validating pass; stops at the first refusal.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn validate(&self, request: &Request) -> Result<(), Box<Status>> {
        for plugin in self.plugins.iter().filter(|p| p.handles(request.operation)) {
            plugin.validate(request).await?;
        }
        Ok(())
    }
}

/// The faults of the two flags.
fn check(enable: &[String], disable: &[String]) -> Vec<UnknownPlugin> {
    let entry = |name: &str| ORDER.iter().find(|e| e.name == name);
    let mut faults = Vec::new();
    for name in enable {
        match entry(name) {
            None => faults.push(UnknownPlugin::Unknown {
                flag: "enable-admission-plugins",
                name: name.clone(),
            }),
            // A default-on plugin that we lack is as absent as without the flag; saying otherwise would be a lie.
            Some(e) if e.build.is_none() => faults.push(UnknownPlugin::Missing(name.clone())),
            Some(_) => {}
        }
    }
    for name in disable.iter().filter(|n| entry(n).is_none()) {
        faults.push(UnknownPlugin::Unknown {
            flag: "disable-admission-plugins",
            name: name.clone(),
        });
    }
    let both: BTreeSet<&str> = enable
        .iter()
        .filter(|n| disable.contains(n))
        .map(String::as_str)
        .collect();
    if !both.is_empty() {
        faults.push(UnknownPlugin::Overlap(both.into_iter().collect::<Vec<_>>().join(" ")));
    }
    faults
}
