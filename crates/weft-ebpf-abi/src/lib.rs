//! Plain-old-data shared by kernel and user space: map keys, values, names, ABI version.
