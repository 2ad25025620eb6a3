//! The API server.
//!
//! From the outside in: [`server`] takes connections, [`request`] is what happens to every request, from top to bottom,
//! [`registry`] holds the verbs, [`subresources`] and [`nonresource`] what is not a verb on an object, [`bootstrap`] what
//! the server writes for itself. [`app`] wires it all; `main` parses flags and waits for a signal.
//!
//! What stays true: objects reach the store only through [`registry::admit::Admitted`], handlers run only with
//! [`call::Authorized`], and nothing here knows a kind except [`hooks`], [`services`] and [`subresources`].

pub mod api;
pub mod app;
pub mod authorities;
pub mod body;
pub mod bootstrap;
pub mod call;
pub mod discovery;
pub mod flags;
pub mod health;
pub mod hooks;
pub mod kubelet;
pub mod limits;
pub mod lister;
pub mod logging;
pub mod metrics;
pub mod negotiate;
pub mod nonresource;
pub mod options;
pub mod query;
pub mod registry;
pub mod request;
pub mod resources;
pub mod respond;
pub mod routes;
pub mod server;
pub mod services;
pub mod store_health;
pub mod streams;
pub mod subresources;
pub mod tls;
