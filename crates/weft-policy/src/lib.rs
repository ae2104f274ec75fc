//! Pure decisions: authorize a connection against policies.
