//! A lab: the standalone mesh of a lab file on this machine, every node and pod a network namespace.
//!
//! In: a lab file. Out: running programs, wired namespaces, one JSON document. The modules stand
//! in the order in which an edit flows: the file, the plan made from it, where things are kept,
//! the wires, the YAML for the controller, the programs, waiting until all is ready, the report.

pub mod file;
pub mod plan;

pub mod place;
pub mod program;

mod mount;
mod original;
mod programs;
mod settings;
pub mod source;
pub mod topology;

pub mod instance;
mod ready;
pub mod report;
mod start;

mod adopt;
mod change;
mod down;
mod edit;
mod lifecycle;
mod occupant;
mod upgrade;
pub mod watch;

pub use down::{down, down_of_run, down_telling, left_of_run};
pub use instance::{Lab, Progress};
pub use lifecycle::Options;
pub use occupant::{Occupant, occupant};
pub use upgrade::run as upgrade;
