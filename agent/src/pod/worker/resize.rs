//! In-place changes of a pod's resources, as the worker carries them out: agreed to first, then told to the kernel and to
//! the runtime, then reported as done.
//!
//! What the node agreed to and what the runtime was told is kept in `resources.json` in the pod's directory.

use std::path::PathBuf;
use std::sync::Arc;

use steersman_types::api::core::v1::Pod;

use super::super::resize::{
    IN_PROGRESS, PENDING, Sizes, WHOLE, condition, desired, given, summary, told, unfinished, with_sizes,
};
use super::super::seen::{Ending, PodSeen};
use super::super::{find_container, full_name, uid};
use super::{Next, RETRY, Worker};
use crate::allocations::amounts;
use crate::events::PodEvents;
use crate::runtime::resources::container_resources;

impl Worker {
    /// The pod with the resources that the node agreed to, after agreeing to what is wanted now, if that fits.
    pub(super) fn allocate(&mut self, pod: &Arc<Pod>) -> Arc<Pod> {
        let now = self.context.now();
        let events = PodEvents::new(self.context.sink.clone(), pod);
        let ends = pod.metadata.deletion_timestamp.is_some() || self.failed.is_some() || self.over(pod);
        let known = self.sizes.is_some();
        let mut sizes = match self.sizes.take() {
            Some(sizes) => sizes,
            None => self.stored_sizes(pod),
        };
        let mut allocated = self.sized(pod, &sizes);
        if !known && !ends {
            self.context.allocations.set(uid(pod), amounts(&allocated));
        }
        if ends || Arc::ptr_eq(&allocated, pod) {
            self.pending = None;
        } else {
            let asked = amounts(pod);
            match self
                .context
                .allocations
                .change(uid(pod), asked, &self.context.allocatable)
            {
                Ok(()) => {
                    sizes.allocated = desired(pod);
                    allocated = pod.clone();
                    self.pending = None;
                    let generation = pod.metadata.generation;
                    self.resizing = Some(condition(IN_PROGRESS, "", "", generation, now, None));
                    self.store_sizes(pod, &sizes);
                    events.normal(
                        None,
                        "ResizeStarted",
                        &summary("Pod resize started", pod, generation, ""),
                    );
                }
                Err(lacking) => {
                    let (generation, why) = (pod.metadata.generation, lacking.to_string());
                    let before = self.pending.take();
                    if before.as_ref().is_none_or(|c| c.observed_generation != generation) {
                        let text = summary("Pod resize Deferred", pod, generation, &why);
                        events.warning(None, "ResizeDeferred", &text);
                    }
                    self.pending = Some(condition(PENDING, "Deferred", &why, generation, now, before.as_ref()));
                }
            }
        }
        self.sizes = Some(sizes);
        allocated
    }

    /// The pod as the node agreed to it.
    pub(super) fn allocated(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        match &self.sizes {
            Some(sizes) => self.sized(pod, sizes),
            None => pod.clone(),
        }
    }

    #[allow(clippy::unused_self)]
    fn sized(&self, pod: &Arc<Pod>, sizes: &Sizes) -> Arc<Pod> {
        with_sizes(pod, &sizes.allocated).map_or_else(|| pod.clone(), Arc::new)
    }

    /// Adds what is known of sizes to an observation, and says when a change is complete.
    pub(super) fn look_at_sizes(&mut self, pod: &Pod, seen: &mut PodSeen, events: &PodEvents) {
        if let Some(sizes) = &self.sizes {
            seen.actuated.clone_from(&sizes.actuated);
        }
        if seen.ending != Ending::No {
            self.resizing = None;
            self.pending = None;
            return;
        }
        let generation = pod.metadata.generation;
        if !unfinished(pod, seen).is_empty() {
            self.resizing
                .get_or_insert_with(|| condition(IN_PROGRESS, "", "", generation, seen.now, None));
        } else if let Some(done) = self.resizing.take() {
            let text = summary("Pod resize completed", pod, done.observed_generation, "");
            events.normal(None, "ResizeCompleted", &text);
        }
        seen.resize = self.pending.iter().chain(&self.resizing).cloned().collect();
    }

    /// The pod with what its containers and its group were given last, if that is not what it is to have.
    pub(super) fn given(&self, pod: &Pod) -> Option<Pod> {
        given(pod, &self.sizes.as_ref()?.actuated)
    }

    /// Remembers what started containers were given.
    pub(super) fn started_with_sizes(&mut self, pod: &Pod, names: &[String]) {
        let Some(mut sizes) = self.sizes.take() else { return };
        let mut own = desired(pod);
        for name in names {
            if let Some(given) = own.remove(name) {
                sizes.actuated.insert(name.clone(), told(pod, Some(&given)));
            }
        }
        // A pod's group is made with what the pod is to have.
        if let Some(whole) = own.remove(WHOLE) {
            sizes.actuated.entry(WHOLE.into()).or_insert(whole);
        }
        self.store_sizes(pod, &sizes);
        self.sizes = Some(sizes);
    }

    /// Tells kernel and runtime the new sizes: the pod's group grows before its containers and shrinks after them.
    pub(super) async fn resize(&mut self, pod: &Pod, seen: &PodSeen, names: &[String], events: &PodEvents) -> Next {
        let context = self.context.clone();
        let mut sizes = self.sizes.take().unwrap_or_default();
        let before = given(pod, &sizes.actuated).unwrap_or_else(|| pod.clone());
        let result = async {
            let changed = names
                .iter()
                .filter_map(|name| Some((name.as_str(), seen.container(name)?.id.as_str())));
            context.cgroups.memory_fits(&before, pod, changed)?;
            context.cgroups.grow(&before, pod).map_err(|e| e.to_string())?;
            for name in names {
                let (Some(container), Some((_, spec))) = (seen.container(name), find_container(pod, name)) else {
                    continue;
                };
                let resources = container_resources(pod, &spec, &context.node);
                context
                    .runtime
                    .update_container(&container.id, resources)
                    .await
                    .map_err(|e| e.to_string())?;
                sizes.actuated.insert(name.clone(), told(pod, spec.resources.as_ref()));
            }
            context.cgroups.shrink(&before, pod).map_err(|e| e.to_string())?;
            if let Some(whole) = desired(pod).remove(WHOLE) {
                sizes.actuated.insert(WHOLE.into(), whole);
            }
            Ok::<_, String>(())
        }
        .await;
        self.store_sizes(pod, &sizes);
        self.sizes = Some(sizes);
        let Err(why) = result else { return Next::Again };
        tracing::warn!(pod = %full_name(pod), error = %why, "Failed to resize the pod");
        let before = self.resizing.take();
        let generation = before
            .as_ref()
            .map_or(pod.metadata.generation, |c| c.observed_generation);
        if before.as_ref().is_none_or(|c| c.message.as_deref() != Some(&why)) {
            let text = summary("Pod resize error", pod, generation, &why);
            events.warning(None, "ResizeError", &text);
        }
        self.resizing = Some(condition(
            IN_PROGRESS,
            "Error",
            &why,
            generation,
            seen.now,
            before.as_ref(),
        ));
        Next::After(RETRY)
    }

    fn sizes_file(&self, pod: &Pod) -> PathBuf {
        self.context.volumes.pod_dir(uid(pod)).join("resources.json")
    }

    /// From an earlier run of the agent; else the spec, which is what a pod starts with.
    fn stored_sizes(&self, pod: &Pod) -> Sizes {
        let stored = std::fs::read(self.sizes_file(pod)).ok();
        let stored: Option<Sizes> = stored.and_then(|text| serde_json::from_slice(&text).ok());
        let Some(mut sizes) = stored else {
            return Sizes::of(pod);
        };
        sizes.complete(pod);
        sizes
    }

    /// Nothing is lost for good if this fails: after a restart of the agent, the spec counts.
    fn store_sizes(&self, pod: &Pod, sizes: &Sizes) {
        let file = self.sizes_file(pod);
        let new = file.with_extension("new");
        let text = serde_json::to_vec(sizes).unwrap_or_default();
        let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &file));
        if let Err(e) = written {
            tracing::warn!(pod = %full_name(pod), error = %e, "Failed to remember the pod's resources");
        }
    }
}
