//! The network of one run: a bridge, and a network namespace per program, so that any edge can be cut both ways.
//!
//! `hack/history` runs the driver in a network, mount and process namespace of its own: whatever is made here disappears
//! with the driver, collides with no other cluster, and has no route to anywhere else.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Result, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// 198.18.0.0/15 is set aside for tests of networks (RFC 2544).
const NETWORK: &str = "198.18.40";

/// The bridge and the namespaces on it, pinned as files in a folder.
#[derive(Clone, Debug)]
pub struct Net {
    pins: PathBuf,
}

/// Address of etcd member `number`, counted from 0.
#[must_use]
pub fn member_ip(number: usize) -> String {
    format!("{NETWORK}.{}", 11 + number)
}

/// Address of API server `number`, counted from 0.
#[must_use]
pub fn server_ip(number: usize) -> String {
    format!("{NETWORK}.{}", 101 + number)
}

impl Net {
    /// Makes the bridge in the namespace that the driver runs in.
    pub async fn make(pins: &Path) -> Result<Self> {
        std::fs::create_dir_all(pins)?;
        let batch =
            format!("link set lo up\nlink add br0 type bridge\naddr add {NETWORK}.1/24 dev br0\nlink set br0 up\n");
        run(&["ip", "-batch", "-"], &batch).await?;
        Ok(Self { pins: pins.to_owned() })
    }

    fn pin(&self, name: &str) -> String {
        self.pins.join(name).display().to_string()
    }

    /// A namespace with a cable to the bridge.
    pub async fn add(&self, name: &str, ip: &str) -> Result<()> {
        let pin = self.pin(name);
        std::fs::write(&pin, "")?;
        run(&["unshare", &format!("--net={pin}"), "true"], "").await?;
        let last = ip.rsplit('.').next().unwrap_or_default();
        let cable = format!("v{last}");
        run(
            &[
                "ip", "link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &pin,
            ],
            "",
        )
        .await?;
        run(&["ip", "link", "set", &cable, "master", "br0", "up"], "").await?;
        let batch = format!("link set lo up\naddr add {ip}/24 dev eth0\nlink set eth0 up\n");
        run(&["nsenter", &format!("--net={pin}"), "ip", "-batch", "-"], &batch).await
    }

    /// What stands before a command that shall live in a namespace.
    #[must_use]
    pub fn inside(&self, name: &str) -> [String; 2] {
        ["nsenter".into(), format!("--net={}", self.pin(name))]
    }

    /// Cuts a namespace off from some addresses, both ways; `cut` names it for [`Net::heal`]. With `reset`, what it sends
    /// on a connection is answered by a reset; otherwise packets vanish.
    pub async fn cut(&self, name: &str, cut: &str, from: &[String], reset: bool) -> Result<()> {
        let peers = from.join(", ");
        let verdict = if reset {
            "meta l4proto tcp reject with tcp reset"
        } else {
            "drop"
        };
        let rules = format!(
            "table ip {cut} {{\n chain in {{ type filter hook input priority 0; ip saddr {{ {peers} }} drop; }}\n \
             chain out {{ type filter hook output priority 0; ip daddr {{ {peers} }} {verdict}; }}\n}}\n"
        );
        run(
            &["nsenter", &format!("--net={}", self.pin(name)), "nft", "-f", "-"],
            &rules,
        )
        .await
    }

    pub async fn heal(&self, name: &str, cut: &str) -> Result<()> {
        run(
            &[
                "nsenter",
                &format!("--net={}", self.pin(name)),
                "nft",
                "delete",
                "table",
                "ip",
                cut,
            ],
            "",
        )
        .await
    }
}

async fn run(command: &[&str], input: &str) -> Result<()> {
    let Some((program, args)) = command.split_first() else {
        return Ok(());
    };
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read its input says why at its end.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = child.wait_with_output().await?;
    if !output.status.success() {
        bail!("{}: {}", command.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
