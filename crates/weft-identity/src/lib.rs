//! Keys, CSRs, certificate rotation, rustls configurations, SPIFFE verification. The only home of rustls.
