//! Who is it, may they, and the tokens and default policy that both rest on.
//!
//! [`authn`] turns certificates, headers and tokens into a [`UserInfo`]; [`authz`] answers whether that user may do
//! something; [`token`] mints and describes service account tokens; [`bootstrap`] is the policy every cluster starts with;
//! [`review`] answers the review APIs; [`impersonate`] decides who may act as whom.
//!
//! The API server's request path calls this crate; nothing here waits, opens a socket or reads a clock: time comes in
//! as an argument, objects through [`lister::Lister`]. It does not speak HTTP: refusals are values that the server
//! turns into `Status`.

pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod impersonate;
pub mod lister;
pub mod review;
pub mod token;
pub mod user;

pub use authz::{Attributes, Authorizer, Decision, Outcome};
pub use lister::{Follower, Lister};
pub use user::{User, UserInfo};
