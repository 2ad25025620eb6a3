//! steersman-controllers
