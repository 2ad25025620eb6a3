//! A watch as it comes over the wire: one JSON event per line, through curl.

use std::io::{BufRead, BufReader};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::Background;

/// A watch that was opened; it ends when this is dropped.
pub struct Watch {
    events: Receiver<Value>,
    _curl: Background,
}

impl Watch {
    /// Follows the output of a curl whose standard output is piped.
    ///
    /// # Panics
    /// When it is not piped.
    #[must_use]
    pub fn follow(mut curl: std::process::Child) -> Self {
        let lines = BufReader::new(curl.stdout.take().expect("standard output is piped")).lines();
        let (sender, events) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
                // Nobody listens any more.
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        Self {
            events,
            _curl: Background(curl),
        }
    }

    /// The next event, whatever it is.
    ///
    /// # Panics
    /// When none comes within the time, or the watch ends.
    #[must_use]
    pub fn next(&self, seconds: u64) -> Value {
        match self.wait(seconds) {
            Ok(event) => event,
            Err(why) => panic!("no event within {seconds} s: {why}"),
        }
    }

    /// The next event, as its type and its object's name.
    #[must_use]
    pub fn next_named(&self) -> (String, String) {
        let event = self.next(20);
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or("-").to_owned();
        (text("/type"), text("/object/metadata/name"))
    }

    /// All events until the server ends the watch.
    ///
    /// # Panics
    /// When it does not end within the time.
    #[must_use]
    pub fn rest(&self, seconds: u64) -> Vec<Value> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let mut all = Vec::new();
        loop {
            match self.wait(deadline.saturating_duration_since(Instant::now()).as_secs().max(1)) {
                Ok(event) => all.push(event),
                Err(RecvTimeoutError::Disconnected) => return all,
                Err(RecvTimeoutError::Timeout) => panic!("the watch goes on after {seconds} s; seen: {all:?}"),
            }
            assert!(Instant::now() < deadline, "the watch goes on after {seconds} s");
        }
    }

    fn wait(&self, seconds: u64) -> Result<Value, RecvTimeoutError> {
        self.events.recv_timeout(Duration::from_secs(seconds))
    }
}
