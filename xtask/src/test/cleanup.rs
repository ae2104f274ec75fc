//! What is left of the tests when a signal has ended them.
//!
//! In: the mark that everything started by this run carries in its environment. Out: no process of it, and none of its labs.
//! Not here: network namespaces that a test made without a lab.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Error, Result};
use weft_testkit::interrupt;
use weft_testkit::lab::down_of_run;

/// This run of the tests.
pub(super) struct Run(String);

// === impl Run ===

impl Run {
    /// Takes signals from now on.
    pub(super) fn begin() -> Result<Self> {
        interrupt::watch(interrupt::Words {
            now: "ending the tests and taking down their labs".to_owned(),
            by_hand: "what is left goes with `cargo xtask lab down --name NAME` for each NAME in /run/weft-lab".to_owned(),
        })?;
        // Labs of an earlier run may have outlived it, and the pid may be used again.
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        Ok(Self(format!("{}-{}", std::process::id(), now.as_nanos())))
    }

    /// What stands in the environment of all that it starts.
    pub(super) fn name(&self) -> &str {
        &self.0
    }

    /// Ends every process and takes down every lab of this run, which an error has ended early.
    pub(super) fn take_down(&self, error: Error) -> Error {
        match down_of_run(&self.0) {
            Ok(()) => error.context("the labs of the tests were taken down"),
            Err(undo) => error.context(format!("and not all labs could be taken down: {undo:#}")),
        }
    }
}
