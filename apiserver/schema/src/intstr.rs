//! `IntOrString`: a port, a percentage or a count.
