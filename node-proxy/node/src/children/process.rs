//! One child process: its start, its record on disk, and its end by pidfd.
//!
//! In: program and arguments. Out: a handle that tells when the process has ended, also for one that is not our child.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tracing::warn;
use weft_runtime::privileges::{Capability, bound_children};
use weft_runtime::{ADMIN_FD_ENV, async_fd, bind_unix, spawn_thread};

/// Which child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Agent,
    Proxy,
}

/// A process, told apart from a later one with the same pid by its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// Clock ticks between boot and its start, field 22 of `/proc/PID/stat` (proc_pid_stat(5)).
    start_time: u64,
}

/// What is known of both children, kept in a file for the next node program.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Record {
    #[serde(skip)]
    path: PathBuf,
    #[serde(skip)]
    foreign: bool,
    agent: Option<Process>,
    proxy: Option<Process>,
    #[serde(skip)]
    starts: [u64; 2],
}

/// How to start a child.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    /// User and group, if not ours.
    pub(crate) uid: Option<u32>,
    /// All that it may ever have, also as root.
    pub(crate) capabilities: &'static [Capability],
    /// An admin socket that the child cannot bind itself.
    pub(crate) admin_socket: Option<PathBuf>,
    /// File for its stderr, if not ours.
    pub(crate) log: Option<PathBuf>,
}

/// A process that was alive when this was made.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) process: Process,
    pidfd: AsyncFd<OwnedFd>,
}

/// Environment that children inherit; everything else they get as flags.
const KEPT_ENV: [&str; 5] = ["PATH", "RUST_BACKTRACE", "WEFT_LOG", "WEFT_LOG_JSON", "TZ"];

// === impl Record ===

impl Record {
    /// Reads the record at `path`; a missing or broken one knows no process.
    pub(crate) fn load(path: PathBuf) -> Self {
        let mut record = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                warn!(%error, path = %path.display(), "the record of children is broken; living ones are not adopted");
                Self::default()
            }),
            Err(_) => Self::default(),
        };
        record.path = path;
        record
    }

    /// A record that knows no process, whatever the file says: it speaks of the predecessor's children.
    pub(crate) fn fresh(path: PathBuf) -> Self {
        Self {
            path,
            ..Self::default()
        }
    }

    /// Whether the recorded process still lives.
    pub(crate) fn lives(&self, which: Which) -> bool {
        self.of(which)
            .is_some_and(|process| start_time(process.pid).is_ok_and(|t| t == process.start_time))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn of(&self, which: Which) -> Option<Process> {
        match which {
            Which::Agent => self.agent,
            Which::Proxy => self.proxy,
        }
    }

    pub(crate) fn restarts(&self, which: Which) -> u64 {
        self.starts[which as usize].saturating_sub(1)
    }

    pub(crate) fn set(&mut self, which: Which, process: Process) {
        self.starts[which as usize] += 1;
        *self.slot(which) = Some(process);
        self.save();
    }

    pub(crate) fn clear(&mut self, which: Which) {
        *self.slot(which) = None;
        self.save();
    }

    /// Whether the file is ours to write.
    pub(crate) fn keep(&mut self, ours: bool) {
        self.foreign = !ours;
        self.save();
    }

    fn slot(&mut self, which: Which) -> &mut Option<Process> {
        match which {
            Which::Agent => &mut self.agent,
            Which::Proxy => &mut self.proxy,
        }
    }

    fn save(&self) {
        if self.foreign {
            return;
        }
        let beside = self.path.with_extension("new");
        let bytes = serde_json::to_vec(self).expect("a record has no key that JSON refuses");
        let outcome = fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, &self.path));
        if let Err(error) = outcome {
            warn!(%error, path = %self.path.display(), "cannot record the children; the next weft-node would not adopt them");
        }
    }
}

// === impl Launch ===

impl Launch {
    /// Starts the child: its own process group, no stdin and stdout, nothing inherited but what is named.
    pub(crate) fn start(&self) -> io::Result<Running> {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .env_clear()
            .envs(
                KEPT_ENV
                    .iter()
                    .filter_map(|key| Some((key, std::env::var_os(key)?))),
            )
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if let Some(path) = &self.log {
            let log = OpenOptions::new().create(true).append(true).open(path)?;
            command.stderr(log);
        }
        if let Some(uid) = self.uid {
            // std drops all supplementary groups as well when it changes the user.
            command.uid(uid).gid(uid);
        }
        let passed_on = self.admin_socket.as_deref().map(inheritable).transpose()?;
        if let Some(fd) = &passed_on {
            command.env(ADMIN_FD_ENV, fd.as_raw_fd().to_string());
        }
        let child = spawn_bounded(command, self.capabilities)?;
        drop(passed_on);
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        // The child is not reaped before `ended`, so its pid cannot name another process yet.
        let (start_time, _) = stat(pid)?;
        Running::open(Process { pid, start_time })
    }
}

// === impl Running ===

impl Running {
    /// A process that another program started, if it still is the same one.
    pub(crate) fn adopt(process: Process) -> io::Result<Self> {
        let running = Self::open(process)?;
        // Checked after the pidfd stands: from here on it cannot be exchanged.
        if start_time(process.pid)? == process.start_time {
            Ok(running)
        } else {
            Err(io::Error::other("its pid belongs to another process now"))
        }
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        if let Err(error) = pidfd_send_signal(self.pidfd.get_ref(), Signal::TERM) {
            warn!(%error, pid = self.process.pid, "cannot ask a child to end");
        }
    }

    /// Ready when it has ended; tells how, if it was our child. Cancel-safe.
    pub(crate) async fn ended(&self) -> String {
        // A pidfd is readable from the process's end on (pidfd_open(2)).
        if let Err(error) = self.pidfd.readable().await {
            return format!("unknown: {error}");
        }
        let status = waitid(
            WaitId::PidFd(self.pidfd.get_ref().as_fd()),
            WaitIdOptions::EXITED,
        );
        match status {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => ExitStatus::from_raw(code << 8).to_string(),
                (None, Some(signal)) => ExitStatus::from_raw(signal).to_string(),
                (None, None) => "unknown".into(),
            },
            Ok(None) | Err(_) => "unknown, it was adopted".into(),
        }
    }

    fn open(process: Process) -> io::Result<Self> {
        let pid = Pid::from_raw(process.pid).ok_or(io::ErrorKind::InvalidInput)?;
        let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        Ok(Self {
            process,
            pidfd: async_fd(pidfd)?,
        })
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agent => "weft-agent",
            Self::Proxy => "weft-proxy",
        })
    }
}

/// Starts it from a thread of its own, whose bounding set it inherits: this program needs more than its children, and the proxy,
/// who is not root any more when it runs, could not empty the set by itself.
fn spawn_bounded(mut command: Command, kept: &'static [Capability]) -> io::Result<Child> {
    let thread = spawn_thread("weft-launch", move || {
        bound_children(kept).map_err(io::Error::other)?;
        command.spawn()
    })?;
    let panicked = |_| Err(io::Error::other("the thread that starts programs panicked"));
    thread.join().unwrap_or_else(panicked)
}

/// A listener at `path` that the next child inherits. Only one child is started at a time, so no other one gets it.
fn inheritable(path: &Path) -> io::Result<OwnedFd> {
    let listener = bind_unix(path, 0o600)?;
    // A duplicate made this way is not close-on-exec.
    Ok(rustix::io::dup(&listener)?)
}

/// When the process started; an error if it has ended, reaped or not.
fn start_time(pid: i32) -> io::Result<u64> {
    match stat(pid)? {
        (start_time, false) => Ok(start_time),
        (_, true) => Err(io::ErrorKind::NotFound.into()),
    }
}

/// When the process started, and whether it has ended and waits to be reaped.
fn stat(pid: i32) -> io::Result<(u64, bool)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let odd = || io::Error::other("unexpected form of /proc/PID/stat");
    // The name in field 2 may hold spaces and parentheses; behind its last one, field 3 begins.
    let (_, rest) = stat.rsplit_once(')').ok_or_else(odd)?;
    let mut fields = rest.split_ascii_whitespace();
    let ended = matches!(fields.next(), Some("Z" | "X"));
    let start_time = fields
        .nth(18)
        .and_then(|field| field.parse().ok())
        .ok_or_else(odd)?;
    Ok((start_time, ended))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Launch, Process, Record, Running, Which};

    fn launch(program: &str, args: &[&str]) -> Launch {
        Launch {
            program: program.into(),
            args: args.iter().map(ToString::to_string).collect(),
            uid: None,
            capabilities: &[],
            admin_socket: None,
            log: None,
        }
    }

    #[tokio::test]
    async fn the_end_of_a_child_is_told_with_its_status() {
        let child = launch("/bin/sh", &["-c", "exit 3"]).start().unwrap();
        let status = tokio::time::timeout(Duration::from_secs(20), child.ended()).await;
        assert_eq!(status.unwrap(), "exit status: 3");
    }

    #[tokio::test]
    async fn a_recorded_process_is_adopted_and_another_with_its_pid_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("children.json");
        let child = launch("/bin/sleep", &["600"]).start().unwrap();
        let mut record = Record::load(path.clone());
        record.set(Which::Proxy, child.process);

        let record = Record::load(path);
        assert!(record.lives(Which::Proxy) && !record.lives(Which::Agent));
        let process = record.of(Which::Proxy).unwrap();
        let other = Process {
            start_time: process.start_time + 1,
            ..process
        };
        assert!(Running::adopt(other).is_err());
        let adopted = Running::adopt(process).unwrap();
        adopted.terminate();
        tokio::time::timeout(Duration::from_secs(20), adopted.ended())
            .await
            .unwrap();
        assert!(!record.lives(Which::Proxy));
    }
}
