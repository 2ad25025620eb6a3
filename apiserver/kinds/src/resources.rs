//! Names and amounts of compute resources (`cpu`, `hugepages-2Mi`, `example.com/gpu`), as pods, nodes, limits and
//! quotas share them.

use serde_json::Value;
use steersman_schema::field::{FieldError, FieldErrors, Path};
use steersman_schema::name;
use steersman_schema::quantity::{Format, Quantity};

pub const NEGATIVE: &str = "must be greater than or equal to 0";
pub const NOT_POSITIVE: &str = "must be greater than zero";
const NOT_INTEGER: &str = "must be an integer";
pub const HUGEPAGES: &str = "hugepages-";

const COMPUTE: &[&str] = &["cpu", "memory", "ephemeral-storage"];
const COUNTS: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// Parses a quantity that decoding has accepted; what is none reads as zero.
pub fn quantity(text: &str) -> Quantity {
    Quantity::parse(text).unwrap_or(Quantity::from_value(0, Format::DecimalSI))
}

/// Rounds every amount of a resource list up to thousandths, as upstream's defaulting does.
pub fn round_up(list: Option<&mut Value>) {
    for amount in list
        .and_then(Value::as_object_mut)
        .into_iter()
        .flat_map(|l| l.values_mut())
    {
        // Amounts are canonical here: only these can be finer than thousandths.
        let fine = |t: &&str| t.ends_with(['n', 'u']) || t.contains("e-");
        let Some(text) = amount.as_str().filter(fine) else {
            continue;
        };
        let exact = quantity(text);
        if !exact.is_milli() {
            *amount = Quantity::from_milli(exact.milli_value(), exact.format())
                .to_string()
                .into();
        }
    }
}

pub fn is_hugepages(resource: &str) -> bool {
    resource.starts_with(HUGEPAGES)
}
fn is_quota_hugepages(resource: &str) -> bool {
    is_hugepages(resource) || resource.starts_with("requests.hugepages-")
}
/// Names without a domain, and those of kubernetes.io.
pub fn is_native(resource: &str) -> bool {
    !resource.contains('/') || resource.contains("kubernetes.io/")
}
/// Whether requests may stay below limits.
pub fn is_overcommittable(resource: &str) -> bool {
    is_native(resource) && !is_hugepages(resource)
}
/// `example.com/gpu`.
pub fn is_extended(resource: &str) -> bool {
    !is_native(resource)
        && !resource.starts_with("requests.")
        && name::qualified_name(&format!("requests.{resource}")).is_empty()
}
pub fn is_standard_container(resource: &str) -> bool {
    COMPUTE.contains(&resource) || is_hugepages(resource)
}
fn is_prefixed(resource: &str, prefixes: &[&str]) -> bool {
    prefixes
        .iter()
        .any(|p| resource.strip_prefix(p).is_some_and(|rest| COMPUTE.contains(&rest)))
}
/// Names that need no domain, anywhere.
pub fn is_standard(resource: &str) -> bool {
    COMPUTE.contains(&resource)
        || COUNTS.contains(&resource)
        || is_prefixed(resource, &["requests.", "limits."])
        || matches!(resource, "storage" | "requests.storage")
        || is_quota_hugepages(resource)
}
/// Names that need no domain in a ResourceQuota.
pub fn is_standard_quota(resource: &str) -> bool {
    COMPUTE.contains(&resource)
        || COUNTS.contains(&resource)
        || is_prefixed(resource, &["requests.", "limits."])
        || resource == "requests.storage"
        || is_quota_hugepages(resource)
}
/// Resources counted in whole pieces.
pub fn is_integer(resource: &str) -> bool {
    COUNTS.contains(&resource) || is_extended(resource)
}

/// Faults of a resource's name, wherever it stands.
pub fn validate_name(resource: &str, path: &Path) -> FieldErrors {
    let errors: FieldErrors = name::qualified_name(resource)
        .into_iter()
        .map(|m| FieldError::invalid(path, resource, m))
        .collect();
    if errors.is_empty() && !resource.contains('/') && !is_standard(resource) {
        return vec![FieldError::invalid(
            path,
            resource,
            "must be a standard resource type or fully qualified",
        )];
    }
    errors
}

/// Faults of a resource's name in a container.
pub fn validate_container_name(resource: &str, path: &Path) -> FieldErrors {
    let mut errors = validate_name(resource, path);
    if !resource.contains('/') {
        if !is_standard_container(resource) {
            errors.push(FieldError::invalid(
                path,
                resource,
                "must be a standard resource for containers",
            ));
        }
    } else if !is_native(resource) && !is_extended(resource) {
        errors.push(FieldError::invalid(
            path,
            resource,
            "doesn't follow extended resource name standard",
        ));
    }
    errors
}

/// Faults of an amount: not negative, and whole where pieces are counted.
pub fn validate_quantity(resource: &str, text: &str, path: &Path) -> FieldErrors {
    let amount = quantity(text);
    let mut errors = non_negative(&amount, path);
    if is_integer(resource) && !amount.is_integer() {
        errors.push(FieldError::invalid(path, amount.to_string(), NOT_INTEGER));
    }
    errors
}

/// The fault of an amount below zero.
pub fn non_negative(amount: &Quantity, path: &Path) -> FieldErrors {
    if amount.sign() < 0 {
        vec![FieldError::invalid(path, amount.to_string(), NEGATIVE)]
    } else {
        Vec::new()
    }
}

/// Whether an amount of huge pages is a whole number of pages.
pub fn hugepages_divide(resource: &str, amount: &Quantity) -> bool {
    let Some(Ok(page)) = resource.strip_prefix(HUGEPAGES).map(Quantity::parse) else {
        return false;
    };
    page.sign() > 0 && page.is_integer() && amount.value() % page.value() == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fall_into_upstreams_families() {
        assert!(
            is_standard_container("cpu") && is_standard_container("hugepages-2Mi") && !is_standard_container("pods")
        );
        assert!(is_extended("example.com/gpu") && !is_extended("kubernetes.io/x") && !is_extended("gpu"));
        assert!(is_integer("example.com/gpu") && !is_integer("cpu"));
        assert!(
            hugepages_divide("hugepages-2Mi", &quantity("4Mi")) && !hugepages_divide("hugepages-2Mi", &quantity("3Mi"))
        );
    }

    #[test]
    fn faults_of_names_and_amounts_have_upstreams_words() {
        let path = Path::new("limits").key("gpu");
        let texts: Vec<String> = validate_container_name("gpu", &path)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            texts,
            [
                "limits[gpu]: Invalid value: \"gpu\": must be a standard resource type or fully qualified",
                "limits[gpu]: Invalid value: \"gpu\": must be a standard resource for containers"
            ]
        );
        assert_eq!(
            validate_quantity("example.com/gpu", "500m", &path)[0].to_string(),
            "limits[gpu]: Invalid value: \"500m\": must be an integer"
        );
    }
}
