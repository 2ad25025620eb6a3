//! steersman-dns
