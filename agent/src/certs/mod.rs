//! The agent's own certificates, asked for at the API server: the first one with somebody else's credentials, later ones
//! with its own, before they expire and without a restart.
//!
//! | part | what |
//! |---|---|
//! | [`store`] | files: `<name>-<time>.pem`, and `<name>-current.pem` that leads to the newest |
//! | [`due`] | when to ask for the next one; pure |
//! | [`request`] | asks, and waits for the answer |
//! | [`bootstrap`] | the first client certificate, and the kubeconfig that names it |
//! | [`rotation`] | the loop |
//! | [`files`] | instead, files that somebody else renews |
//!
//! What stays true: a certificate and its key lie in one file that only root may read, and are changed together.

pub mod bootstrap;
pub mod due;
pub mod files;
pub mod request;
pub mod rotation;
pub mod store;

use std::net::IpAddr;

use steersman_runtime::pki::request::Subject;

/// What a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Who signs it.
    pub signer: &'static str,
    pub usages: &'static [&'static str],
    pub subject: Subject,
}

fn of_node(node: &str) -> Subject {
    Subject {
        common_name: format!("system:node:{node}"),
        organization: "system:nodes".into(),
        ..Subject::default()
    }
}

/// The agent as a client of the API server.
#[must_use]
pub fn client(node: &str) -> Wish {
    Wish {
        signer: "kubernetes.io/kube-apiserver-client-kubelet",
        usages: &["digital signature", "client auth"],
        subject: of_node(node),
    }
}

/// The agent as a server, under the node's addresses.
#[must_use]
pub fn serving(node: &str, addresses: &[String]) -> Wish {
    let mut ips: Vec<IpAddr> = addresses.iter().filter_map(|a| a.parse().ok()).collect();
    ips.sort_by_key(ToString::to_string);
    Wish {
        signer: "kubernetes.io/kubelet-serving",
        usages: &["digital signature", "server auth"],
        subject: Subject {
            dns_names: vec![node.to_owned()],
            addresses: ips,
            ..of_node(node)
        },
    }
}
