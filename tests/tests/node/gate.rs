//! A program of the node that waits until it is let in: started and known to its node program, and not there yet.
//!
//! In: the real program. Out: a stand-in that becomes it (`exec`) when the gate opens. Until then it is a shell that reads from
//! a FIFO: it holds no descriptor of the mesh and does nothing.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Child;

use rustix::fs::{CWD, FileType, mknodat};
use weft_testkit::lab::program::kill_all;
use weft_testkit::wait::{LONG, until};

use super::{TestLab, command_line, program, start_in, status};

/// A gate and what waits at it; the files go when it is dropped.
pub(crate) struct Gate {
    folder: tempfile::TempDir,
}

impl Gate {
    /// A gate before a program.
    pub(crate) fn before(real: &Path) -> Self {
        let this = Self {
            folder: tempfile::TempDir::new().unwrap(),
        };
        let script = format!(
            "#!/bin/sh\nread go < {}\nexec {} \"$@\"\n",
            this.fifo().display(),
            real.display()
        );
        std::fs::write(this.program(), script).unwrap();
        let mode = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode));
        mode(this.folder.path(), 0o755).unwrap();
        mode(&this.program(), 0o755).unwrap();
        mknodat(CWD, this.fifo(), FileType::Fifo, 0o666.into(), 0).unwrap();
        mode(&this.fifo(), 0o666).unwrap();
        this
    }

    /// What is to be started in the place of the real program.
    pub(crate) fn program(&self) -> PathBuf {
        self.folder.path().join("stand-in")
    }

    /// Lets in what waits.
    pub(crate) fn open(&self) {
        std::fs::write(self.fifo(), "go\n").unwrap();
    }

    fn fifo(&self) -> PathBuf {
        self.folder.path().join("gate")
    }
}

/// Kills holder and agent of n1 and starts a holder whose agent waits at a gate. The proxy lives on.
pub(crate) fn lose_the_agent(lab: &TestLab) -> (Gate, Child) {
    let (node, agent) = (program(lab, "weft-node"), program(lab, "weft-agent"));
    let gate = Gate::before(Path::new(&command_line(agent)[0]));
    let mut line = command_line(node);
    line.extend(["--agent".to_owned(), gate.program().display().to_string()]);
    kill_all(&[node, agent]).unwrap();
    let holder = start_in(&lab.lab().topology().node("n1"), &line);
    until("the holder has the proxy back", LONG, || {
        let status = status(lab)?;
        anyhow::ensure!(status["pid"] == holder.id(), "{status}");
        anyhow::ensure!(status["proxy"]["connected"] == true, "{status}");
        anyhow::ensure!(status["agent"]["connected"] == false, "{status}");
        Ok(())
    })
    .unwrap();
    (gate, holder)
}

/// Ends a program that this test started itself.
pub(crate) fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}
