//! Service account tokens: keys, signatures, minting (TokenRequest), and the documents by which others verify them.
//!
//! Verification of an incoming token is [`crate::authn`]'s: it also needs the cluster's objects.

pub mod discovery;
pub mod jws;
pub mod key;
pub mod request;

pub use key::{KeyError, SigningKey, VerifyKey};
pub use request::{Bound, Issuer, Minted};

/// The lifetime that the ServiceAccount admission plugin asks for, and the only one that is extended, seconds.
pub const WARN_ONLY_SECONDS: i64 = 3607;
/// What an extended token lives: a year, seconds.
pub const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;
