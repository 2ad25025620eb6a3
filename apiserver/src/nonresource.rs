//! Everything that is not an API object: discovery, health, version, metrics, OpenAPI, keys.

use std::sync::Arc;

use http::{HeaderValue, Method, Response, header};
use serde_json::json;
use steersman_auth::token::discovery as oidc;
use steersman_schema::openapi;
use steersman_schema::status::Status;

use crate::api::Api;
use crate::body::Body;
use crate::call::{Authorized, Call};
use crate::{discovery, health, respond};

/// The version this server speaks as. Clients compare major and minor.
pub const GIT_VERSION: &str = "v1.36.2";

/// Answers a path.
///
/// # Errors
/// 404 for paths that nobody serves, 405 for methods other than GET, 406 for encodings that cannot be made.
pub async fn serve(api: &Arc<Api>, ticket: &Authorized) -> Result<Response<Body>, Status> {
    let call = ticket.call();
    let path = call.info.path.as_str();
    let trimmed = if path.len() > 1 {
        path.trim_end_matches('/')
    } else {
        path
    };
    if let Some(response) = health::answer(api, path, &call.query) {
        return Ok(response);
    }
    let response = match trimmed {
        "/" | "" => respond::plain(200, "application/json", pretty(&json!({"paths": index(api)}))),
        "/version" => respond::plain(200, "application/json", pretty(&version())),
        "/metrics" => respond::plain(200, "text/plain; version=0.0.4; charset=utf-8", api.metrics.render(api)),
        "/openapi/v2" => openapi_older(call),
        "/openapi/v3" => openapi_index(api),
        oidc::KEYS_PATH => public(respond::plain(
            200,
            "application/jwk-set+json",
            oidc::keys(&api.token_keys).to_string(),
        )),
        oidc::CONFIGURATION_PATH => {
            let authentication = &api.options.authentication;
            let issuer = authentication
                .service_account_issuer
                .first()
                .map(String::as_str)
                .unwrap_or_default();
            let uri = authentication.service_account_jwks_uri.as_deref();
            let document = oidc::configuration(issuer, uri, &api.external_address, &api.token_keys);
            match document {
                Ok(document) => public(respond::plain(200, "application/json", document.to_string())),
                Err(_) => respond::page_not_found(),
            }
        }
        other => match other.strip_prefix("/openapi/v3/") {
            Some(rest) => openapi_document(ticket, rest)?,
            None => discovery::answer(api, call, other)?,
        },
    };
    reading(&call.method, response)
}

fn reading(method: &Method, response: Response<Body>) -> Result<Response<Body>, Status> {
    if matches!(*method, Method::GET | Method::HEAD) {
        Ok(response)
    } else {
        Err(Status::method_not_allowed())
    }
}

fn pretty(value: &serde_json::Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

fn public(mut response: Response<Body>) -> Response<Body> {
    let age = HeaderValue::from_static("public, max-age=3600");
    response.headers_mut().insert(header::CACHE_CONTROL, age);
    response
}

/// `/version`.
pub fn version() -> serde_json::Value {
    json!({
        "major": "1",
        "minor": "36",
        "emulationMajor": "1",
        "emulationMinor": "36",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("linux/{}", match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }),
    })
}

fn index(api: &Api) -> Vec<String> {
    let mut paths = vec![
        "/.well-known/openid-configuration".to_owned(),
        "/api".to_owned(),
        "/apis".to_owned(),
    ];
    for (group, versions) in api.resources.groups() {
        if group.is_empty() {
            paths.extend(versions.iter().map(|version| format!("/api/{version}")));
        } else {
            paths.push(format!("/apis/{group}"));
            paths.extend(versions.iter().map(|version| format!("/apis/{group}/{version}")));
        }
    }
    for path in [
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ] {
        paths.push(path.to_owned());
    }
    paths.sort();
    paths
}

fn openapi_index(api: &Api) -> Response<Body> {
    let index = openapi::v3_index(|group, version| api.resources.serves(group, version));
    respond::plain(200, "application/json", index.to_string())
}

fn openapi_older(call: &Call) -> Response<Body> {
    let accepted = call.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let protobuf = accepted.is_some_and(|types| openapi::v2::PROTOBUF.iter().any(|t| types.contains(t)));
    let (media, document) = if protobuf {
        (openapi::v2::PROTOBUF[1], openapi::v2::protobuf())
    } else {
        ("application/json", openapi::v2::json())
    };
    let gzip = crate::negotiate::accepts_gzip(&call.headers);
    respond::compressed(gzip, 200, media, document.clone())
}

fn openapi_document(ticket: &Authorized, path: &str) -> Result<Response<Body>, Status> {
    let Some(document) = openapi::v3(path) else {
        return Ok(respond::page_not_found());
    };
    let gzip = crate::negotiate::accepts_gzip(&ticket.call().headers);
    let mut response = respond::compressed(gzip, 200, "application/json", document.clone());
    if ticket.call().query.get("hash").is_some() {
        // The address names the content: it may be kept for good.
        let forever = HeaderValue::from_static("public, immutable");
        response.headers_mut().insert(header::CACHE_CONTROL, forever);
    }
    Ok(response)
}
