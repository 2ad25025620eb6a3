//! How large each set should be. Pure arithmetic on sizes.
//!
//! *Available minimum* = replicas − maxUnavailable. *Most* = replicas + maxSurge (none when replicas is 0). A run either
//! grows the new set, or, when that is not possible, shrinks old ones.

use steersman_types::IntOrString;
use steersman_types::api::apps::v1::Deployment;

use super::decide::Sized;
use super::revision;

pub(super) fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

pub(super) fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|s| s.strategy.as_ref());
    strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate")
}

/// A number, or a percentage of `total` rounded up or down; nonsense counts as 0.
#[must_use]
pub fn scaled(value: Option<&IntOrString>, total: i32, up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.strip_suffix('%').and_then(|p| p.parse().ok()).unwrap_or(0);
            let product = percent.saturating_mul(i64::from(total));
            let rounded = if up {
                product.saturating_add(99) / 100
            } else {
                product / 100
            };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

/// `(surge, unavailable)`; never both 0, or nothing could move.
fn fenceposts(deployment: &Deployment) -> (i32, i32) {
    let rolling = deployment
        .spec
        .as_ref()
        .and_then(|s| s.strategy.as_ref())
        .and_then(|s| s.rolling_update.as_ref());
    let total = replicas(deployment);
    let surge = scaled(rolling.and_then(|r| r.max_surge.as_ref()), total, true);
    let unavailable = scaled(rolling.and_then(|r| r.max_unavailable.as_ref()), total, false);
    if surge == 0 && unavailable == 0 {
        (0, 1)
    } else {
        (surge, unavailable)
    }
}

pub(super) fn max_surge(deployment: &Deployment) -> i32 {
    if is_recreate(deployment) {
        0
    } else {
        fenceposts(deployment).0
    }
}

/// Pods that may be missing during a rollout; at most all of them.
pub(super) fn max_unavailable(deployment: &Deployment) -> i32 {
    let total = replicas(deployment);
    if is_recreate(deployment) || total == 0 {
        0
    } else {
        fenceposts(deployment).1.min(total)
    }
}

fn total(sets: &[Sized], new: Option<&Sized>) -> i32 {
    sets.iter().chain(new).fold(0, |sum, s| sum.saturating_add(s.size))
}

/// Whether an active set has been told another `spec.replicas` than the present one.
pub(super) fn scaling_event<'a>(deployment: &Deployment, sets: impl Iterator<Item = &'a Sized>) -> bool {
    let wanted = replicas(deployment);
    sets.filter(|s| s.size > 0)
        .filter_map(|s| revision::desired(&s.set))
        .any(|desired| desired != wanted)
}

/// The new set's size as far as the surge allows.
pub(super) fn new_size(deployment: &Deployment, old: &[Sized], new: Option<&Sized>) -> i32 {
    let wanted = replicas(deployment);
    if is_recreate(deployment) {
        return wanted;
    }
    let size = new.map_or(0, |n| n.size);
    let rolling = deployment
        .spec
        .as_ref()
        .and_then(|s| s.strategy.as_ref())
        .and_then(|s| s.rolling_update.as_ref());
    let most = wanted.saturating_add(scaled(rolling.and_then(|r| r.max_surge.as_ref()), wanted, true));
    let room = most.saturating_sub(total(old, new));
    if room <= 0 {
        size
    } else {
        size.saturating_add(room.min(wanted.saturating_sub(size)))
    }
}

/// One step of a rolling update. Returns whether the new set must be created.
pub(super) fn rolling(deployment: &Deployment, old: &mut [Sized], new: &mut Option<Sized>) -> bool {
    let wanted = replicas(deployment);
    let Some(current) = new else { return true };
    if current.size > wanted {
        current.size = wanted;
        return false;
    }
    if current.size < wanted {
        let size = new_size(deployment, old, Some(current));
        if size != current.size {
            current.size = size;
            return false;
        }
    }
    shrink_old(deployment, old, current);
    false
}

/// Shrinks old sets by what is not needed for the available minimum: first pods that are not available anyway.
fn shrink_old(deployment: &Deployment, old: &mut [Sized], new: &Sized) {
    let minimum = replicas(deployment).saturating_sub(max_unavailable(deployment));
    let new_unavailable = new.size.saturating_sub(new.sure());
    let mut unhealthy = total(old, Some(new))
        .saturating_sub(minimum)
        .saturating_sub(new_unavailable);
    if total(old, None) == 0 || unhealthy <= 0 {
        return;
    }
    for set in old.iter_mut() {
        let cut = set.size.saturating_sub(set.sure()).clamp(0, unhealthy.max(0));
        set.size -= cut;
        unhealthy -= cut;
    }
    let available = old
        .iter()
        .chain([new])
        .fold(0i32, |sum, s| sum.saturating_add(s.sure()));
    let mut surplus = available.saturating_sub(minimum);
    for set in old.iter_mut() {
        let cut = set.size.clamp(0, surplus.max(0));
        set.size -= cut;
        surplus -= cut;
    }
}

/// Recreate: old sets to zero, then wait for their pods, then the new one. Returns whether the new set must be created.
pub(super) fn recreate(deployment: &Deployment, old: &mut [Sized], new: &mut Option<Sized>, old_pods: bool) -> bool {
    let mut shrunk = false;
    for set in old.iter_mut().filter(|s| s.size != 0) {
        set.size = 0;
        shrunk = true;
    }
    if shrunk || old_pods {
        return false;
    }
    match new {
        None => true,
        Some(new) => {
            new.size = replicas(deployment);
            false
        }
    }
}

/// A change of `spec.replicas` (or anything while paused): spread over the active sets in proportion, so that a rollout
/// under way is neither hastened nor turned back.
pub(super) fn scale(deployment: &Deployment, old: &mut [Sized], new: &mut Option<Sized>) {
    let wanted = replicas(deployment);
    let active = old.iter().chain(new.as_ref()).filter(|s| s.size > 0).count();
    if active <= 1 {
        let target = if active == 1 {
            old.iter_mut().chain(new.as_mut()).find(|s| s.size > 0)
        } else if new.is_some() {
            new.as_mut()
        } else {
            // Sorted by age: the latest.
            old.last_mut()
        };
        if let Some(target) = target {
            target.size = wanted;
        }
        return;
    }
    let saturated = new
        .as_ref()
        .is_some_and(|n| n.size == wanted && revision::desired(&n.set) == Some(wanted) && n.available() == wanted);
    if saturated {
        old.iter_mut().for_each(|s| s.size = 0);
    } else if !is_recreate(deployment) {
        proportionally(
            deployment,
            old.iter_mut().chain(new.as_mut()).filter(|s| s.size > 0).collect(),
        );
    }
}

fn proportionally(deployment: &Deployment, mut sets: Vec<&mut Sized>) {
    let wanted = replicas(deployment);
    let most = if wanted > 0 {
        wanted.saturating_add(max_surge(deployment))
    } else {
        0
    };
    let add = most.saturating_sub(sets.iter().fold(0i32, |sum, s| sum.saturating_add(s.size)));
    // Larger sets first; of equal ones the newer when growing, the older when shrinking (the vector is oldest first).
    if add > 0 {
        sets.reverse();
    }
    sets.sort_by_key(|s| std::cmp::Reverse(s.size));
    let mut added = 0i32;
    let sizes: Vec<i32> = sets
        .iter()
        .map(|s| {
            let left = add - added;
            let share = if add == 0 || left == 0 {
                0
            } else if add > 0 {
                fraction(deployment, s).min(left)
            } else {
                fraction(deployment, s).max(left)
            };
            added += share;
            s.size.saturating_add(share)
        })
        .collect();
    for (i, (set, mut size)) in sets.into_iter().zip(sizes).enumerate() {
        if i == 0 && add != 0 {
            size = size.saturating_add(add - added).max(0);
        }
        set.size = size;
        set.touched |= revision::annotate_replicas(&mut set.set, wanted, wanted.saturating_add(max_surge(deployment)));
    }
}

/// By how much a set should grow or shrink to keep its share of the whole.
fn fraction(deployment: &Deployment, sized: &Sized) -> i32 {
    let wanted = replicas(deployment);
    if wanted == 0 {
        return -sized.size;
    }
    let most = i64::from(wanted) + i64::from(max_surge(deployment));
    let recorded = revision::most(&sized.set).filter(|n| *n != 0);
    let before = recorded
        .or(deployment.status.as_ref().and_then(|s| s.replicas))
        .unwrap_or(0);
    if before <= 0 {
        return 0;
    }
    // Rounded half away from zero; all parts are positive.
    let before = i64::from(before);
    let size = (2 * i64::from(sized.size) * most + before) / (2 * before);
    i32::try_from(size).unwrap_or(i32::MAX).saturating_sub(sized.size)
}
