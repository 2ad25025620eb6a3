//! What to do about the API's picture of a static pod. Pure.

use serde_json::Value;
use steersman_types::Typed;
use steersman_types::api::core::v1::{Pod, PodStatus};
use steersman_types::meta::OwnerReference;

use crate::pod::{self, HASH, MIRROR};

/// One step; the next one follows when this one shows in the API.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    None,
    Create,
    /// Shows a pod that is no more, or is being deleted: the picture of a pod goes at once.
    Delete {
        uid: String,
    },
    Write,
}

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a String> {
    pod.metadata.annotations.as_ref()?.get(name)
}

/// Whether the object shows this very version of the pod.
#[must_use]
pub fn shows(mirror: &Pod, original: &Pod) -> bool {
    let hash = annotation(mirror, MIRROR);
    hash.is_some() && hash == annotation(original, HASH)
}

/// `status` is what is to be shown, `written` what this process has written to the object that there is.
#[must_use]
pub fn decide(
    original: Option<&Pod>,
    mirror: Option<&Pod>,
    status: Option<&PodStatus>,
    written: Option<&PodStatus>,
) -> Step {
    match (original, mirror) {
        (None, None) => Step::None,
        (Some(_), None) => Step::Create,
        (original, Some(mirror)) => {
            let good = original.is_some_and(|o| shows(mirror, o)) && mirror.metadata.deletion_timestamp.is_none();
            if !good {
                return Step::Delete {
                    uid: pod::uid(mirror).to_owned(),
                };
            }
            match status {
                Some(status) if Some(status) != written => Step::Write,
                _ => Step::None,
            }
        }
    }
}

/// The object to create. It belongs to the node, which is its proof that the agent may make it.
#[must_use]
pub fn picture(original: &Pod, node: &str, node_uid: &str) -> Pod {
    let mut value = original.to_value();
    value["status"] = Value::Null;
    let mut mirror = Pod::from_value(&value).unwrap_or_else(|_| original.clone());
    mirror.status = None;
    let hash = annotation(original, HASH).cloned().unwrap_or_default();
    let meta = &mut mirror.metadata;
    meta.uid = None;
    meta.annotations.get_or_insert_default().insert(MIRROR.into(), hash);
    meta.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.to_owned(),
        uid: node_uid.to_owned(),
        controller: Some(true),
        ..OwnerReference::default()
    }]);
    mirror
}

#[cfg(test)]
mod tests {
    use super::super::manifest::{Origin, parse};
    use super::*;
    use proptest::prelude::*;
    use steersman_types::Time;
    use steersman_types::jiff::Timestamp;

    fn original(image: &str) -> Pod {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {{containers: [{{name: c, image: \"{image}\"}}]}}\n"
        );
        parse(&text, Origin::File("/m/p"), "n", Timestamp::UNIX_EPOCH).unwrap()
    }

    fn stored(image: &str, uid: &str) -> Pod {
        let mut mirror = picture(&original(image), "n", "nu");
        mirror.metadata.uid = Some(uid.into());
        mirror
    }

    fn running() -> PodStatus {
        PodStatus {
            phase: Some("Running".into()),
            ..PodStatus::default()
        }
    }

    #[test]
    fn the_picture_names_its_original_and_its_owner() {
        let pod = original("i:1");
        let mirror = picture(&pod, "n", "nu");
        assert_eq!(mirror.metadata.annotations.as_ref().unwrap()[MIRROR], pod::uid(&pod));
        assert!(shows(&mirror, &pod) && !shows(&mirror, &original("i:2")) && !shows(&pod, &pod));
        assert_eq!((mirror.metadata.uid.clone(), mirror.status.clone()), (None, None));
        assert_eq!(mirror.metadata.owner_references.as_ref().unwrap()[0].uid, "nu");
        assert_eq!(mirror.spec, pod.spec);
    }

    #[test]
    fn a_picture_is_made_kept_true_and_taken_away() {
        let pod = original("i:1");
        let mirror = stored("i:1", "u");
        let delete = Step::Delete { uid: "u".into() };
        assert_eq!(decide(Some(&pod), None, None, None), Step::Create);
        assert_eq!(decide(Some(&pod), Some(&mirror), None, None), Step::None);
        assert_eq!(decide(Some(&pod), Some(&mirror), Some(&running()), None), Step::Write);
        assert_eq!(
            decide(Some(&pod), Some(&mirror), Some(&running()), Some(&running())),
            Step::None
        );
        assert_eq!(decide(Some(&original("i:2")), Some(&mirror), None, None), delete);
        assert_eq!(decide(None, Some(&mirror), Some(&running()), None), delete);
        let mut going = mirror.clone();
        going.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        assert_eq!(decide(Some(&pod), Some(&going), Some(&running()), None), delete);
        assert_eq!(decide(None, None, None, None), Step::None);
    }

    proptest! {
        /// Carrying out the steps on an API in memory ends, and ends with the right picture.
        #[test]
        fn steps_lead_to_the_right_picture_and_end(
            is in proptest::option::of(0u8..2), was in proptest::option::of((0u8..2, any::<bool>())), known in any::<bool>(),
        ) {
            let image = |n: u8| format!("i:{n}");
            let pod = is.map(|n| original(&image(n)));
            let mut mirror = was.map(|(n, going)| {
                let mut m = stored(&image(n), "u0");
                m.metadata.deletion_timestamp = going.then_some(Time(Timestamp::UNIX_EPOCH));
                m
            });
            let status = known.then(running);
            let mut written = None;
            let mut steps = 0;
            loop {
                match decide(pod.as_ref(), mirror.as_ref(), status.as_ref(), written.as_ref()) {
                    Step::None => break,
                    Step::Create => { mirror = Some(picture(pod.as_ref().unwrap(), "n", "nu")); written = None; }
                    Step::Delete { .. } => mirror = None,
                    Step::Write => written = status.clone(),
                }
                steps += 1;
                prop_assert!(steps <= 3);
            }
            prop_assert_eq!(mirror.is_some(), pod.is_some());
            if let (Some(m), Some(p)) = (&mirror, &pod) {
                prop_assert!(shows(m, p) && m.metadata.deletion_timestamp.is_none());
                prop_assert_eq!(written, status);
            }
        }
    }
}
