//! Connection records, metric names, log set-up.
