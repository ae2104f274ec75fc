//! Kernel side: capture hooks.
