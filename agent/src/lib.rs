//! steersman-agent
