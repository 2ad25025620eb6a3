//! Container logs on disk, as the runtime writes them: `<RFC 3339 time> <stdout|stderr> <P|F> <text>` per line.

pub mod last_words;
pub mod line;
pub mod read;
pub mod rotate;
