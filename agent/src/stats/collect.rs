//! Puts the document together.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use steersman_cri::{CriError, v1};
use steersman_types::api::core::v1::{Pod, Volume};
use steersman_types::jiff::Timestamp;

use super::disk::{Disks, Used, file_system, same_file_system};
use super::machine;
use super::rate::Rates;
use super::types::{
    ContainerStats, CpuStats, FsStats, InterfaceStats, IoStats, MemoryStats, NetworkStats, NodeStats, PodReference,
    PodStats, ProcessStats, RuntimeStats, Summary, SwapStats, VolumeStats,
};
use crate::cgroups::{Pressure, Pressures, Usage};
use crate::context::Context;
use crate::pod;
use crate::pod::observe::nanos;
use crate::pods::Pods;
use crate::runtime::container::log_dir;
use crate::runtime::labels;

/// Asks everybody.
pub struct Figures {
    context: Arc<Context>,
    pods: Arc<Pods>,
    node: String,
    /// What all pods together may use of the machine's memory.
    pods_memory: u64,
    memory: u64,
    disks: Arc<Disks>,
    rates: Mutex<Rates>,
}

/// What the runtime says.
struct Answers {
    stats: Vec<v1::ContainerStats>,
    containers: Vec<v1::Container>,
    networks: HashMap<String, NetworkStats>,
    now: Timestamp,
    node_fs: Option<FsStats>,
    image_fs: Option<FsStats>,
    measured: HashMap<PathBuf, Used>,
}

impl Figures {
    /// `memory` is the machine's, `pods_memory` what of it pods may use together; in bytes.
    #[must_use]
    pub fn new(context: Arc<Context>, pods: Arc<Pods>, node: &str, memory: u64, pods_memory: u64) -> Self {
        Self {
            context,
            pods,
            node: node.to_owned(),
            pods_memory,
            memory,
            disks: Arc::default(),
            rates: Mutex::default(),
        }
    }

    /// Everything as it is now; what went over the pods' networks only on request, since every one has to be entered.
    ///
    /// # Errors
    /// When the runtime does not say which containers run and what they use.
    pub async fn summary(&self, networks: bool) -> Result<Summary, CriError> {
        let pods = self.pods.list();
        let answers = self.ask(&pods, networks).await?;
        let mut wanted = HashSet::from(["node".to_owned(), "pods".to_owned()]);
        let mut summary = Summary {
            node: self.node(&answers),
            pods: Vec::new(),
        };
        for pod in &pods {
            let stats = self.pod(pod, &answers);
            wanted.insert(pod::uid(pod).to_owned());
            wanted.extend(stats.containers.iter().map(|c| rate_key(pod, &c.name)));
            if !stats.containers.is_empty() {
                summary.pods.push(stats);
            }
        }
        self.rates.lock().keep(&wanted);
        Ok(summary)
    }

    /// Whether images and writable layers lie on another file system than everything else.
    pub async fn has_own_image_fs(&self) -> bool {
        match self.image_folder().await {
            Some(folder) => !same_file_system(&self.context.root, &folder),
            None => false,
        }
    }

    /// The file system of images, and what images use of it.
    pub async fn image_fs(&self) -> Option<FsStats> {
        let all = self.context.runtime.image_filesystems().await.unwrap_or_default();
        let first = all.first()?;
        let folder = PathBuf::from(&first.fs_id.as_ref()?.mountpoint);
        let fs = file_system(&folder, Timestamp::now())?;
        let number = |v: &Option<v1::UInt64Value>| v.as_ref().map(|v| v.value);
        Some(fs.used_by(number(&first.used_bytes), number(&first.inodes_used)))
    }

    async fn image_folder(&self) -> Option<PathBuf> {
        let all = self.context.runtime.image_filesystems().await.ok()?;
        Some(PathBuf::from(&all.first()?.fs_id.as_ref()?.mountpoint))
    }

    async fn ask(&self, pods: &[Arc<Pod>], networks: bool) -> Result<Answers, CriError> {
        let runtime = self.context.runtime.as_ref();
        let filter = v1::ContainerFilter::default();
        let of_networks = async {
            if networks {
                runtime.list_sandbox_stats().await.unwrap_or_default()
            } else {
                Vec::new()
            }
        };
        let (stats, containers, networks, image_fs) = tokio::join!(
            runtime.list_stats(),
            runtime.list_containers(filter),
            of_networks,
            self.image_fs()
        );
        let folders: HashSet<PathBuf> = pods.iter().flat_map(|p| self.folders(p)).collect();
        self.disks.keep(&folders);
        let disks = self.disks.clone();
        let measure = move || folders.into_iter().map(|f| (f.clone(), disks.used(&f))).collect();
        let now = Timestamp::now();
        Ok(Answers {
            stats: stats?,
            containers: containers?,
            networks: networks.iter().filter_map(network).collect(),
            now,
            node_fs: file_system(&self.context.root, now),
            image_fs,
            measured: tokio::task::spawn_blocking(measure).await.unwrap_or_default(),
        })
    }

    /// What of a pod lies on disk and has to be measured.
    fn folders(&self, pod: &Pod) -> Vec<PathBuf> {
        let volumes = pod::spec(pod).volumes.iter().flatten();
        let volumes = volumes.filter_map(|v| self.context.volumes.folder(pod::uid(pod), v));
        let logs = pod::all_containers(pod).map(|(_, c)| log_dir(&self.context.pod_logs, pod, &c.name));
        volumes.chain(logs).collect()
    }

    fn node(&self, answers: &Answers) -> NodeStats {
        let now = answers.now;
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let machine = self.context.cgroups.of_machine(&meminfo);
        let pods = self.context.cgroups.of_pods();
        let memory = |usage: &Usage, limit: u64| {
            let mut usage = *usage;
            usage.memory.as_mut()?.limit = Some(limit);
            memory(&usage, now)
        };
        let all_pods = ContainerStats {
            name: "pods".into(),
            start_time: machine::booted().unwrap_or(now),
            cpu: self.cpu("pods", &pods, now),
            memory: memory(&pods, self.pods_memory),
            io: io(&pods.pressures, now),
            swap: swap_of(&pods, now),
            ..ContainerStats::default()
        };
        NodeStats {
            node_name: self.node.clone(),
            system_containers: vec![all_pods],
            start_time: machine::booted().unwrap_or(now),
            cpu: self.cpu("node", &machine, now),
            memory: memory(&machine, self.memory),
            io: io(&machine.pressures, now),
            network: Some(machine::network(now)),
            fs: answers.node_fs,
            runtime: Some(RuntimeStats {
                image_fs: answers.image_fs,
                container_fs: answers.image_fs,
            }),
            rlimit: machine::processes(now),
            swap: swap(&meminfo, now),
        }
    }

    fn cpu(&self, key: &str, usage: &Usage, now: Timestamp) -> Option<CpuStats> {
        let used = usage.cpu?;
        Some(CpuStats {
            time: now,
            usage_nano_cores: self.rates.lock().rate(key, used, now),
            usage_core_nano_seconds: Some(used),
            psi: usage.pressures.cpu,
        })
    }

    fn pod(&self, pod: &Pod, answers: &Answers) -> PodStats {
        let now = answers.now;
        let usage = self.context.cgroups.of_pod(pod);
        let volumes = self.volumes(pod, answers);
        let containers: Vec<ContainerStats> = pod::all_containers(pod)
            .filter_map(|(_, c)| self.container(pod, &c.name, answers))
            .collect();
        let started = pod.status.as_ref().and_then(|s| s.start_time.clone());
        let swap: Vec<u64> = containers.iter().filter_map(|c| c.swap?.swap_usage_bytes).collect();
        PodStats {
            pod_ref: PodReference {
                name: pod::name(pod).into(),
                namespace: pod::namespace(pod).into(),
                uid: pod::uid(pod).into(),
            },
            start_time: started.map_or(now, |t| t.0),
            cpu: self.cpu(pod::uid(pod), &usage, now),
            memory: memory(&usage, now),
            io: io(&usage.pressures, now),
            network: answers.networks.get(pod::uid(pod)).cloned(),
            ephemeral_storage: answers.node_fs.map(|fs| ephemeral(pod, fs, &containers, &volumes)),
            processes: usage.processes.map(|process_count| ProcessStats { process_count }),
            swap: swap_of(&usage, now).or_else(|| {
                (!swap.is_empty()).then(|| SwapStats {
                    time: now,
                    swap_available_bytes: None,
                    swap_usage_bytes: Some(swap.iter().sum()),
                })
            }),
            volumes,
            containers,
        }
    }

    fn volumes(&self, pod: &Pod, answers: &Answers) -> Vec<VolumeStats> {
        let one = |v: &Volume| {
            let folder = self.context.volumes.folder(pod::uid(pod), v)?;
            let fs = file_system(&folder, answers.now)?;
            let used = answers.measured.get(&folder)?;
            Some(VolumeStats {
                fs: fs.used_by(Some(used.bytes), Some(used.inodes)),
                name: v.name.clone(),
            })
        };
        pod::spec(pod).volumes.iter().flatten().filter_map(one).collect()
    }

    /// The running instance of a container; `None` if none runs.
    fn container(&self, pod: &Pod, name: &str, answers: &Answers) -> Option<ContainerStats> {
        let running = v1::ContainerState::ContainerRunning as i32;
        let instance = answers.containers.iter().find(|c| {
            c.state == running
                && c.labels.get(labels::POD_UID).is_some_and(|uid| uid == pod::uid(pod))
                && c.labels.get(labels::CONTAINER_NAME).is_some_and(|n| n == name)
        })?;
        let stats = answers
            .stats
            .iter()
            .find(|s| s.attributes.as_ref().is_some_and(|a| a.id == instance.id))?;
        let number = |v: &Option<v1::UInt64Value>| v.as_ref().map(|v| v.value);
        let time = |t: i64| if t > 0 { nanos(t) } else { answers.now };
        let logs = answers.measured.get(&log_dir(&self.context.pod_logs, pod, name));
        let pressures = self.context.cgroups.pressures_of_container(pod, &instance.id);
        Some(ContainerStats {
            name: name.to_owned(),
            start_time: nanos(instance.created_at),
            cpu: stats.cpu.as_ref().map(|c| {
                let used = number(&c.usage_core_nano_seconds);
                let rate = used.and_then(|u| self.rates.lock().rate(&rate_key(pod, name), u, time(c.timestamp)));
                CpuStats {
                    time: time(c.timestamp),
                    usage_nano_cores: number(&c.usage_nano_cores).or(rate),
                    usage_core_nano_seconds: used,
                    psi: pressures.cpu,
                }
            }),
            memory: stats.memory.as_ref().map(|m| MemoryStats {
                time: time(m.timestamp),
                available_bytes: number(&m.available_bytes).filter(|b| *b > 0),
                usage_bytes: number(&m.usage_bytes),
                working_set_bytes: number(&m.working_set_bytes),
                rss_bytes: number(&m.rss_bytes),
                page_faults: number(&m.page_faults),
                major_page_faults: number(&m.major_page_faults),
                psi: pressures.memory,
            }),
            io: io(&pressures, answers.now),
            rootfs: stats.writable_layer.as_ref().and_then(|layer| {
                let fs = answers.image_fs.or(answers.node_fs)?;
                Some(fs.used_by(number(&layer.used_bytes), number(&layer.inodes_used)))
            }),
            logs: answers
                .node_fs
                .map(|fs| fs.used_by(logs.map(|l| l.bytes), logs.map(|l| l.inodes))),
            swap: stats.swap.as_ref().map(|s| SwapStats {
                time: time(s.timestamp),
                swap_available_bytes: number(&s.swap_available_bytes).filter(|b| *b < 1 << 62),
                swap_usage_bytes: number(&s.swap_usage_bytes),
            }),
        })
    }
}

fn rate_key(pod: &Pod, container: &str) -> String {
    format!("{}/{container}", pod::uid(pod))
}

fn memory(usage: &Usage, now: Timestamp) -> Option<MemoryStats> {
    let m = usage.memory?;
    Some(MemoryStats {
        time: now,
        available_bytes: m.limit.map(|limit| limit.saturating_sub(m.working_set)),
        usage_bytes: Some(m.usage),
        working_set_bytes: Some(m.working_set),
        rss_bytes: Some(m.rss),
        page_faults: Some(m.page_faults),
        major_page_faults: Some(m.major_page_faults),
        psi: usage.pressures.memory,
    })
}

fn io(pressures: &Pressures, now: Timestamp) -> Option<IoStats> {
    let of = |psi: Pressure| IoStats { time: now, psi };
    pressures.io.map(of)
}

fn swap_of(usage: &Usage, now: Timestamp) -> Option<SwapStats> {
    let used = usage.memory?.swap?;
    Some(SwapStats {
        time: now,
        swap_available_bytes: None,
        swap_usage_bytes: Some(used),
    })
}

fn swap(meminfo: &str, now: Timestamp) -> Option<SwapStats> {
    let number = |name: &str| {
        let line = meminfo.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok())
            .map(|kilobytes| kilobytes.saturating_mul(1024))
    };
    let (all, free) = number("SwapTotal").zip(number("SwapFree"))?;
    Some(SwapStats {
        time: now,
        swap_available_bytes: Some(free),
        swap_usage_bytes: Some(all.saturating_sub(free)),
    })
}

/// By the uid of the sandbox's pod.
fn network(stats: &v1::PodSandboxStats) -> Option<(String, NetworkStats)> {
    let uid = stats.attributes.as_ref()?.labels.get(labels::POD_UID)?.clone();
    let network = stats.linux.as_ref()?.network.as_ref()?;
    let number = |v: &Option<v1::UInt64Value>| v.as_ref().map(|v| v.value);
    let one = |i: &v1::NetworkInterfaceUsage| InterfaceStats {
        name: i.name.clone(),
        rx_bytes: number(&i.rx_bytes),
        rx_errors: number(&i.rx_errors),
        tx_bytes: number(&i.tx_bytes),
        tx_errors: number(&i.tx_errors),
    };
    let default = network.default_interface.as_ref().map(one).unwrap_or_default();
    let interfaces = network
        .default_interface
        .iter()
        .chain(&network.interfaces)
        .map(one)
        .collect();
    Some((
        uid,
        NetworkStats {
            time: nanos(network.timestamp),
            default,
            interfaces,
        },
    ))
}

/// Whether a volume's content counts as the pod's ephemeral storage.
#[must_use]
pub fn is_local(volume: &Volume) -> bool {
    let on_disk = |m: &Option<String>| m.as_deref().unwrap_or_default().is_empty();
    volume.empty_dir.as_ref().is_some_and(|e| on_disk(&e.medium)) || volume.config_map.is_some()
}

/// What the pod takes of the node's disk: writable layers, logs and local volumes.
fn ephemeral(pod: &Pod, fs: FsStats, containers: &[ContainerStats], volumes: &[VolumeStats]) -> FsStats {
    let local = |v: &&VolumeStats| {
        let mut own = pod::spec(pod).volumes.iter().flatten();
        own.any(|o| o.name == v.name && is_local(o))
    };
    let parts: Vec<&FsStats> = containers
        .iter()
        .flat_map(|c| c.rootfs.iter().chain(&c.logs))
        .chain(volumes.iter().filter(local).map(|v| &v.fs))
        .collect();
    fs.used_by(
        Some(parts.iter().filter_map(|p| p.used_bytes).sum()),
        Some(parts.iter().filter_map(|p| p.inodes_used).sum()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use steersman_types::Typed;

    #[test]
    fn local_volumes_logs_and_layers_are_ephemeral_storage() {
        let volumes =
            serde_json::json!([{"name": "disk", "emptyDir": {}}, {"name": "mem", "emptyDir": {"medium": "Memory"}}]);
        let spec = serde_json::json!({"containers": [{"name": "c"}], "volumes": volumes});
        let pod = Pod::from_value(&serde_json::json!({ "spec": spec })).unwrap();
        let fs = FsStats {
            capacity_bytes: Some(1000),
            ..FsStats::default()
        };
        let of = |bytes| fs.used_by(Some(bytes), Some(1));
        let volume = |name: &str, bytes| VolumeStats {
            fs: of(bytes),
            name: name.into(),
        };
        let container = ContainerStats {
            rootfs: Some(of(10)),
            logs: Some(of(20)),
            ..ContainerStats::default()
        };
        let sum = ephemeral(&pod, fs, &[container], &[volume("disk", 100), volume("mem", 500)]);
        assert_eq!(sum.used_bytes, Some(130));
        assert_eq!((sum.inodes_used, sum.capacity_bytes), (Some(3), Some(1000)));
    }

    #[test]
    fn the_document_has_upstreams_names() {
        let summary = Summary {
            node: NodeStats {
                node_name: "n".into(),
                rlimit: machine::processes(Timestamp::UNIX_EPOCH),
                network: Some(NetworkStats::default()),
                ..NodeStats::default()
            },
            pods: vec![PodStats {
                processes: Some(ProcessStats { process_count: 3 }),
                ephemeral_storage: Some(FsStats::default()),
                volumes: vec![VolumeStats::default()],
                ..PodStats::default()
            }],
        };
        let value = serde_json::to_value(&summary).unwrap();
        assert!(value["node"]["rlimit"]["maxpid"].is_i64() && value["node"]["rlimit"]["curproc"].is_i64());
        assert_eq!(value["node"]["network"]["name"], "");
        assert_eq!(value["pods"][0]["process_stats"]["process_count"], 3);
        assert_eq!(value["pods"][0]["ephemeral-storage"]["time"], "1970-01-01T00:00:00Z");
        assert_eq!(value["pods"][0]["volume"][0]["name"], "");
        assert!(value["node"].get("cpu").is_none());
    }
}
