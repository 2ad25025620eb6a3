//! Eviction thresholds as the configuration gives them: signal, limit, grace period, minimum to reclaim.

use std::collections::BTreeMap;
use std::time::Duration;

use steersman_runtime::flags::duration;
use steersman_schema::quantity::{Format, Quantity};

use super::Kind;
use crate::config::KubeletConfiguration;

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    Memory,
    /// Of what pods together may use.
    PodsMemory,
    NodeFs,
    NodeFsInodes,
    ImageFs,
    ImageFsInodes,
    Pids,
}

/// What a signal is about; in messages by upstream's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    Memory,
    EphemeralStorage,
    Inodes,
    Pids,
}

impl Resource {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::EphemeralStorage => "ephemeral-storage",
            Self::Inodes => "inodes",
            Self::Pids => "pids",
        }
    }

    /// How amounts of it are written.
    #[must_use]
    pub fn format(self) -> Format {
        match self {
            Self::Memory | Self::EphemeralStorage => Format::BinarySI,
            Self::Inodes | Self::Pids => Format::DecimalSI,
        }
    }
}

impl Signal {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory.available",
            Self::PodsMemory => "allocatableMemory.available",
            Self::NodeFs => "nodefs.available",
            Self::NodeFsInodes => "nodefs.inodesFree",
            Self::ImageFs => "imagefs.available",
            Self::ImageFsInodes => "imagefs.inodesFree",
            Self::Pids => "pid.available",
        }
    }

    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::Memory | Self::PodsMemory => Kind::Memory,
            Self::NodeFs | Self::NodeFsInodes | Self::ImageFs | Self::ImageFsInodes => Kind::Disk,
            Self::Pids => Kind::Pid,
        }
    }

    #[must_use]
    pub fn resource(self) -> Resource {
        match self {
            Self::Memory | Self::PodsMemory => Resource::Memory,
            Self::NodeFs | Self::ImageFs => Resource::EphemeralStorage,
            Self::NodeFsInodes | Self::ImageFsInodes => Resource::Inodes,
            Self::Pids => Resource::Pids,
        }
    }

    /// `None` for the file system of writable layers, which with this runtime is that of images or of the node: upstream
    /// overrides what is configured for it.
    fn parse(name: &str) -> Result<Option<Self>, String> {
        if matches!(name, "containerfs.available" | "containerfs.inodesFree") {
            return Ok(None);
        }
        let all = [
            Self::Memory,
            Self::PodsMemory,
            Self::NodeFs,
            Self::NodeFsInodes,
            Self::ImageFs,
            Self::ImageFsInodes,
            Self::Pids,
        ];
        let found = all.into_iter().find(|s| s.name() == name);
        found
            .map(Some)
            .ok_or_else(|| format!("unsupported eviction signal {name}"))
    }
}

/// A limit: an amount, or a share of the capacity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    Amount(Quantity),
    /// As upstream keeps it, so that the same arithmetic gives the same bytes.
    Share(f32),
}

impl Limit {
    /// In units.
    #[must_use]
    pub fn of(self, capacity: i64) -> i64 {
        self.quantity(capacity).value()
    }

    /// As it is written in messages.
    #[must_use]
    pub fn quantity(self, capacity: i64) -> Quantity {
        match self {
            Self::Amount(amount) => amount,
            #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
            Self::Share(share) => Quantity::from_value((capacity as f64 * f64::from(share)) as i64, Format::BinarySI),
        }
    }
}

/// Too little is below the limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    pub signal: Signal,
    pub limit: Limit,
    /// How long it must be so before pods are ended; zero is a hard threshold.
    pub grace: Duration,
    /// How much more than the limit must be free before it counts as over.
    pub reclaim: Option<Limit>,
}

impl Threshold {
    #[must_use]
    pub fn is_hard(&self) -> bool {
        self.grace.is_zero()
    }
}

fn percentage(text: &str) -> Result<Option<f32>, String> {
    let Some(number) = text.strip_suffix('%') else {
        return Ok(None);
    };
    let parsed: Result<f32, _> = number.parse();
    let bad = || format!("strconv.ParseFloat: parsing {number:?}: invalid syntax");
    parsed.map(|p| Some(p / 100.0)).map_err(|_| bad())
}

/// One statement; `None` if it has no effect.
fn statement(signal: &str, text: &str) -> Result<Option<(Signal, Limit)>, String> {
    let Some(parsed) = Signal::parse(signal)? else {
        return Ok(None);
    };
    if text == "0%" || text == "100%" {
        return Ok(None);
    }
    if let Some(share) = percentage(text)? {
        if share < 0.0 {
            return Err(format!("eviction percentage threshold {signal} must be >= 0%: {text}"));
        }
        if share > 1.0 {
            return Err(format!(
                "eviction percentage threshold {signal} must be <= 100%: {text}"
            ));
        }
        return Ok(Some((parsed, Limit::Share(share))));
    }
    let amount = Quantity::parse(text).map_err(|e| e.to_string())?;
    if amount.sign() <= 0 {
        return Err(format!("eviction threshold {signal} must be positive: {amount}"));
    }
    Ok(Some((parsed, Limit::Amount(amount))))
}

fn reclaims(all: &BTreeMap<String, String>) -> Result<BTreeMap<Signal, Limit>, String> {
    let mut parsed = BTreeMap::new();
    for (name, text) in all {
        let Some(signal) = Signal::parse(name)? else { continue };
        let limit = match percentage(text)? {
            Some(share) if share <= 0.0 => {
                return Err(format!(
                    "eviction percentage minimum reclaim {name} must be positive: {text}"
                ));
            }
            Some(share) => Limit::Share(share),
            None => {
                let amount = Quantity::parse(text).map_err(|e| e.to_string())?;
                if amount.sign() < 0 {
                    return Err(format!("negative eviction minimum reclaim specified for {name}"));
                }
                Limit::Amount(amount)
            }
        };
        parsed.insert(signal, limit);
    }
    Ok(parsed)
}

/// All thresholds of a configuration: hard ones, soft ones, and that of the pods' memory, which is the machine's.
///
/// # Errors
/// The first statement that makes no sense, in upstream's words.
pub fn thresholds(config: &KubeletConfiguration) -> Result<Vec<Threshold>, String> {
    let minimum = reclaims(&config.eviction_minimum_reclaim)?;
    let mut all = Vec::new();
    for (name, text) in &config.eviction_hard {
        if let Some((signal, limit)) = statement(name, text)? {
            all.push(Threshold {
                signal,
                limit,
                grace: Duration::ZERO,
                reclaim: None,
            });
        }
    }
    for (name, text) in &config.eviction_soft {
        let Some((signal, limit)) = statement(name, text)? else {
            continue;
        };
        let grace = config
            .eviction_soft_grace_period
            .get(name)
            .ok_or_else(|| format!("grace period must be specified for the soft eviction threshold {name}"))?;
        all.push(Threshold {
            signal,
            limit,
            grace: duration(grace)?,
            reclaim: None,
        });
    }
    for name in config.eviction_soft_grace_period.keys() {
        Signal::parse(name)?;
    }
    for threshold in &mut all {
        threshold.reclaim = minimum.get(&threshold.signal).copied();
    }
    let of_pods: Vec<Threshold> = all
        .iter()
        .filter(|t| t.signal == Signal::Memory && t.is_hard())
        .map(|t| Threshold {
            signal: Signal::PodsMemory,
            ..*t
        })
        .collect();
    all.extend(of_pods);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
    }

    fn parse(hard: &[(&str, &str)], soft: &[(&str, &str)], grace: &[(&str, &str)]) -> Result<Vec<Threshold>, String> {
        thresholds(&KubeletConfiguration {
            eviction_hard: map(hard),
            eviction_soft: map(soft),
            eviction_soft_grace_period: map(grace),
            eviction_minimum_reclaim: map(&[("nodefs.available", "1Gi")]),
            ..KubeletConfiguration::default()
        })
    }

    #[test]
    fn statements_become_thresholds() {
        let all = parse(
            &[
                ("memory.available", "100Mi"),
                ("nodefs.available", "10%"),
                ("pid.available", "0%"),
            ],
            &[("memory.available", "1Gi")],
            &[("memory.available", "1m30s")],
        )
        .unwrap();
        let shown: Vec<_> = all
            .iter()
            .map(|t| {
                (
                    t.signal,
                    t.limit.of(1000),
                    t.grace.as_secs(),
                    t.reclaim.map(|r| r.of(0)),
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                (Signal::Memory, 100 << 20, 0, None),
                (Signal::NodeFs, 100, 0, Some(1 << 30)),
                (Signal::Memory, 1 << 30, 90, None),
                (Signal::PodsMemory, 100 << 20, 0, None),
            ]
        );
        assert_eq!(parse(&[], &[], &[]), Ok(Vec::new()), "an empty map switches it off");
    }

    #[test]
    fn statements_without_sense_are_refused_in_upstreams_words() {
        for (hard, soft, text) in [
            (&[("disk", "1")][..], &[][..], "unsupported eviction signal disk"),
            (
                &[("nodefs.available", "101%")],
                &[],
                "eviction percentage threshold nodefs.available must be <= 100%: 101%",
            ),
            (
                &[("nodefs.available", "0")],
                &[],
                "eviction threshold nodefs.available must be positive: 0",
            ),
            (
                &[],
                &[("memory.available", "1")],
                "grace period must be specified for the soft eviction threshold memory.available",
            ),
        ] {
            assert_eq!(parse(hard, soft, &[]).unwrap_err(), text);
        }
    }
}
