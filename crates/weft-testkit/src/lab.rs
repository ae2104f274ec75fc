//! A lab: the standalone mesh of a lab file on this machine, every node and pod a network namespace.
//!
//! In: a lab file. Out: running programs, wired namespaces, one JSON document. The modules stand
//! in the order in which an edit flows: the file, the plan made from it, the wires, the YAML for
//! the controller, the programs, waiting until all is ready, and the report.

pub mod file;
pub mod plan;

pub mod place;
pub mod program;
pub mod source;
pub mod topology;
