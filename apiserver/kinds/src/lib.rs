//! steersman-kinds
