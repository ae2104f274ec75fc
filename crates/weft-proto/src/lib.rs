//! Control protocol: generated messages and services, and their conversion to weft-types.
