//! Drain, shutdown, spawn helper, backoff, clock, socket options.
