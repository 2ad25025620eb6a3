//! Calls to the API server: typed objects in and out, JSON on the wire.
//!
//! Callers: everybody. A [`Client`] is cheap to clone. Its [`Transport`] is kube's HTTP/1.1 client in production and
//! anything in tests. Conversions go through [`Typed`], so no serde code is instantiated in a calling crate.
//!
//! What stays true: every call has a deadline (60 s unless changed), a body has a maximum size, an answer of 429 (or of
//! 5xx with `Retry-After`) is repeated at most ten times as client-go does, and every refusal is an [`ApiError::Status`]
//! that carries the server's `Status`.

mod error;
mod options;
mod path;
mod reach;
mod reload;
mod transport;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, Method, Request, Response};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use steersman_types::Typed;

pub use error::{ApiError, ConfigError};
pub use options::{DeleteOptions, ListOptions, Patch, Propagation};
pub use path::{Resource, query};
use reach::Reach;
pub use reload::Reloader;
pub use transport::{BodyStream, BoxFuture, KubeTransport, Transport, TransportError};

/// Longest answer that is read into memory: lists of big clusters are large, but not without end.
const MAX_BODY: usize = 512 << 20;
/// As client-go's `maxRetries` for answers with `Retry-After`.
const MAX_RETRIES: u32 = 10;
/// A server's wish to wait is honoured up to this long per try.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(10);

/// Gives the bearer token for the next request; used for per-controller service account credentials.
pub trait TokenSource: Send + Sync + 'static {
    fn token(&self) -> BoxFuture<'_, Result<String, ApiError>>;
}

/// A connection to one API server with one identity.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    transport: Arc<dyn Transport>,
    user_agent: HeaderValue,
    timeout: Duration,
    tokens: Option<Arc<dyn TokenSource>>,
    /// Same server and CA without an own identity; absent with a transport that a test made.
    anonymous: Option<Arc<dyn Transport>>,
    /// Shared by all clients of the same server.
    reach: Arc<Reach>,
}

/// The metadata of a list with its decoded items.
#[derive(Clone, Debug)]
pub struct List<T> {
    pub items: Vec<T>,
    pub resource_version: String,
    /// Not empty: more pages follow.
    pub continue_token: String,
}

#[derive(Deserialize)]
struct RawList<'a> {
    #[serde(default)]
    metadata: RawListMeta,
    #[serde(default, borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawListMeta {
    resource_version: Option<String>,
    r#continue: Option<String>,
}

impl Client {
    /// Reads a kubeconfig file (its current context) and prepares connections; nothing is sent yet.
    ///
    /// # Errors
    /// When the file is missing, malformed or names files that cannot be read. The text is one line.
    pub async fn from_kubeconfig(path: impl AsRef<Path>, user_agent: &str) -> Result<Self, ConfigError> {
        let (transport, anonymous) = KubeTransport::from_kubeconfig(path.as_ref()).await?;
        Ok(Self {
            inner: Arc::new(Inner {
                transport: Arc::new(transport),
                user_agent: agent(user_agent),
                timeout: Duration::from_secs(60),
                tokens: None,
                anonymous: Some(Arc::new(anonymous)),
                reach: Arc::default(),
            }),
        })
    }

    /// [`Client::from_kubeconfig`] whose own certificate may change while it works: see [`Reloader`].
    ///
    /// # Errors
    /// When a file is missing, malformed or names files that cannot be read. The text is one line.
    pub async fn reloading(
        path: impl AsRef<Path>,
        identity: Option<std::path::PathBuf>,
        user_agent: &str,
    ) -> Result<(Self, Reloader), ConfigError> {
        let reloader = Reloader::open(path.as_ref(), identity).await?;
        let mut client = Self::new(reloader.transport(), user_agent);
        let anonymous = reloader.anonymous();
        client = client.with(|inner| inner.anonymous = Some(anonymous));
        Ok((client, reloader))
    }

    /// A client over any transport: an in-process server in a test.
    pub fn new(transport: Arc<dyn Transport>, user_agent: &str) -> Self {
        Self {
            inner: Arc::new(Inner {
                transport,
                user_agent: agent(user_agent),
                timeout: Duration::from_secs(60),
                tokens: None,
                anonymous: None,
                reach: Arc::default(),
            }),
        }
    }

    fn with(&self, change: impl FnOnce(&mut Inner)) -> Self {
        let old = &self.inner;
        let mut inner = Inner {
            transport: old.transport.clone(),
            user_agent: old.user_agent.clone(),
            timeout: old.timeout,
            tokens: old.tokens.clone(),
            anonymous: old.anonymous.clone(),
            reach: old.reach.clone(),
        };
        change(&mut inner);
        Self { inner: Arc::new(inner) }
    }

    /// The same server, another deadline per request (watches have none).
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        self.with(|inner| inner.timeout = timeout)
    }

    /// The same server, another `User-Agent`.
    #[must_use]
    pub fn with_user_agent(&self, user_agent: &str) -> Self {
        self.with(|inner| inner.user_agent = agent(user_agent))
    }

    /// The same server under another identity: `tokens` instead of the kubeconfig's credentials.
    #[must_use]
    pub fn with_tokens(&self, tokens: Arc<dyn TokenSource>, user_agent: &str) -> Self {
        self.with(|inner| {
            if let Some(anonymous) = &inner.anonymous {
                inner.transport = anonymous.clone();
            }
            inner.user_agent = agent(user_agent);
            inner.tokens = Some(tokens);
        })
    }

    /// Waits until the server answers somebody again after it could not be reached; for ever if it can be. Who waits to
    /// try again need not wait longer.
    pub async fn reached(&self) {
        self.inner.reach.again().await;
    }

    /// # Errors
    /// As the server answers; transport failures otherwise. So for all calls below.
    pub async fn get<T: Typed>(&self, namespace: Option<&str>, name: &str) -> Result<T, ApiError> {
        let path = Resource::of::<T>().path(namespace, Some(name), None);
        decode(&self.request(Method::GET, &path, None).await?)
    }

    /// One list call: with a `limit` this is one page.
    #[allow(clippy::missing_errors_doc)]
    pub async fn list<T: Typed>(&self, options: &ListOptions) -> Result<List<T>, ApiError> {
        let resource = Resource::of::<T>();
        let path = query(
            &resource.path(options.namespace.as_deref(), None, None),
            &options.pairs(),
        );
        decode_list(&self.request(Method::GET, &path, None).await?, T::from_slice)
    }

    /// Creates `object` in the namespace that its metadata names.
    #[allow(clippy::missing_errors_doc)]
    pub async fn create<T: Typed>(&self, object: &T) -> Result<T, ApiError> {
        let path = Resource::of::<T>().path(object.metadata().namespace.as_deref(), None, None);
        decode(&self.request(Method::POST, &path, Some(object.to_vec())).await?)
    }

    /// Replaces the object; its `resourceVersion` is the precondition.
    #[allow(clippy::missing_errors_doc)]
    pub async fn update<T: Typed>(&self, object: &T) -> Result<T, ApiError> {
        self.put(object, None).await
    }

    /// Replaces the object's status.
    #[allow(clippy::missing_errors_doc)]
    pub async fn update_status<T: Typed>(&self, object: &T) -> Result<T, ApiError> {
        self.put(object, Some("status")).await
    }

    /// Replaces through any subresource whose body is the object itself (`status`, `finalize`, `approval`).
    #[allow(clippy::missing_errors_doc)]
    pub async fn update_subresource<T: Typed>(&self, object: &T, subresource: &str) -> Result<T, ApiError> {
        self.put(object, Some(subresource)).await
    }

    async fn put<T: Typed>(&self, object: &T, subresource: Option<&str>) -> Result<T, ApiError> {
        let meta = object.metadata();
        let name = meta.name.as_deref().unwrap_or_default();
        let path = Resource::of::<T>().path(meta.namespace.as_deref(), Some(name), subresource);
        decode(&self.request(Method::PUT, &path, Some(object.to_vec())).await?)
    }

    /// Patches an object or one of its subresources.
    #[allow(clippy::missing_errors_doc)]
    pub async fn patch<T: Typed>(
        &self,
        patch: &Patch,
        namespace: Option<&str>,
        name: &str,
        subresource: Option<&str>,
    ) -> Result<T, ApiError> {
        let path = Resource::of::<T>().path(namespace, Some(name), subresource);
        let body = patch.body().to_string().into_bytes();
        decode(
            &self
                .call(
                    Method::PATCH,
                    &path,
                    Some((patch.media_type(), body)),
                    "application/json",
                )
                .await?,
        )
    }

    /// Deletes one object. The answer (the object or a `Status`) is dropped.
    #[allow(clippy::missing_errors_doc)]
    pub async fn delete<T: Typed>(
        &self,
        namespace: Option<&str>,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(), ApiError> {
        let path = Resource::of::<T>().path(namespace, Some(name), None);
        self.request(Method::DELETE, &path, Some(options.to_vec()))
            .await
            .map(drop)
    }

    /// POSTs `body` to a subresource (`binding`, `eviction`, `token`) and returns the answer as it is.
    #[allow(clippy::missing_errors_doc)]
    pub async fn create_subresource<T: Typed>(
        &self,
        namespace: Option<&str>,
        name: &str,
        subresource: &str,
        body: &Value,
    ) -> Result<Value, ApiError> {
        let path = Resource::of::<T>().path(namespace, Some(name), Some(subresource));
        self.request_value(Method::POST, &path, Some(body)).await
    }

    /// Any call with JSON in and out, as values.
    #[allow(clippy::missing_errors_doc)]
    pub async fn request_value(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ApiError> {
        let bytes = self
            .request(method, path, body.map(|b| b.to_string().into_bytes()))
            .await?;
        serde_json::from_slice(&bytes).map_err(|e| ApiError::Decode(e.to_string()))
    }

    /// Any call with a JSON body: `path` is absolute and may hold a query.
    #[allow(clippy::missing_errors_doc)]
    pub async fn request(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Bytes, ApiError> {
        self.call(method, path, body.map(|b| ("application/json", b)), "application/json")
            .await
    }

    /// Any call: `body` with its media type, `accept` as sent. Waits and repeats as the server asks, within the deadline.
    #[allow(clippy::missing_errors_doc)]
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, Vec<u8>)>,
        accept: &str,
    ) -> Result<Bytes, ApiError> {
        let (media, body) = match body {
            Some((media, body)) => (Some(media), Bytes::from(body)),
            None => (None, Bytes::new()),
        };
        let attempts = async {
            let mut tries = 0;
            loop {
                let response = self.send(method.clone(), path, media, body.clone(), accept).await?;
                let wait = retry_after(&response);
                match collect(response).await {
                    Err(_) if wait.is_some() && tries < MAX_RETRIES => {
                        tries += 1;
                        tokio::time::sleep(wait.unwrap_or_default()).await;
                    }
                    outcome => return outcome,
                }
            }
        };
        tokio::time::timeout(self.inner.timeout, attempts)
            .await
            .unwrap_or_else(|_| Err(self.late()))
    }

    /// Opens a stream (watch, log): the answer's head has been checked, the body is read by the caller. No deadline
    /// after the head has arrived.
    #[allow(clippy::missing_errors_doc)]
    pub async fn stream(&self, path: &str, accept: &str) -> Result<BodyStream, ApiError> {
        let opening = self.send(Method::GET, path, None, Bytes::new(), accept);
        let response = tokio::time::timeout(self.inner.timeout, opening)
            .await
            .unwrap_or_else(|_| Err(self.late()))?;
        if response.status().is_success() {
            Ok(response.into_body())
        } else {
            Err(refusal(response).await)
        }
    }

    fn late(&self) -> ApiError {
        self.inner.reach.saw(false);
        ApiError::Timeout
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        media: Option<&str>,
        body: Bytes,
        accept: &str,
    ) -> Result<Response<BodyStream>, ApiError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(ACCEPT, accept)
            .header(USER_AGENT, &self.inner.user_agent);
        if let Some(media) = media {
            request = request.header(CONTENT_TYPE, media);
        }
        if let Some(tokens) = &self.inner.tokens {
            let token = tokens.token().await?;
            let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| ApiError::Decode("a bearer token that is not printable".into()))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let request = request.body(body).map_err(|e| ApiError::Transport(e.into()))?;
        let outcome = self.inner.transport.send(request).await;
        self.inner.reach.saw(outcome.is_ok());
        outcome.map_err(ApiError::Transport)
    }
}

fn agent(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("steersman"))
}

/// How long the server asks to wait before the same request again; `None` when it does not.
fn retry_after(response: &Response<BodyStream>) -> Option<Duration> {
    let status = response.status();
    if status.as_u16() != 429 && !status.is_server_error() {
        return None;
    }
    let seconds: u64 = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

async fn collect(response: Response<BodyStream>) -> Result<Bytes, ApiError> {
    if !response.status().is_success() {
        return Err(refusal(response).await);
    }
    read_body(response.into_body(), MAX_BODY).await
}

async fn read_body(mut body: BodyStream, limit: usize) -> Result<Bytes, ApiError> {
    let mut all = BytesMut::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(ApiError::Transport)?;
        if all.len() + chunk.len() > limit {
            return Err(ApiError::Decode(format!("the answer is longer than {limit} bytes")));
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all.freeze())
}

async fn refusal(response: Response<BodyStream>) -> ApiError {
    let code = response.status().as_u16();
    match read_body(response.into_body(), 1 << 20).await {
        Ok(body) => ApiError::from_body(code, &body),
        Err(error) => error,
    }
}

fn decode<T: Typed>(bytes: &[u8]) -> Result<T, ApiError> {
    T::from_slice(bytes).map_err(|e| ApiError::Decode(e.to_string()))
}

/// The items of a list, as any kind of object that an informer can hold.
///
/// # Errors
/// When the list or an item is not what it should be.
pub fn decode_items<T: crate::informer::Object>(bytes: &[u8]) -> Result<Vec<T>, ApiError> {
    decode_list(bytes, T::decode).map(|list| list.items)
}

/// Decodes a list with any decoder of items; the informers use it for objects of which only the metadata is known.
pub(crate) fn decode_list<T, E: std::fmt::Display>(
    bytes: &[u8],
    item: impl Fn(&[u8]) -> Result<T, E>,
) -> Result<List<T>, ApiError> {
    let list: RawList<'_> = serde_json::from_slice(bytes).map_err(|e| ApiError::Decode(e.to_string()))?;
    let items = list
        .items
        .unwrap_or_default()
        .into_iter()
        .map(|raw| item(raw.get().as_bytes()).map_err(|e| ApiError::Decode(e.to_string())))
        .collect::<Result<_, _>>()?;
    Ok(List {
        items,
        resource_version: list.metadata.resource_version.unwrap_or_default(),
        continue_token: list.metadata.r#continue.unwrap_or_default(),
    })
}
