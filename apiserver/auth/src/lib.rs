//! steersman-auth
