//! The table of API facts.
