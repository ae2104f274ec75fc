//! Lab of network namespaces, peers and fakes for tests and xtask.
