//! steersman-scheduler
