//! Node ports: one bitmap for the cluster, changed by compare-and-swap.
//!
//! It is stored as upstream stores it: a `RangeAllocation` whose data are the bytes of a big-endian number in which
//! bit `n` stands for port `first + n`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};
use steersman_schema::codec;
use steersman_schema::status::Status;
use steersman_storage::store;

use super::plan::Ask;
use crate::api::Api;
use crate::flags::PortRange;

/// Rounds of compare-and-swap.
const ROUNDS: usize = 50;
/// What a dry run counts from.
const DUMMY: i64 = 32_768;

/// Why ports cannot be taken.
#[derive(Debug)]
pub(super) enum Fault {
    Refused { slot: String, port: i64, detail: String },
    Full { slot: String },
    Store(Status),
}

/// The ports in use: bit `n` of byte `n / 8`, least significant first.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bitmap {
    bits: Vec<u8>,
    range: PortRange,
}

impl Bitmap {
    fn empty(range: PortRange) -> Self {
        let size = usize::from(range.last - range.first) + 1;
        Self {
            bits: vec![0; size.div_ceil(8)],
            range,
        }
    }

    fn place(&self, port: i64) -> Option<(usize, u8)> {
        let port = u16::try_from(port).ok()?;
        (self.range.first..=self.range.last).contains(&port).then(|| {
            let n = usize::from(port - self.range.first);
            (n / 8, 1 << (n % 8))
        })
    }

    fn has(&self, port: i64) -> bool {
        self.place(port).is_some_and(|(byte, bit)| self.bits[byte] & bit != 0)
    }

    fn set(&mut self, port: i64, on: bool) {
        if let Some((byte, bit)) = self.place(port) {
            if on {
                self.bits[byte] |= bit;
            } else {
                self.bits[byte] &= !bit;
            }
        }
    }

    /// From upstream's form.
    fn read(data: &[u8], range: PortRange) -> Self {
        let mut map = Self::empty(range);
        for (into, from) in map.bits.iter_mut().zip(data.iter().rev()) {
            *into = *from;
        }
        map
    }

    /// In upstream's form: big-endian, no leading zeros.
    fn write(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.bits.iter().rev().copied().collect();
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        bytes.drain(..zeros);
        bytes
    }

    /// A free port: at random above the part that is left for ports people choose, then anywhere.
    fn free(&self, random: u64) -> Option<i64> {
        let size = u32::from(self.range.last - self.range.first) + 1;
        let reserved = if size < 16 { 0 } else { (size / 32).clamp(16, 128) }.min(size);
        let port = |n: u32| i64::from(self.range.first) + i64::from(n);
        let upper = size - reserved;
        let start = if upper == 0 {
            0
        } else {
            (random % u64::from(upper)) as u32
        };
        let order = (0..upper).map(|n| reserved + (start + n) % upper).chain(0..reserved);
        order.map(port).find(|port| !self.has(*port))
    }
}

/// Takes what is asked for, in order; returns one port for each.
pub(super) async fn take(
    api: &Api,
    key: &str,
    range: PortRange,
    asks: &[Ask],
    dry_run: bool,
) -> Result<Vec<i64>, Fault> {
    if asks.is_empty() {
        return Ok(Vec::new());
    }
    change(api, key, range, dry_run, |map| match dry_run {
        true => pretend(map, asks),
        false => asks.iter().map(|ask| take_one(map, ask)).collect(),
    })
    .await
}

fn taken(ask: &Ask, port: i64) -> Fault {
    Fault::Refused {
        slot: ask.slot.clone(),
        port,
        detail: "provided port is already allocated".to_owned(),
    }
}

fn take_one(map: &mut Bitmap, ask: &Ask) -> Result<i64, Fault> {
    let Some(port) = ask.port else {
        let slot = ask.slot.clone();
        let port = map.free(rand::random()).ok_or(Fault::Full { slot })?;
        map.set(port, true);
        return Ok(port);
    };
    let (first, last) = (map.range.first, map.range.last);
    if !(i64::from(first)..=i64::from(last)).contains(&port) {
        let detail = format!("provided port is not in the valid range. The range of valid ports is {first}-{last}");
        let slot = ask.slot.clone();
        return Err(Fault::Refused { slot, port, detail });
    }
    if map.has(port) {
        return Err(taken(ask, port));
    }
    map.set(port, true);
    Ok(port)
}

/// A dry run, as upstream has it: what is free or out of range is given, and what nobody will use is out of range, so that
/// nobody can mistake it for a port that is taken.
fn pretend(map: &Bitmap, asks: &[Ask]) -> Result<Vec<i64>, Fault> {
    let mut got = Vec::with_capacity(asks.len());
    for ask in asks {
        let port = match ask.port {
            Some(port) if map.has(port) || got.contains(&port) => return Err(taken(ask, port)),
            Some(port) => port,
            None => got.iter().copied().max().map_or(DUMMY, |most: i64| most.max(0)) + 1,
        };
        got.push(port);
    }
    Ok(got)
}

/// Gives ports back.
pub(super) async fn release(api: &Api, key: &str, range: PortRange, ports: &[i64]) {
    let outcome = change(api, key, range, false, |map| {
        ports.iter().for_each(|port| map.set(*port, false));
        Ok(())
    })
    .await;
    if let Err(fault) = outcome {
        tracing::warn!(?ports, ?fault, "node ports not released");
    }
}

async fn change<T>(
    api: &Api,
    key: &str,
    range: PortRange,
    dry_run: bool,
    make: impl Fn(&mut Bitmap) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let failed = |error: store::Error| Fault::Store(Status::service_unavailable(format!("node ports: {error}")));
    let mut current = api.store.get(key).await.map_err(failed)?.kv.map(Box::new);
    for _ in 0..ROUNDS {
        let mut map = match &current {
            Some(kv) => decode(&kv.value, range).map_err(Fault::Store)?,
            None => Bitmap::empty(range),
        };
        let made = make(&mut map)?;
        if dry_run {
            return Ok(made);
        }
        let value = encode(&map).map_err(Fault::Store)?;
        let outcome = match &current {
            Some(kv) => api.store.update(key, value, kv.mod_revision, None).await,
            None => api.store.create(key, value, None).await,
        };
        match outcome {
            Ok(_) => return Ok(made),
            Err(store::Error::Conflict { current: newer, .. }) => current = newer,
            Err(store::Error::AlreadyExists { .. }) => {
                current = api.store.get(key).await.map_err(failed)?.kv.map(Box::new)
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Err(Fault::Store(Status::server_timeout("", "services", "allocate", 1)))
}

fn decode(stored: &[u8], range: PortRange) -> Result<Bitmap, Status> {
    let value = codec::decode_stored(stored).map_err(|error| Status::internal(format!("node port range: {error}")))?;
    let data = value.get("data").and_then(Value::as_str).unwrap_or_default();
    let data = STANDARD
        .decode(data)
        .map_err(|error| Status::internal(format!("node port range: {error}")))?;
    Ok(Bitmap::read(&data, range))
}

fn encode(map: &Bitmap) -> Result<Bytes, Status> {
    let value = json!({
        "apiVersion": "v1",
        "kind": "RangeAllocation",
        "metadata": {},
        "range": format!("{}-{}", map.range.first, map.range.last),
        "data": STANDARD.encode(map.write()),
    });
    codec::encode_stored(&value).map(Bytes::from).map_err(Status::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: PortRange = PortRange {
        first: 30_000,
        last: 32_767,
    };

    #[test]
    fn the_bitmap_survives_upstreams_form() {
        let mut map = Bitmap::empty(RANGE);
        for port in [30_000, 30_009, 32_767] {
            map.set(port, true);
        }
        let bytes = map.write();
        assert_eq!(bytes.len(), 346);
        assert_eq!(bytes.last(), Some(&1), "the lowest port is the lowest bit");
        assert_eq!(Bitmap::read(&bytes, RANGE), map);
        map.set(32_767, false);
        assert!(map.write().len() < 346);
    }

    #[test]
    fn a_dry_run_counts_on_from_what_was_asked_for_before() {
        let ask = |port| Ask {
            slot: String::new(),
            port,
        };
        let map = Bitmap::empty(RANGE);
        let got = pretend(&map, &[ask(None), ask(Some(31_000)), ask(None)]);
        assert_eq!(got.ok(), Some(vec![32_769, 31_000, 32_770]));
        assert!(matches!(
            pretend(&map, &[ask(Some(31_000)), ask(Some(31_000))]),
            Err(Fault::Refused { port: 31_000, .. })
        ));
    }

    #[test]
    fn every_port_is_given_once() {
        let range = PortRange {
            first: 1000,
            last: 1039,
        };
        let mut map = Bitmap::empty(range);
        let mut seen = std::collections::BTreeSet::new();
        while let Some(port) = map.free(seen.len() as u64 * 7919) {
            assert!(seen.insert(port), "{port} twice");
            map.set(port, true);
        }
        assert_eq!(seen.len(), 40);
    }
}
