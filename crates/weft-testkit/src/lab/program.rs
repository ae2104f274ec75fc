//! Starting programs that outlive us, finding them again, ending them.
//!
//! In: a program, its arguments, a namespace. Out: [`Running`], whose start time keeps a recycled
//! pid from being taken for it. Every program of a lab carries `WEFT_LAB` in its environment: so
//! `down` also finds what a crash kept out of the records. Not here: which programs a lab needs.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::interrupt;
use crate::netns::Netns;

/// Environment variable that names the lab.
const MARK: &str = "WEFT_LAB";
/// Environment variable that names the run of `cargo xtask test` that everything with it belongs to.
pub const TEST_RUN: &str = "WEFT_TEST_RUN";
/// How long programs may take to end on SIGTERM before SIGKILL follows.
const TERMINATION_LIMIT: Duration = Duration::from_secs(5);

/// A process, told from a later one with the same pid by its start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks since boot (`/proc/PID/stat`, field 22).
    pub started: u64,
}

/// A program to start.
#[derive(Clone, Debug)]
pub struct Start<'a> {
    /// The lab that it belongs to.
    pub lab: &'a str,
    /// Where it runs; none for the namespace of the caller.
    pub netns: Option<&'a Netns>,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Where its output goes.
    pub log: PathBuf,
}

// === impl Running ===

impl Running {
    /// The process of that pid as it is now.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in brackets may hold anything; what follows the last bracket is numbers.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?;
        if state == "Z" || state == "X" {
            return None;
        }
        let started = fields.nth(18)?.parse().ok()?;
        Some(Self { pid, started })
    }

    /// Whether it still runs.
    pub fn alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal; false when the process is gone.
    pub fn signal(self, signal: Signal) -> bool {
        self.open()
            .is_some_and(|pidfd| pidfd_send_signal(pidfd, signal).is_ok())
    }

    /// Waits until the process has ended; false when it has not within the limit.
    pub fn wait(self, limit: Duration) -> bool {
        let Some(pidfd) = self.open() else {
            return true;
        };
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec {
                tv_sec: left.as_secs().cast_signed(),
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) => return !self.alive(),
                Ok(_) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return !self.alive(),
            }
        }
    }

    /// Whether its network namespace is the one with that inode.
    pub fn is_inside(self, inode: u64) -> bool {
        inside(self.pid, &[inode])
    }

    /// The name of its program, at most 15 bytes.
    pub fn name(self) -> String {
        fs::read_to_string(format!("/proc/{}/comm", self.pid))
            .unwrap_or_default()
            .trim_end()
            .to_owned()
    }

    fn open(self) -> Option<rustix::fd::OwnedFd> {
        let pidfd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // The descriptor may be that of a successor: look only after it holds the pid.
        self.alive().then_some(pidfd)
    }
}

// === impl Start ===

impl Start<'_> {
    /// Starts the program in a process group of its own with nothing of ours but its log.
    pub fn start(&self) -> Result<Running> {
        interrupt::check()?;
        keep_descriptors_here();
        let spawn = || -> Result<i32> {
            let log = open_log(&self.log)?;
            let child = Command::new(&self.program)
                .args(&self.arguments)
                .env(MARK, self.lab)
                .stdin(Stdio::null())
                .stdout(log.try_clone().context("cannot share the log")?)
                .stderr(log)
                .process_group(0)
                .spawn()
                .with_context(|| format!("cannot start {}", self.program.display()))?;
            Ok(child.id().cast_signed())
        };
        let pid = match self.netns {
            Some(netns) => netns.enter(spawn)?,
            None => spawn()?,
        };
        reap_later(pid);
        // Not `Running::of`'s None: a program that ended at once is a zombie until it is reaped.
        Ok(Running::of(pid).unwrap_or(Running { pid, started: 0 }))
    }
}

/// Marks every inherited descriptor but the standard three to be closed in programs that we
/// start: whoever called us may wait for the end of a pipe that we never use, or for a lock.
fn keep_descriptors_here() {
    #[expect(
        unsafe_code,
        reason = "descriptors that nobody here owns have no safe handle"
    )]
    fn close_on_exec(number: i32) {
        // SAFETY: the call takes any number and fails with EBADF for one that is not open; it
        // changes nothing but a flag that all descriptors opened by this program have anyway.
        unsafe {
            libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
    for entry in fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
    {
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let Some(number) = number.filter(|number: &i32| *number > 2) {
            close_on_exec(number);
        }
    }
}

/// The last lines of a log, for messages.
pub fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Every process that belongs to a lab: marked in its environment, or inside one of the
/// namespaces given by inode.
pub fn of_lab(lab: &str, namespaces: &[u64]) -> Vec<Running> {
    let is_it = |value: &str| value == lab;
    others()
        .filter(|process| marked(process.pid, MARK, is_it) || inside(process.pid, namespaces))
        .collect()
}

/// Every process that a run of the tests started and that belongs to no lab.
pub(crate) fn of_run(run: &str) -> Vec<Running> {
    others()
        .filter(|process| marked(process.pid, TEST_RUN, |value| value == run))
        .filter(|process| !marked(process.pid, MARK, |_| true))
        .collect()
}

fn others() -> impl Iterator<Item = Running> {
    let ours = i32::try_from(std::process::id()).unwrap_or(0);
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(move |pid| *pid != ours)
        .filter_map(Running::of)
}

/// Ends processes, politely first, and waits until they are gone.
pub fn end_all(processes: &[Running]) -> Result<()> {
    for process in processes {
        process.signal(Signal::TERM);
    }
    let deadline = Instant::now() + TERMINATION_LIMIT;
    for process in processes {
        process.wait(deadline.saturating_duration_since(Instant::now()));
    }
    kill_all(processes)
}

/// Ends processes at once and waits until they are gone.
pub fn kill_all(processes: &[Running]) -> Result<()> {
    for process in processes {
        process.signal(Signal::KILL);
    }
    for process in processes {
        if !process.wait(TERMINATION_LIMIT) {
            bail!("process {} does not end, not even killed", process.pid);
        }
    }
    Ok(())
}

fn open_log(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

/// A parent that stays (a test, the watcher) must not collect zombies.
fn reap_later(pid: i32) {
    let _ = std::thread::Builder::new()
        .name(format!("reap-{pid}"))
        .spawn(move || {
            if let Some(pid) = Pid::from_raw(pid) {
                let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            }
        });
}

fn marked(pid: i32, variable: &str, is_it: impl Fn(&str) -> bool) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environment| {
        environment
            .split(|byte| *byte == 0)
            .filter_map(|entry| str::from_utf8(entry).ok()?.split_once('='))
            .any(|(name, value)| name == variable && is_it(value))
    })
}

fn inside(pid: i32, namespaces: &[u64]) -> bool {
    fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|entry| namespaces.contains(&entry.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_by_its_mark_and_ended() {
        let folder = tempfile::tempdir().unwrap();
        let lab = format!("unit-{}", std::process::id());
        let start = Start {
            lab: &lab,
            netns: None,
            program: "/bin/sleep".into(),
            arguments: vec!["600".to_owned()],
            log: folder.path().join("log"),
        };
        let running = start.start().unwrap();
        assert!(running.alive());
        // The environment of a program shows a moment after it has started.
        crate::wait::until("the mark", crate::wait::SHORT, || {
            let found = of_lab(&lab, &[]);
            (found == [running])
                .then_some(())
                .ok_or_else(|| anyhow::anyhow!("found {found:?}"))
        })
        .unwrap();
        end_all(&[running]).unwrap();
        assert!(!running.alive());
        assert!(of_lab(&lab, &[]).is_empty());
    }

    #[test]
    fn a_recycled_pid_is_not_taken_for_the_old_process() {
        let mut other = Running::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        other.started += 1;
        assert!(!other.alive());
        assert!(!other.signal(Signal::TERM));
    }
}
