//! Who may approve, sign and ask for which certificate.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{World, request, run, user};
use crate::Operation::{Create, Update};
use crate::Request;

#[tokio::test]
async fn signing_requests_need_permission_on_their_signer() {
    let signer = "example.com/x";
    let csr = |status: Value| json!({"metadata": {"name": "c"}, "spec": {"signerName": signer}, "status": status});
    let update = |subresource: &str, new: Value| Request {
        subresource: subresource.into(),
        object: Some(new),
        old: Some(Arc::new(csr(Value::Null))),
        ..request(Update, "certificates.k8s.io", "certificatesigningrequests", "", "c")
    };
    let plugins = &["CertificateApproval", "CertificateSigning"];
    let world = |allowed: Vec<&'static str>| {
        World {
            allowed,
            ..World::default()
        }
        .chain(plugins)
    };
    let signed = || update("status", csr(json!({"certificate": "Y2VydA=="})));
    let prefix = "certificatesigningrequests.certificates.k8s.io \"c\" is forbidden: user not permitted to";
    let nobody = world(Vec::new());
    let refused = run(&nobody, update("approval", csr(Value::Null))).await;
    assert_eq!(
        refused,
        Err(format!("{prefix} approve requests with signerName \"{signer}\""))
    );
    assert_eq!(
        run(&nobody, signed()).await,
        Err(format!("{prefix} sign requests with signerName \"{signer}\""))
    );
    assert!(run(&nobody, update("status", csr(Value::Null))).await.is_ok());
    let approver = world(vec!["approve signers example.com/*", "sign signers example.com/x"]);
    assert!(run(&approver, update("approval", csr(Value::Null))).await.is_ok());
    assert!(run(&approver, signed()).await.is_ok());
}

#[tokio::test]
async fn nobody_becomes_master_by_a_signing_request() {
    let chain = World::default().chain(&["CertificateSubjectRestriction"]);
    let create = |pem: &str| {
        use base64::Engine;
        let request64 = base64::engine::general_purpose::STANDARD.encode(pem);
        let object = json!({"metadata": {"name": "c"},
                            "spec": {"signerName": "kubernetes.io/kube-apiserver-client", "request": request64}});
        Request {
            object: Some(object),
            ..request(Create, "certificates.k8s.io", "certificatesigningrequests", "", "c")
        }
    };
    let prefix = "certificatesigningrequests.certificates.k8s.io \"c\" is forbidden: ";
    let masters = include_str!("../../tests/data/masters.csr");
    let want = "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed";
    assert_eq!(run(&chain, create(masters)).await, Err(format!("{prefix}{want}")));
    let refused = run(&chain, create("junk")).await;
    assert_eq!(
        refused,
        Err(format!(
            "{prefix}failed to parse CSR: PEM block type must be CERTIFICATE REQUEST"
        ))
    );
    assert!(
        run(&chain, create(include_str!("../../tests/data/node-1.csr")))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_node_asks_for_certificates_in_its_own_name() {
    use base64::Engine;
    let chain = World::default().chain(&["NodeRestriction"]);
    let encoded = base64::engine::general_purpose::STANDARD.encode(include_str!("../../tests/data/node-1.csr"));
    let csr =
        json!({"metadata": {"name": "c"}, "spec": {"signerName": "kubernetes.io/kubelet-serving", "request": encoded}});
    for (node, want) in [
        ("system:node:node-1", Ok(())),
        (
            "system:node:node-2",
            Err(
                "certificatesigningrequests.certificates.k8s.io \"c\" is forbidden: can only create a node CSR with \
                 CN=system:node:node-2"
                    .to_owned(),
            ),
        ),
    ] {
        let mut create = Request {
            object: Some(csr.clone()),
            ..request(Create, "certificates.k8s.io", "certificatesigningrequests", "", "c")
        };
        create.user = user(node, &["system:nodes"]);
        assert_eq!(run(&chain, create).await.map(|_| ()), want);
    }
}
