//! What resources without a file of their own still decide: defaults, table columns, selectable fields. Looked up by
//! `group/plural`; [`crate::fallback`] puts it into their generic kinds.

mod defaults;
mod tables;

pub use defaults::default;
pub use tables::table;

use crate::view::View;
use serde_json::Value;

type Field = (&'static str, fn(&Value) -> String);

/// Fields usable in `fieldSelector` besides name and namespace.
pub fn fields(id: &str) -> &'static [Field] {
    match id {
        "resource.k8s.io/resourceslices" => &[
            ("spec.nodeName", |s| s.text("/spec/nodeName").to_string()),
            ("spec.driver", |s| s.text("/spec/driver").to_string()),
        ],
        _ => &[],
    }
}
