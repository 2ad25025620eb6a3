//! steersman-storage
