//! Static defaults from the table of facts.
