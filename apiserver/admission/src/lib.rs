//! steersman-admission
