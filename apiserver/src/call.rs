//! One request on its way through the stages, and the tickets that say how far it has come.
//!
//! A [`Call`] is what was sent. [`Authenticated`] and [`Authorized`] can only be made by [`crate::request`]: a handler
//! that takes an `Authorized` cannot run before authorization, because nobody else can make one.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Uri};
use hyper::upgrade::OnUpgrade;
use jiff::Timestamp;
use parking_lot::Mutex;
use steersman_auth::{User, UserInfo};
use steersman_schema::status::Status;

use crate::body::{self, RequestBody};
use crate::query::Query;
use crate::resources::Resource;
use crate::routes::RequestInfo;
use crate::server::Peer;

/// All warnings of one answer together (upstream truncates at 4 KiB).
const MAX_WARNING_BYTES: usize = 4 * 1024;

/// A request as it was sent.
pub struct Call {
    pub info: RequestInfo,
    pub query: Query,
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    /// When it arrived.
    pub now: Timestamp,
    pub peer: Option<Arc<Peer>>,
    body: Mutex<Option<RequestBody>>,
    upgrade: Mutex<Option<OnUpgrade>>,
    warnings: Mutex<Vec<String>>,
    stages: Mutex<Vec<(&'static str, Instant)>>,
}

impl Call {
    pub(crate) fn new(info: RequestInfo, query: Query, parts: Parts, body: RequestBody, peer: Arc<Peer>) -> Self {
        let Parts {
            method,
            uri,
            headers,
            mut extensions,
            ..
        } = parts;
        Self {
            info,
            query,
            method,
            uri,
            headers,
            now: Timestamp::now(),
            peer: Some(peer),
            body: Mutex::new(Some(body)),
            upgrade: Mutex::new(extensions.remove::<OnUpgrade>()),
            warnings: Mutex::default(),
            stages: Mutex::default(),
        }
    }

    /// A request of the server to itself.
    pub(crate) fn internal(info: RequestInfo) -> Self {
        Self {
            info,
            query: Query::default(),
            method: Method::GET,
            uri: Uri::from_static("/"),
            headers: HeaderMap::new(),
            now: Timestamp::now(),
            peer: None,
            body: Mutex::default(),
            upgrade: Mutex::default(),
            warnings: Mutex::default(),
            stages: Mutex::default(),
        }
    }

    /// Reads the body; empty when it has been taken already.
    ///
    /// # Errors
    /// 413 when it is too large, 400 when the connection broke.
    pub async fn read_body(&self) -> Result<Bytes, Status> {
        let body = self.body.lock().take();
        match body {
            Some(body) => body::read(body).await,
            None => Ok(Bytes::new()),
        }
    }

    /// The body unread, to be passed on.
    pub fn take_body(&self) -> RequestBody {
        self.body.lock().take().unwrap_or_else(body::empty)
    }

    /// The connection, for a request that asked for an upgrade.
    pub fn take_upgrade(&self) -> Option<OnUpgrade> {
        self.upgrade.lock().take()
    }

    /// Adds a text for a `Warning` header; repeated ones count once.
    pub fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        let mut warnings = self.warnings.lock();
        let used: usize = warnings.iter().map(String::len).sum();
        if !text.is_empty() && !warnings.contains(&text) && used + text.len() <= MAX_WARNING_BYTES {
            warnings.push(text);
        }
    }

    pub fn warnings(&self) -> Vec<String> {
        self.warnings.lock().clone()
    }

    /// Notes that a stage begins. Names are those of the architecture page.
    pub fn stage(&self, name: &'static str) {
        let mut stages = self.stages.lock();
        // A write that is tried again passes the same stages: once is enough for the record.
        if !stages.iter().any(|(known, _)| *known == name) {
            stages.push((name, Instant::now()));
        }
    }

    /// The stages so far and when each began.
    pub fn stages(&self) -> Vec<(&'static str, Instant)> {
        self.stages.lock().clone()
    }

    /// `User-Agent`, for managers and logs.
    pub fn user_agent(&self) -> &str {
        self.headers
            .get(http::header::USER_AGENT)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// RFC 3339 in whole seconds: what `metav1.Time` shows.
    pub fn now_text(&self) -> String {
        seconds(self.now)
    }
}

/// A time as `metav1.Time` shows it.
pub fn seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

/// A request whose sender is known.
pub struct Authenticated {
    call: Arc<Call>,
    user: User,
}

impl Authenticated {
    pub(crate) fn new(call: Arc<Call>, user: User) -> Self {
        Self { call, user }
    }
    pub fn call(&self) -> &Arc<Call> {
        &self.call
    }
    pub fn user(&self) -> &User {
        &self.user
    }
}

/// A request that may do what it asks for.
#[derive(Clone)]
pub struct Authorized {
    call: Arc<Call>,
    user: User,
}

impl Authorized {
    /// Only [`crate::request::authorize`] calls this.
    pub(crate) fn granted(authenticated: Authenticated) -> Self {
        let Authenticated { call, user } = authenticated;
        Self { call, user }
    }

    /// The server's own reads and writes, as upstream's loopback client: user `system:apiserver`, who is in
    /// `system:masters` and so allowed everything. Admission and validation still run.
    pub(crate) fn own(info: RequestInfo) -> Self {
        let user = UserInfo {
            groups: vec!["system:masters".into(), "system:authenticated".into()],
            ..UserInfo::named("system:apiserver")
        };
        Self {
            call: Arc::new(Call::internal(info)),
            user: Arc::new(user),
        }
    }

    pub fn call(&self) -> &Call {
        &self.call
    }
    pub fn shared_call(&self) -> &Arc<Call> {
        &self.call
    }
    pub fn info(&self) -> &RequestInfo {
        &self.call.info
    }
    pub fn user(&self) -> &User {
        &self.user
    }
}

/// One object (or collection) that a request is about.
#[derive(Clone)]
pub struct Target {
    pub resource: Arc<Resource>,
    /// Empty for cluster-scoped resources and for all namespaces.
    pub namespace: String,
    /// Empty for collections.
    pub name: String,
    /// Empty for the object itself.
    pub subresource: String,
}

impl Target {
    pub fn of(resource: Arc<Resource>, info: &RequestInfo) -> Self {
        let namespace = if resource.facts.namespaced {
            info.namespace.clone()
        } else {
            String::new()
        };
        Self {
            resource,
            namespace,
            name: info.name.clone(),
            subresource: info.subresource.clone(),
        }
    }

    /// The object's key.
    pub fn key(&self) -> String {
        self.resource.key(&self.namespace, &self.name)
    }

    pub fn not_found(&self) -> Status {
        Status::not_found(self.resource.group(), self.resource.plural(), &self.name)
    }
}
