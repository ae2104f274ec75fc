//! Delta xDS client: stream to store to immutable snapshot.
