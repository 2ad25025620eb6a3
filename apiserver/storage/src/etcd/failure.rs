//! What a failed call to a member means: was it processed, and is it worth asking another member?

use tonic::{Code, Status};

use crate::store::{Error, MAX_VALUE_BYTES};

/// Part of etcd's text for a write with a lease that is gone.
pub(super) const LEASE_NOT_FOUND: &str = "requested lease not found";

/// A failed call.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The member did not process the call and cannot now: no connection, no leader. Another one may.
    NotDone(String),
    /// It is unknown whether the call was (or will be) processed.
    Unknown(String),
    /// A definite answer; another member would say the same.
    Final(Error),
}

impl Failure {
    /// Reads a member's answer.
    pub fn of(status: &Status) -> Self {
        let text = status.message();
        let shown = || format!("{}: {text}", status.code());
        let is = |part: &str| text.contains(part);
        match status.code() {
            _ if is("required revision has been compacted") => Failure::Final(Error::Compacted {
                requested: 0,
                oldest: 0,
            }),
            _ if is("required revision is a future revision") => Failure::Final(Error::FutureRevision { requested: 0 }),
            _ if is("request is too large") || is("received message larger than max") => {
                Failure::Final(Error::TooLarge {
                    size: 0,
                    limit: MAX_VALUE_BYTES,
                })
            }
            _ if is("database space exceeded") => Failure::Final(Error::NoSpace(text.into())),
            // Refused before anything was proposed.
            _ if is("etcdserver: no leader")
                || is("too many requests")
                || is("not capable")
                || is("rpc not supported for learner")
                || is("unhealthy cluster") =>
            {
                Failure::NotDone(shown())
            }
            Code::Unavailable if never_connected(status) => Failure::NotDone(shown()),
            Code::Unavailable
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::Unknown
            | Code::Internal
            | Code::Ok => Failure::Unknown(shown()),
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::DataLoss
            | Code::Unauthenticated => Failure::Final(Error::Internal(shown())),
        }
    }
}

/// Whether the call failed because there was no connection to send it on.
fn never_connected(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_certainly_not_processed_counts_as_not_done() {
        let check = |code, text: &str, expected: &str| {
            let shown = format!("{:?}", Failure::of(&Status::new(code, text)));
            assert!(shown.starts_with(expected), "{text}: {shown}");
        };
        check(Code::Unavailable, "etcdserver: no leader", "NotDone");
        check(Code::Unavailable, "etcdserver: leader changed", "Unknown");
        check(Code::Unavailable, "etcdserver: request timed out", "Unknown");
        check(Code::Unavailable, "transport is closing", "Unknown");
        check(Code::ResourceExhausted, "etcdserver: too many requests", "NotDone");
        check(
            Code::OutOfRange,
            "etcdserver: mvcc: required revision has been compacted",
            "Final(Compacted",
        );
        check(
            Code::InvalidArgument,
            "etcdserver: request is too large",
            "Final(TooLarge",
        );
        check(
            Code::ResourceExhausted,
            "etcdserver: mvcc: database space exceeded",
            "Final(NoSpace",
        );
        check(
            Code::Unauthenticated,
            "etcdserver: invalid auth token",
            "Final(Internal",
        );
    }
}
