//! steersman-schema
