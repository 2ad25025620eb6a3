//! steersman-cri
