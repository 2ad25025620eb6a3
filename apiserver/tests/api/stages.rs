//! The order of the stages, as the architecture page has it.

use std::sync::Arc;

use http::Request;
use steersman_apiserver::call::Call;
use steersman_apiserver::request;

use crate::harness::{ADMIN, NOBODY, Server, config};

async fn stages(server: &Server, method: &str, path: &str, body: &str, token: &str) -> Vec<&'static str> {
    let peer = Arc::new(steersman_apiserver::server::Peer {
        address: ([127, 0, 0, 1], 1).into(),
        identity: steersman_auth::authn::Peer::none(),
    });
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", format!("Bearer {token}"))
        .body(steersman_apiserver::body::full(body.to_owned()))
        .unwrap();
    let recorded: Arc<Call> = request::handle_recorded(server.api.clone(), peer, request)
        .await
        .1
        .expect("routed");
    recorded.stages().into_iter().map(|(name, _)| name).collect()
}

#[tokio::test]
async fn a_write_passes_every_stage_in_order() {
    let server = Server::start().await;
    let path = format!("{}/configmaps", server.namespace("n", &["a"]).await);
    let door = ["route", "authenticate", "impersonate", "seat", "authorize"];
    let write = [
        "decode",
        "mutating admission",
        "prepare",
        "validate",
        "validating admission",
        "store",
    ];
    let all: Vec<&str> = door.into_iter().chain(write).collect();
    assert_eq!(
        stages(&server, "POST", &path, &config("b").to_string(), ADMIN).await,
        all
    );
    let mut changed = config("a");
    changed["data"]["a"] = "2".into();
    assert_eq!(
        stages(&server, "PUT", &format!("{path}/a"), &changed.to_string(), ADMIN).await,
        all
    );
    assert_eq!(stages(&server, "GET", &path, "", ADMIN).await, door);
}

#[tokio::test]
async fn a_refused_request_goes_no_further() {
    let server = Server::start().await;
    let path = format!("{}/configmaps", server.namespace("n", &[]).await);
    let body = config("b").to_string();
    assert_eq!(
        stages(&server, "POST", &path, &body, "made-up").await,
        ["route", "authenticate"]
    );
    assert_eq!(
        stages(&server, "POST", &path, &body, NOBODY).await,
        ["route", "authenticate", "impersonate", "seat", "authorize"]
    );
}
