//! Tables of kinds around storage: volumes, classes, drivers, attachments.

use super::{is_default, joined, own, text, text_or};
use crate::Column;
use crate::table::{AGE, NAME, age, column};
use crate::view::View;
use jiff::Timestamp;
use serde_json::Value;

pub(super) const VOLUME: &[Column] = &[
    NAME,
    column("Capacity", "string", 0, "The size of the volume."),
    column(
        "Access Modes",
        "string",
        0,
        "The ways in which the volume can be mounted.",
    ),
    column(
        "Reclaim Policy",
        "string",
        0,
        "What happens to the volume when its claim goes.",
    ),
    column(
        "Status",
        "string",
        0,
        "Whether the volume is available, bound to a claim or released.",
    ),
    column("Claim", "string", 0, "The claim that has the volume."),
    column("StorageClass", "string", 0, "StorageClass of the pv"),
    column("VolumeAttributesClass", "string", 0, "VolumeAttributesClass of the pv"),
    column("Reason", "string", 0, "Why the volume is in this state."),
    AGE,
    column(
        "VolumeMode",
        "string",
        1,
        "Whether the volume holds a file system or is a block device.",
    ),
];

pub(super) fn volume(volume: &Value, now: &Timestamp) -> Vec<Value> {
    let claim = match volume.at("/spec/claimRef") {
        Value::Null => String::new(),
        claim => format!("{}/{}", claim.text("/namespace"), claim.text("/name")),
    };
    let phase = if volume.has("/metadata/deletionTimestamp") {
        "Terminating"
    } else {
        volume.text("/status/phase")
    };
    let class = volume
        .entries("/metadata/annotations")
        .and_then(|a| a.get("volume.beta.kubernetes.io/storage-class"))
        .and_then(Value::as_str);
    vec![
        own(volume),
        text_or(volume, "/spec/capacity/storage", "0"),
        modes(volume.items("/spec/accessModes")).into(),
        text(volume, "/spec/persistentVolumeReclaimPolicy"),
        phase.into(),
        claim.into(),
        class.unwrap_or_else(|| volume.text("/spec/storageClassName")).into(),
        text_or(volume, "/spec/volumeAttributesClassName", "<unset>"),
        text(volume, "/status/reason"),
        age(volume, now),
        text_or(volume, "/spec/volumeMode", "<unset>"),
    ]
}

/// Access modes in short form and fixed order.
fn modes(list: &[Value]) -> String {
    const SHORT: [(&str, &str); 4] = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let has = |mode: &str| list.iter().any(|m| m == mode);
    let found: Vec<&str> = SHORT.iter().filter(|(mode, _)| has(mode)).map(|(_, s)| *s).collect();
    found.join(",")
}

pub(super) const STORAGE_CLASS: &[Column] = &[
    NAME,
    column("Provisioner", "string", 0, "Who makes volumes of this class."),
    column(
        "ReclaimPolicy",
        "string",
        0,
        "What happens to volumes of this class when their claims go.",
    ),
    column(
        "VolumeBindingMode",
        "string",
        0,
        "When volumes of this class are made and bound.",
    ),
    column(
        "AllowVolumeExpansion",
        "string",
        0,
        "Whether claims of this class may grow.",
    ),
    AGE,
];

pub(super) fn storage_class(class: &Value, now: &Timestamp) -> Vec<Value> {
    let default = is_default(class, "storageclass.kubernetes.io/is-default-class")
        || is_default(class, "storageclass.beta.kubernetes.io/is-default-class");
    let suffix = if default { " (default)" } else { "" };
    vec![
        format!("{}{suffix}", class.text("/metadata/name")).into(),
        text(class, "/provisioner"),
        text_or(class, "/reclaimPolicy", "Delete"),
        text_or(class, "/volumeBindingMode", "Immediate"),
        class.flag("/allowVolumeExpansion").into(),
        age(class, now),
    ]
}

pub(super) const ATTRIBUTES_CLASS: &[Column] = &[
    NAME,
    column("DriverName", "string", 0, "The driver that knows the attributes."),
    AGE,
];

pub(super) const CSI_NODE: &[Column] = &[
    NAME,
    column(
        "Drivers",
        "integer",
        0,
        "Drivers indicates the number of CSI drivers registered on the node",
    ),
    AGE,
];

pub(super) const CSI_DRIVER: &[Column] = &[
    NAME,
    column(
        "AttachRequired",
        "boolean",
        0,
        "Whether volumes must be attached before they are mounted.",
    ),
    column(
        "PodInfoOnMount",
        "boolean",
        0,
        "Whether the driver is told about the pod.",
    ),
    column(
        "StorageCapacity",
        "boolean",
        0,
        "Whether the scheduler looks at the driver's capacity.",
    ),
    column(
        "TokenRequests",
        "string",
        0,
        "Audiences of tokens that the driver gets.",
    ),
    column(
        "RequiresRepublish",
        "boolean",
        0,
        "Whether the driver is called again and again.",
    ),
    column("Modes", "string", 0, "Kinds of volumes that the driver offers."),
    AGE,
];

pub(super) fn driver(driver: &Value, now: &Timestamp) -> Vec<Value> {
    let audiences: Vec<&str> = driver
        .items("/spec/tokenRequests")
        .iter()
        .map(|t| t.text("/audience"))
        .collect();
    let modes = joined(driver.items("/spec/volumeLifecycleModes"));
    vec![
        own(driver),
        driver.at("/spec/attachRequired").as_bool().unwrap_or(true).into(),
        driver.flag("/spec/podInfoOnMount").into(),
        driver.flag("/spec/storageCapacity").into(),
        if audiences.is_empty() {
            "<unset>".into()
        } else {
            audiences.join(",").into()
        },
        driver.flag("/spec/requiresRepublish").into(),
        if modes.is_empty() {
            "<none>".into()
        } else {
            modes.into()
        },
        age(driver, now),
    ]
}

pub(super) const ATTACHMENT: &[Column] = &[
    NAME,
    Column {
        name: "Attacher",
        kind: "string",
        format: "name",
        description: "The driver that attaches.",
        priority: 0,
    },
    column("PV", "string", 0, "The volume."),
    column("Node", "string", 0, "The node to which it is attached."),
    column("Attached", "boolean", 0, "Whether it is attached."),
    AGE,
];
