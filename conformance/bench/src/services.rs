//! Service proxies over thousands of Services: until all are programmed, and from a changed EndpointSlice to the kernel.
//!
//! A proxy of the benchmark's own runs in the network namespace of node-1, whose own one sleeps meanwhile. The Services have
//! no pods: their endpoints are addresses that nobody has, but for the API server's, so that "programmed" means that a
//! connection to a cluster address reaches it. Used with one node, so that nobody else programs the same.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use steersman_conformance::Cluster;
use steersman_conformance::process::Background;

use crate::figure::{Report, percentile};
use crate::program::{Asleep, awaited, command_line, cpu_of_family, memory};
use crate::{api, load};

const NAMESPACE: &str = "bench-services";
pub const COUNT: usize = 5000;
const ENDPOINTS: usize = 20;
/// Services changed, one after the other.
const CHANGES: usize = 20;
const LIMIT: Duration = Duration::from_secs(180);
/// The argument with which this program connects until it succeeds, and says so.
pub const PROBE: &str = "probe-connection";

/// `program`: the proxy, instead of the cluster's own.
pub async fn run(cluster: &Cluster, program: Option<&Path>, count: usize, report: &Report) -> Result<()> {
    let client = api::client(cluster, None).await?;
    let own = awaited(cluster, "node-1.kube-proxy").await?;
    let words = command_line(own)?;
    let (own_program, arguments) = words.split_first().context("an empty command line")?;
    let program = program.map_or_else(|| PathBuf::from(own_program), Path::to_path_buf);
    let config = arguments
        .iter()
        .find_map(|word| word.to_str()?.strip_prefix("--config=").map(PathBuf::from))
        .context("the node's kube-proxy has no --config")?;
    // The sleeping one keeps its ports.
    let text = std::fs::read_to_string(&config)?;
    let changed = text.replace(":10249", ":10349").replace(":10256", ":10356");
    let copy = config.with_file_name("kube-proxy-bench.yaml");
    std::fs::write(&copy, changed)?;

    let server = server(&client).await?;
    api::namespace(&client, NAMESPACE).await?;
    let measured = async {
        make(cluster, count, server).await?;
        let _asleep = Asleep::put(
            cluster,
            &["node-1.kube-proxy", "node-2.kube-proxy", "kube-controller-manager"],
        );
        let inside = |program: &Path| {
            let mut command = Command::new("nsenter");
            command.args([&format!("--target={own}"), "--net", "--"]).arg(program);
            command
        };
        measure(&client, cluster, &inside, &program, &copy, count, server, report).await
    };
    let outcome = measured.await;
    let _ = std::fs::remove_file(&copy);
    // Faster than the namespace's controller, which goes through every kind.
    for path in [
        format!("/api/v1/namespaces/{NAMESPACE}/services"),
        format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"),
    ] {
        api::json(&client, "DELETE", &path, None).await?;
    }
    api::drop_namespace(&client, NAMESPACE).await?;
    outcome
}

#[allow(clippy::too_many_arguments)] // the surroundings of one measurement
async fn measure(
    client: &kube::Client,
    cluster: &Cluster,
    inside: &dyn Fn(&Path) -> Command,
    program: &Path,
    config: &Path,
    count: usize,
    server: SocketAddr,
    report: &Report,
) -> Result<()> {
    // What the node's own proxy has written would answer for the measured one's.
    for family in ["ip", "ip6"] {
        let script = format!("add table {family} kube-proxy; delete table {family} kube-proxy");
        let flushed = inside(&cluster.tool("nft")).arg(script).status()?;
        if !flushed.success() {
            bail!("nft: {flushed}");
        }
    }
    let tools = cluster.tool("nft").parent().map(Path::to_path_buf).unwrap_or_default();
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap_or_default());
    let begin = Instant::now();
    // nsenter becomes the proxy: its process is the proxy's.
    let proxy = inside(program)
        .arg(format!("--config={}", config.display()))
        .env("PATH", path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let process = i32::try_from(proxy.id())?;
    let _proxy = Background(proxy);
    Probe::start(inside, address(client, 0).await?)?.wait()?;
    report.lower(
        &format!("{count} Services of {ENDPOINTS} endpoints, exec to all programmed"),
        "s",
        begin.elapsed().as_secs_f64(),
    );
    // What a program that the proxy runs has used counts once that has ended, which is after the rules are in force.
    settled(process).await?;
    report.lower("until then", "CPU s", cpu_of_family(process)?);
    report.lower("then, resident", "MB", memory(process)?.resident);

    let before = cpu_of_family(process)?;
    let mut delays = Vec::new();
    for i in 1..=CHANGES {
        let probe = Probe::start(inside, address(client, i).await?)?;
        let path = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices/s{i}");
        let begin = Instant::now();
        api::patch(client, &path, &json!({"endpoints": [{"addresses": [server.ip()]}]})).await?;
        probe.wait()?;
        delays.push(begin.elapsed().as_secs_f64() * 1000.0);
    }
    settled(process).await?;
    report.lower("one changed, written to connected, p50", "ms", percentile(&delays, 50));
    report.lower(
        "one changed, written to connected, longest",
        "ms",
        percentile(&delays, 100),
    );
    let each = (cpu_of_family(process)? - before) * 1000.0 / CHANGES as f64;
    report.lower("one changed", "CPU ms", each);
    Ok(())
}

/// Waits until the process has no children and uses no CPU.
async fn settled(process: i32) -> Result<()> {
    let begin = Instant::now();
    let mut before = f64::NAN;
    while begin.elapsed() < LIMIT {
        let now = cpu_of_family(process)?;
        #[allow(clippy::float_cmp)] // whole ticks of the kernel's clock
        if now == before && !has_children(process) {
            return Ok(());
        }
        before = now;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    bail!("the proxy does not come to rest within {LIMIT:?}")
}

fn has_children(process: i32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten();
    threads.flatten().any(|thread| {
        let children = std::fs::read_to_string(thread.path().join("children"));
        children.is_ok_and(|list| !list.trim().is_empty())
    })
}

/// Where pods and nodes reach the API server.
async fn server(client: &kube::Client) -> Result<SocketAddr> {
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    let slice = api::json(client, "GET", path, None).await?;
    let address = slice.pointer("/endpoints/0/addresses/0").and_then(Value::as_str);
    let port = slice.pointer("/ports/0/port").and_then(Value::as_u64);
    let port = u16::try_from(port.context("the API server has no port")?)?;
    Ok(SocketAddr::new(
        address.context("the API server has no address")?.parse()?,
        port,
    ))
}

async fn address(client: &kube::Client, i: usize) -> Result<SocketAddr> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/services/s{i}");
    let service = api::json(client, "GET", &path, None).await?;
    let address = service.pointer("/spec/clusterIP").and_then(Value::as_str);
    Ok(SocketAddr::new(address.context("no cluster address")?.parse()?, 80))
}

/// Service `i` and its slice; only the first one's endpoint is somebody.
async fn make(cluster: &Cluster, count: usize, server: SocketAddr) -> Result<()> {
    load::each(cluster, count, move |client, i| async move {
        let name = format!("s{i}");
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
        let path = format!("/api/v1/namespaces/{NAMESPACE}/services");
        api::json(&client, "POST", &path, Some(&service)).await?;
        let endpoints: Vec<Value> = if i == 0 {
            vec![json!({"addresses": [server.ip()]})]
        } else {
            let nobody = |e: usize| format!("10.{}.{}.{e}", 128 + i / 250, i % 250);
            (1..=ENDPOINTS).map(|e| json!({"addresses": [nobody(e)], "nodeName": "nobody"})).collect()
        };
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"name": "", "port": server.port(), "protocol": "TCP"}], "endpoints": endpoints});
        let path = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices");
        api::json(&client, "POST", &path, Some(&slice)).await.map(drop)
    })
    .await
}

/// This program again, inside, trying to connect.
struct Probe {
    output: BufReader<ChildStdout>,
    _process: Background,
}

impl Probe {
    /// Returns once it has begun.
    fn start(inside: &dyn Fn(&Path) -> Command, address: SocketAddr) -> Result<Self> {
        let mut child = inside(&std::env::current_exe()?)
            .args([PROBE, &address.to_string()])
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(child.stdout.take().context("a probe without output")?);
        let mut probe = Self {
            output,
            _process: Background(child),
        };
        probe.says("trying")?;
        Ok(probe)
    }

    fn wait(mut self) -> Result<()> {
        self.says("connected")
    }

    fn says(&mut self, expected: &str) -> Result<()> {
        let mut text = String::new();
        self.output.read_line(&mut text)?;
        if text.trim() != expected {
            bail!("the probe says {text:?}");
        }
        Ok(())
    }
}

/// What the program does as a probe.
pub fn connect(address: &str) -> Result<()> {
    let address: SocketAddr = address.parse()?;
    let begin = Instant::now();
    println!("trying");
    while begin.elapsed() < LIMIT {
        if TcpStream::connect_timeout(&address, Duration::from_millis(5)).is_ok() {
            println!("connected");
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("not within {LIMIT:?}");
    Ok(())
}
