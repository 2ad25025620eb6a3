//! steersman-runtime
