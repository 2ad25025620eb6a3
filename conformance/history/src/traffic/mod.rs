//! The clients of a run: writers, readers, watchers. Each is one task with its own connections and its own dice.

pub mod reader;
pub mod session;
pub mod watcher;
pub mod writer;

use self::watcher::{Style, Wish};
use crate::record::{At, Scope};

/// The object of the run's last write: in the scope of every watcher.
pub const LAST_KEY: &str = "h0/k0";
pub const LAST_COLOUR: &str = "red";

/// What the watchers of a run want: everything (several of them, so that their logs can be merged and compared), one
/// namespace, one label, one name; state by list or in the stream, newest or any.
#[must_use]
pub fn wishes() -> Vec<Wish> {
    let scope = |ns: &str, colour: &str, name: &str| Scope {
        ns: ns.into(),
        colour: colour.into(),
        name: name.into(),
    };
    let wish = |scope: Scope, style: Style| Wish { scope, style };
    vec![
        wish(scope("", "", ""), Style::FromFirst),
        wish(scope("", "", ""), Style::ListThenWatch),
        wish(scope("", "", ""), Style::WatchList(At::Latest)),
        wish(scope("h0", "", ""), Style::WatchList(At::Any)),
        wish(scope("", "red", ""), Style::ListThenWatch),
        wish(scope("h0", "red", ""), Style::WatchList(At::Latest)),
        wish(scope("h0", "", "k0"), Style::ListThenWatch),
    ]
}
