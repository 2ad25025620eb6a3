//! The desk at which test processes report: the server side of ginkgo's protocol for parallel runs.
//!
//! Usually ginkgo's own command line program is this server. Being it ourselves gives us what the suite does not have by
//! itself: a test process asks for its next test, so that every one of them is kept busy with exactly the tests that have no
//! verdict yet, and it reports each test when it ends, so that a verdict is written down at once. The processes are the
//! official binary, untouched, and run their tests as they do under ginkgo.
//!
//! Each process has a number of its own in its address (`/process/N/…`); what it says goes to the task that owns it.
//! Only loopback is listened on. Bodies are bounded by [`BODY`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use crate::ginkgo::Spec;

/// Most bytes of one report: a test's whole output is in it.
const BODY: usize = 512 << 20;
/// Reports under way per process; it waits for each answer, so that one would do.
const WAITING: usize = 8;
/// Answer to "which test next" when there is none: more than any suite has.
pub const NONE: usize = 1 << 30;

/// What a process says.
#[derive(Debug)]
pub enum Said {
    /// It wants the number of its next test.
    Next(oneshot::Sender<usize>),
    /// It has ended a spec, or a part of the suite's set-up.
    Ran(Box<Spec>),
    /// It has no parallel tests any more and begins with the serial ones.
    Serial,
}

/// The desk's end of a process.
#[derive(Debug)]
struct Line {
    said: mpsc::Sender<Said>,
    abort: Arc<AtomicBool>,
}

/// The owner's end of a process; the process is forgotten when it goes away.
#[derive(Debug)]
pub struct Guest {
    desk: Arc<Desk>,
    number: u64,
    pub said: mpsc::Receiver<Said>,
    abort: Arc<AtomicBool>,
}

impl Guest {
    /// The address to give to the process.
    #[must_use]
    pub fn address(&self) -> String {
        format!("http://{}/process/{}", self.desk.address, self.number)
    }

    /// Tells the process to abort its test, clean up and end; it asks twice a second.
    pub fn abort(&self) {
        self.abort.store(true, Ordering::Relaxed);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        lock(&self.desk.lines).remove(&self.number);
    }
}

#[derive(Debug)]
pub struct Desk {
    address: std::net::SocketAddr,
    lines: Mutex<HashMap<u64, Line>>,
    next: AtomicU64,
    /// What the first process said when the suite's set-up was done; the others wait for it.
    set_up: Mutex<Option<Bytes>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    /// Starts to listen.
    ///
    /// # Errors
    /// When loopback has no free port.
    pub async fn open() -> Result<Arc<Self>> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .context("listening on loopback")?;
        let desk = Arc::new(Self {
            address: listener.local_addr()?,
            lines: Mutex::default(),
            next: AtomicU64::new(1),
            set_up: Mutex::default(),
        });
        tokio::spawn(Arc::clone(&desk).listen(listener));
        Ok(desk)
    }

    /// A place for one more process.
    pub fn guest(self: &Arc<Self>) -> Guest {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, said) = mpsc::channel(WAITING);
        let abort = Arc::new(AtomicBool::new(false));
        let line = Line {
            said: sender,
            abort: Arc::clone(&abort),
        };
        lock(&self.lines).insert(number, line);
        Guest {
            desk: Arc::clone(self),
            number,
            said,
            abort,
        }
    }

    /// Forgets an earlier set-up, so that processes wait for the next one.
    pub fn forget_set_up(&self) {
        *lock(&self.set_up) = None;
    }
}

type Answer = Response<Full<Bytes>>;

fn code(code: StatusCode) -> Answer {
    let mut answer = Answer::default();
    *answer.status_mut() = code;
    answer
}

fn done(done: bool) -> Answer {
    code(if done { StatusCode::OK } else { StatusCode::GONE })
}

fn json(text: impl Into<Bytes>) -> Answer {
    Response::new(Full::new(text.into()))
}

impl Desk {
    async fn listen(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors, say; connections that end give some back.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            // Without it an answer may wait for the acknowledgement of the one before.
            let _ = stream.set_nodelay(true);
            let desk = Arc::clone(&self);
            let service = service_fn(move |request| {
                let desk = Arc::clone(&desk);
                async move { Ok::<_, std::convert::Infallible>(desk.answer(request).await) }
            });
            // A connection that breaks is its process' matter: it asks again, or ends.
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    }

    /// The owner's line of a process and what the process wants, from a path `/process/N/WHAT`.
    fn line<'a>(&self, path: &'a str) -> Option<(mpsc::Sender<Said>, bool, &'a str)> {
        let (number, what) = path.strip_prefix("/process/")?.split_once('/')?;
        let number: u64 = number.parse().ok()?;
        let lines = lock(&self.lines);
        let line = lines.get(&number)?;
        Some((line.said.clone(), line.abort.load(Ordering::Relaxed), what))
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        let Some((said, abort, what)) = self.line(head.uri.path()) else {
            return code(StatusCode::GONE);
        };
        let Ok(body) = Limited::new(body, BODY).collect().await else {
            return code(StatusCode::BAD_REQUEST);
        };
        let body = body.to_bytes();
        match (head.method, what) {
            (Method::GET, "counter") => {
                let (reply, index) = oneshot::channel();
                if said.send(Said::Next(reply)).await.is_err() {
                    return code(StatusCode::GONE);
                }
                let index = index.await.unwrap_or(NONE);
                json(format!("{{\"Index\":{index}}}"))
            }
            (Method::POST, "did-run") => match serde_json::from_slice(&body) {
                Ok(spec) => done(said.send(Said::Ran(spec)).await.is_ok()),
                Err(_) => code(StatusCode::BAD_REQUEST),
            },
            (Method::GET, "have-nonprimary-procs-finished") => done(said.send(Said::Serial).await.is_ok()),
            (Method::GET, "abort") => done(!abort),
            (Method::POST, "before-suite-completed") => {
                *lock(&self.set_up) = Some(body);
                code(StatusCode::OK)
            }
            (Method::GET, "before-suite-state") => match lock(&self.set_up).clone() {
                Some(state) => json(state),
                None => code(StatusCode::TOO_EARLY),
            },
            (Method::GET, "report-before-suite-state") => json("\"passed\""),
            (Method::GET, "aggregated-nonprimary-procs-report") => json("{}"),
            // Beginnings, ends, output and progress say nothing that a report of a test does not say.
            _ => code(StatusCode::OK),
        }
    }
}
