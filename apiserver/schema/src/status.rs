//! `Status`: how the API server says what went wrong.
