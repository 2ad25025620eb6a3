//! One request per way to authenticate, and per way to fail at it. The certificates in `tests/data` were made with
//! openssl (their keys are gone: checking a chain needs none) and are valid from 2026-11-20 to 2036-11-16.

use super::*;
use crate::lister::Fixed;
use crate::token::{Issuer, SigningKey};
use crate::user::CREDENTIAL_ID;
use proptest::prelude::*;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};

const PEM: &str = include_str!("../../tests/data/certificates.pem");

fn pem(name: &str) -> &'static [u8] {
    let block = PEM
        .split("# ")
        .find(|b| b.starts_with(&format!("{name}\n")))
        .expect("a certificate of that name");
    block.as_bytes()
}

fn der(name: &str) -> CertificateDer<'static> {
    let block = x509_parser::pem::Pem::iter_from_buffer(pem(name))
        .flatten()
        .next()
        .expect("PEM");
    CertificateDer::from(block.contents)
}

fn peer(name: &str) -> Peer {
    Peer::new(&[der(name)])
}

fn now() -> Timestamp {
    "2027-01-01T00:00:00Z".parse().expect("time")
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(*name, value.parse().expect("header"));
    }
    map
}

struct Server {
    authenticator: Authenticator,
    clients: Arc<CaPool>,
}

fn account() -> Value {
    json!({"kind": "ServiceAccount", "metadata": {"namespace": "ns", "name": "builder", "uid": "sa-uid"}})
}

fn pod() -> Value {
    json!({"kind": "Pod", "metadata": {"namespace": "ns", "name": "p", "uid": "pod-uid"},
           "spec": {"serviceAccountName": "builder", "nodeName": "n1"}})
}

fn cluster() -> Fixed {
    let mut objects = Fixed::default();
    objects.put("", "serviceaccounts", account());
    objects.put("", "pods", pod());
    objects.put(
        "",
        "nodes",
        json!({"kind": "Node", "metadata": {"name": "n1", "uid": "node-uid"}}),
    );
    objects
}

fn issuer() -> Issuer {
    Issuer {
        issuer: "https://kubernetes.default.svc".into(),
        key: SigningKey::generate().expect("randomness"),
        api_audiences: vec!["api".into()],
        max_seconds: None,
        extend: true,
    }
}

fn server(issuer: &Issuer, objects: Fixed, anonymous: Anonymous) -> Server {
    let clients = Arc::new(CaPool::from_pem(pem("clients")).expect("pool"));
    let words = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let config = Config {
        client_ca: Some(clients.clone()),
        front_proxy: Some(FrontProxy {
            ca: Arc::new(CaPool::from_pem(pem("proxies")).expect("pool")),
            allowed_names: words(&["aggregator"]),
            username_headers: words(&["X-Remote-User"]),
            uid_headers: words(&["X-Remote-Uid"]),
            group_headers: words(&["X-Remote-Group"]),
            extra_prefixes: words(&["X-Remote-Extra-"]),
        }),
        tokens: Some(TokenFile::parse("static,bob,7,dev").expect("file")),
        service_accounts: Some(ServiceAccounts {
            issuers: vec![issuer.issuer.clone()],
            keys: vec![issuer.key.public.clone()],
        }),
        bootstrap_tokens: true,
        anonymous,
        api_audiences: vec!["api".into()],
    };
    Server {
        authenticator: Authenticator::new(config, Arc::new(objects)),
        clients,
    }
}

fn plain() -> Server {
    server(&issuer(), cluster(), Anonymous::health())
}

fn check(server: &Server, peer: &Peer, headers: &HeaderMap, path: &str) -> Result<(String, Vec<String>), String> {
    let found = server.authenticator.authenticate(peer, headers, path, now());
    found
        .map(|a| (a.user.name.clone(), a.user.groups.clone()))
        .map_err(|e| e.why)
}

#[test]
fn a_certificate_names_user_groups_uid_and_itself() {
    let server = plain();
    let found = server
        .authenticator
        .authenticate(&peer("alice"), &HeaderMap::new(), "/api", now())
        .expect("known");
    assert_eq!(found.user.name, "alice");
    assert_eq!(found.user.uid, "42");
    assert_eq!(found.user.groups, ["dev", "ops", "system:authenticated"]);
    assert!(found.user.extra[CREDENTIAL_ID][0].starts_with("X509SHA256="));
    assert_eq!(found.audiences, ["api"]);
}

#[test]
fn a_bad_certificate_is_an_error_and_never_anonymous() {
    let server = plain();
    for (name, want) in [
        ("stranger", "signed by unknown authority"),
        ("server", "incompatible key usage"),
        ("twouids", "expected 1 UID, but found multiple: [1 2]"),
    ] {
        let error = check(&server, &peer(name), &HeaderMap::new(), "/livez").expect_err(name);
        assert!(error.contains(want), "{name}: {error}");
    }
    // A certificate without a name is no credential at all.
    let error = check(&server, &peer("nameless"), &HeaderMap::new(), "/livez").expect_err("not the proxy's");
    assert!(error.contains("unknown authority"), "{error}");
}

#[test]
fn a_certificate_expires_while_its_connection_lives_and_a_replaced_authority_counts_at_once() {
    let server = plain();
    let peer = peer("alice");
    let at = |time: &str| {
        let time = time.parse().expect("time");
        server
            .authenticator
            .authenticate(&peer, &HeaderMap::new(), "/api", time)
            .is_ok()
    };
    assert!(at("2036-11-16T10:00:00Z"));
    assert!(!at("2036-11-16T11:00:00Z"));
    assert!(at("2027-01-01T00:00:00Z"));
    server.clients.replace(pem("strangers")).expect("pool");
    assert!(!at("2027-01-01T00:00:01Z"));
    assert!(server.clients.replace(b"nothing").is_err());
    assert!(
        check(
            &server,
            &super::Peer::new(&[der("stranger")]),
            &HeaderMap::new(),
            "/api"
        )
        .is_ok()
    );
}

#[test]
fn only_the_front_proxy_may_say_whom_it_speaks_for() {
    let server = plain();
    let claim = headers(&[
        ("x-remote-user", "carol"),
        ("x-remote-group", "a"),
        ("x-remote-group", "b"),
        ("x-remote-extra-acme%2eorg", "x"),
    ]);
    let (name, groups) = check(&server, &peer("aggregator"), &claim, "/api").expect("proxy");
    assert_eq!(
        (name.as_str(), groups),
        ("carol", vec!["a".into(), "b".into(), "system:authenticated".to_owned()])
    );
    for name in ["impostor", "stranger"] {
        assert!(check(&server, &peer(name), &claim, "/api").is_err(), "{name}");
    }
    assert_eq!(
        check(&server, &peer("alice"), &claim, "/api").map(|u| u.0),
        Ok("alice".into())
    );
    assert!(check(&server, &Peer::none(), &claim, "/api").is_err());
    assert!(server.authenticator.is_identity_header("x-remote-extra-acme%2eorg"));
}

#[test]
fn requests_without_credentials_reach_the_health_paths_alone() {
    let server = plain();
    for path in ["/livez", "/readyz", "/healthz"] {
        let want = ("system:anonymous".to_owned(), vec!["system:unauthenticated".to_owned()]);
        assert_eq!(check(&server, &Peer::none(), &HeaderMap::new(), path), Ok(want));
    }
    for path in ["/", "/api", "/livez/ping", "/version", "/readyz?verbose"] {
        assert_eq!(
            check(&server, &Peer::none(), &HeaderMap::new(), path),
            Err("no credentials".into()),
            "{path}"
        );
    }
    let basic = headers(&[("authorization", "Basic YTpi")]);
    assert!(check(&server, &Peer::none(), &basic, "/api").is_err());
    let open = super::tests::server(&issuer(), cluster(), Anonymous::Always);
    assert!(check(&open, &Peer::none(), &HeaderMap::new(), "/api").is_ok());
    let never = super::tests::server(&issuer(), cluster(), Anonymous::Never);
    assert!(check(&never, &Peer::none(), &HeaderMap::new(), "/livez").is_err());
}

#[test]
fn a_bad_token_is_an_error_and_never_anonymous() {
    let server = plain();
    for value in ["Bearer nobody", "bearer a.b.c", "Bearer abcdef.0123456789abcdef"] {
        let got = check(&server, &Peer::none(), &headers(&[("authorization", value)]), "/livez");
        assert_eq!(got, Err("invalid bearer token".into()), "{value}");
    }
    // A good certificate counts before the token is looked at.
    let got = check(
        &server,
        &peer("alice"),
        &headers(&[("authorization", "Bearer nobody")]),
        "/api",
    );
    assert_eq!(got.map(|u| u.0), Ok("alice".into()));
}

#[test]
fn static_tokens_come_in_the_header_or_as_a_subprotocol() {
    let server = plain();
    let want = Ok(("bob".to_owned(), vec!["dev".to_owned(), "system:authenticated".into()]));
    assert_eq!(
        check(
            &server,
            &Peer::none(),
            &headers(&[("authorization", "BEARER static")]),
            "/api"
        ),
        want
    );
    let socket = |protocols: &str| {
        headers(&[
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-protocol", protocols),
        ])
    };
    let token = "base64url.bearer.authorization.k8s.io.c3RhdGlj";
    assert_eq!(
        check(
            &server,
            &Peer::none(),
            &socket(&format!("{token}, v5.channel.k8s.io")),
            "/api"
        ),
        want
    );
    let refused = check(&server, &Peer::none(), &socket(token), "/api");
    assert_eq!(refused, Err("missing additional subprotocol".into()));
    assert_eq!(
        without_token(&format!("{token}, v5.channel.k8s.io")),
        "v5.channel.k8s.io"
    );
}

/// A change to an object before it is judged.
type Change = Box<dyn FnOnce(&mut Value)>;

/// A token as a pod gets it, with claims changed afterwards and signed again.
fn token(issuer: &Issuer, change: impl FnOnce(&mut Value)) -> String {
    let request = json!({"spec": {"expirationSeconds": 3607, "boundObjectRef":
        {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "pod-uid"}}});
    let request = issuer
        .prepare(request, "ns", "builder", &account(), now())
        .expect("valid");
    let minted = issuer
        .mint(request, &account(), &cluster(), now(), "jti-1")
        .expect("minted");
    let text = minted.object["status"]["token"].as_str().expect("token").to_owned();
    let mut claims = crate::token::jws::Unverified::parse(&text).expect("a token").claims;
    change(&mut claims);
    crate::token::jws::sign(&issuer.key, &claims).expect("signs")
}

#[test]
fn a_pod_token_names_account_pod_node_and_itself() {
    let issuer = issuer();
    let server = server(&issuer, cluster(), Anonymous::health());
    let found = server
        .authenticator
        .token(&token(&issuer, |_| {}), &[], now())
        .expect("good");
    assert_eq!(found.user.name, "system:serviceaccount:ns:builder");
    assert_eq!(found.user.uid, "sa-uid");
    assert_eq!(
        found.user.groups,
        [
            "system:serviceaccounts",
            "system:serviceaccounts:ns",
            "system:authenticated"
        ]
    );
    let extra: Vec<_> = found
        .user
        .extra
        .iter()
        .map(|(k, v)| (k.rsplit('/').next().unwrap_or(k), v[0].as_str()))
        .collect();
    let want = [
        ("credential-id", "JTI=jti-1"),
        ("node-name", "n1"),
        ("node-uid", "node-uid"),
        ("pod-name", "p"),
        ("pod-uid", "pod-uid"),
    ];
    assert_eq!(extra, want);
    assert_eq!(found.audiences, ["api"]);
}

#[test]
fn a_token_dies_with_its_time_its_audience_its_key_and_its_objects() {
    let issuer = issuer();
    let server = server(&issuer, cluster(), Anonymous::health());
    let second = now().as_second();
    let cases: Vec<(Change, &str)> = vec![
        (
            Box::new(move |c| c["exp"] = (second - 61).into()),
            "service account token has expired",
        ),
        (
            Box::new(|c| c["exp"] = Value::Null),
            "service account token has no expiration",
        ),
        (
            Box::new(move |c| c["nbf"] = (second + 61).into()),
            "service account token is not valid yet",
        ),
        (
            Box::new(move |c| c["iat"] = (second + 61).into()),
            "service account token is issued in the future",
        ),
        (
            Box::new(|c| c["aud"] = json!(["vault"])),
            "token audiences [\"vault\"] is invalid for the target audiences [\"api\"]",
        ),
        (
            Box::new(|c| c["iss"] = "https://elsewhere".into()),
            "invalid bearer token",
        ),
        (
            Box::new(|c| c["kubernetes.io"]["serviceaccount"]["uid"] = "old".into()),
            "service account UID (sa-uid) does not match claim (old)",
        ),
        (
            Box::new(|c| c["kubernetes.io"]["serviceaccount"]["name"] = "gone".into()),
            "serviceaccounts \"gone\" not found",
        ),
        (
            Box::new(|c| c["kubernetes.io"]["pod"]["uid"] = "old".into()),
            "pod UID (pod-uid) does not match service account pod ref claim (old)",
        ),
        (
            Box::new(|c| c["kubernetes.io"]["pod"]["name"] = "gone".into()),
            "service account token has been invalidated",
        ),
        (
            Box::new(|c| c["kubernetes.io"]["secret"] = json!({"name": "s", "uid": "u"})),
            "service account token has been invalidated",
        ),
        (
            Box::new(|c| c["kubernetes.io"] = json!([])),
            "service account token names no service account",
        ),
    ];
    for (change, want) in cases {
        let error = server
            .authenticator
            .token(&token(&issuer, change), &[], now())
            .expect_err(want);
        assert_eq!(error.why, want);
    }
    let other = super::tests::issuer();
    let error = server
        .authenticator
        .token(&token(&other, |_| {}), &[], now())
        .expect_err("another key");
    assert_eq!(error.why, "invalid signature, no keys found");
}

#[test]
fn a_token_kept_in_a_secret_is_good_as_long_as_the_secret_holds_it() {
    use base64::Engine;
    let issuer = issuer();
    let place = "kubernetes.io/serviceaccount";
    let claims = json!({"iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:ns:builder",
        format!("{place}/namespace"): "ns", format!("{place}/secret.name"): "kept",
        format!("{place}/service-account.name"): "builder", format!("{place}/service-account.uid"): "sa-uid"});
    let signed = |claims: &Value| crate::token::jws::sign(&issuer.key, claims).expect("signs");
    let token = signed(&claims);
    let secret = |token: &str, deleted: Option<&str>| {
        let data = base64::engine::general_purpose::STANDARD.encode(token);
        json!({"metadata": {"namespace": "ns", "name": "kept", "deletionTimestamp": deleted}, "data": {"token": data}})
    };
    let asked = |secret: Option<Value>, token: &str| {
        let mut objects = cluster();
        secret.into_iter().for_each(|s| objects.put("", "secrets", s));
        let server = server(&issuer, objects, Anonymous::health());
        let found = server.authenticator.token(token, &[], now());
        found.map(|a| a.user.name.clone()).map_err(|e| e.why)
    };
    assert_eq!(
        asked(Some(secret(&token, None)), &token).as_deref(),
        Ok("system:serviceaccount:ns:builder")
    );
    let mut renamed = claims.clone();
    renamed["sub"] = "system:serviceaccount:ns:other".into();
    let mut replaced = claims;
    replaced[format!("{place}/service-account.uid")] = "old".into();
    let (renamed, replaced) = (signed(&renamed), signed(&replaced));
    for (secret, token, why) in [
        (None, &token, "Token has been invalidated"),
        (
            Some(secret(&token, Some("2026-12-31T23:59:59Z"))),
            &token,
            "Token has been invalidated",
        ),
        (
            Some(secret("another", None)),
            &token,
            "Token does not match server's copy",
        ),
        (Some(secret(&renamed, None)), &renamed, "sub claim is invalid"),
        (
            Some(secret(&replaced, None)),
            &replaced,
            "ServiceAccount UID (sa-uid) does not match claim (old)",
        ),
    ] {
        assert_eq!(asked(secret, token), Err(why.to_owned()));
    }
}

#[test]
fn a_deleted_pod_takes_its_token_along_after_a_minute() {
    let issuer = issuer();
    let mut objects = cluster();
    let mut dying = pod();
    dying["metadata"]["deletionTimestamp"] = "2026-12-31T23:59:30Z".into();
    objects.put("", "pods", dying);
    let server = server(&issuer, objects, Anonymous::health());
    let token = token(&issuer, |_| {});
    assert!(server.authenticator.token(&token, &[], now()).is_ok());
    let later = "2027-01-01T00:00:31Z".parse().expect("time");
    let error = server.authenticator.token(&token, &[], later).expect_err("dead");
    assert_eq!(error.why, "service account token has been invalidated");
}

proptest! {
    #[test]
    fn no_token_makes_the_authenticator_panic(token in ".{0,80}") {
        let _ = plain().authenticator.token(&token, &[], now());
    }

    #[test]
    fn no_claims_make_it_panic(name in "[a-z.]{1,12}", number in any::<f64>(), text in ".{0,8}") {
        let issuer = issuer();
        let server = server(&issuer, cluster(), Anonymous::health());
        for value in [json!(number), json!(text), json!([text]), json!({"a": text}), Value::Null] {
            for claim in ["exp", "nbf", "iat", "aud", "kubernetes.io", "jti", name.as_str()] {
                let token = token(&issuer, |c| c[claim] = value.clone());
                let _ = server.authenticator.token(&token, &[], now());
            }
        }
    }

    #[test]
    fn no_certificate_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..700, flip in 1u8..) {
        let server = plain();
        let mut flipped = der("alice").to_vec();
        let at = at % flipped.len();
        flipped[at] ^= flip;
        for der in [bytes, flipped] {
            let peer = Peer::new(&[CertificateDer::from(der)]);
            prop_assert!(server.authenticator.authenticate(&peer, &HeaderMap::new(), "/api", now()).is_err());
        }
    }
}
