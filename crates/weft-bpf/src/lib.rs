//! Map lookup, update, delete and link update by bpf(2), without aya.
