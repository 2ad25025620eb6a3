//! steersman-conformance
