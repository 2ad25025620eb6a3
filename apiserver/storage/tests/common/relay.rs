//! A relay before an etcd member that can keep what a client sends, and deliver it later: a member that is cut off.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// What comes later than this after the first held byte is the client's giving up (its first attempt has 1.5 s).
const ONE_REQUEST: Duration = Duration::from_millis(700);
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Relay {
    pub url: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    held: Mutex<Option<Held>>,
    /// Bytes that the member has sent.
    answered: Mutex<u64>,
    released: Notify,
}

/// What is kept since [`Relay::hold`].
#[derive(Default)]
struct Held {
    first: Option<Instant>,
    request: Vec<u8>,
    rest: Vec<u8>,
    /// How far [`Relay::deliver`] has let things go.
    deliver: Deliver,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Deliver {
    #[default]
    Nothing,
    Request,
    All,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl Relay {
    /// Listens on loopback and passes everything on to `member`, an URL.
    pub async fn before(member: &str) -> Relay {
        let member = member.trim_start_matches("https://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let state = Arc::new(State::default());
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (from, to) = client.into_split();
                let (answers, requests) = TcpStream::connect(&member).await.unwrap().into_split();
                tokio::spawn(requests_of(shared.clone(), from, requests));
                tokio::spawn(answers_of(shared.clone(), answers, to));
            }
        });
        Relay { url, state }
    }

    /// From now on clients are not heard.
    pub fn hold(&self) {
        *lock(&self.state.held) = Some(Held::default());
    }

    /// Delivers the request that was held first, waits until the member has answered it, and is a plain relay again.
    pub async fn deliver(&self) {
        let before = *lock(&self.state.answered);
        self.let_go(Deliver::Request);
        let begun = Instant::now();
        while *lock(&self.state.answered) == before {
            assert!(begun.elapsed() < PATIENCE, "the member does not answer what was held");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.let_go(Deliver::All);
    }

    fn let_go(&self, what: Deliver) {
        let mut held = lock(&self.state.held);
        let held = held.as_mut().expect("something is held");
        assert!(!held.request.is_empty() || what == Deliver::All, "nothing was sent");
        held.deliver = what;
        self.state.released.notify_one();
    }
}

async fn requests_of(state: Arc<State>, mut client: OwnedReadHalf, mut member: OwnedWriteHalf) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        tokio::select! {
            read = client.read(&mut buffer) => {
                let Ok(length @ 1..) = read else { return };
                let passes = keep(&state, &buffer[..length]);
                if passes && member.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
            () = state.released.notified() => {
                let bytes = take(&state);
                if member.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Keeps what comes while things are held; otherwise it passes.
fn keep(state: &State, bytes: &[u8]) -> bool {
    let mut held = lock(&state.held);
    let Some(held) = held.as_mut() else { return true };
    let first = *held.first.get_or_insert_with(Instant::now);
    let part = if first.elapsed() < ONE_REQUEST {
        &mut held.request
    } else {
        &mut held.rest
    };
    part.extend_from_slice(bytes);
    false
}

/// What may go now.
fn take(state: &State) -> Vec<u8> {
    let mut guard = lock(&state.held);
    let Some(held) = guard.as_mut() else { return vec![] };
    let mut bytes = std::mem::take(&mut held.request);
    if held.deliver == Deliver::All {
        bytes.append(&mut held.rest);
        *guard = None;
    }
    bytes
}

async fn answers_of(state: Arc<State>, mut member: OwnedReadHalf, mut client: OwnedWriteHalf) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = member.read(&mut buffer).await {
        if client.write_all(&buffer[..length]).await.is_err() {
            return;
        }
        *lock(&state.answered) += length as u64;
    }
}
