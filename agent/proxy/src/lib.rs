//! steersman-proxy
