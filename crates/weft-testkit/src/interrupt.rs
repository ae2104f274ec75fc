//! SIGINT, SIGTERM and SIGHUP for verbs that make things on the machine.
//!
//! In: signals, once [`watch`] was called. Out: after the first one [`check`] fails, and with it every wait and every start
//! of a program, so that the way of an error takes down what was begun; a second SIGINT or SIGTERM ends this program at once. Nothing
//! here is asked while things are taken down. Tests never call [`watch`]: for them nothing changes. Not here: taking down.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
use tokio::runtime::Runtime;
use tokio::signal::unix::{self, SignalKind};

/// How long after a child that Ctrl-C ended our own copy of the signal may come: both are sent in one system call.
const BOTH_LIMIT: Duration = Duration::from_secs(1);

/// The signal that asked this program to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP, as from a terminal that was closed.
    Hup,
    /// SIGINT, as from Ctrl-C.
    Int,
    /// SIGTERM.
    Term,
}

/// A signal asked this program to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted(pub Signal);

/// What a verb tells whoever interrupts it.
#[derive(Clone, Debug)]
pub struct Words {
    /// What happens now, after the first signal.
    pub now: String,
    /// What to do by hand after the second one, which leaves things half-way.
    pub by_hand: String,
}

/// Registration of a child that is to end with us.
#[must_use]
pub struct EndsWithUs(u64);

/// Where signals come in.
struct Incoming {
    int: unix::Signal,
    term: unix::Signal,
    /// None where it is to be ignored.
    hup: Option<unix::Signal>,
}

struct State {
    came: Option<Signal>,
    children: Vec<(u64, OwnedFd)>,
    next: u64,
}

static STATE: Mutex<State> = Mutex::new(State {
    came: None,
    children: Vec::new(),
    next: 0,
});
static CAME: Condvar = Condvar::new();

// === impl Signal ===

impl Signal {
    /// The exit code that shells give to a program that this signal ended.
    pub fn exit_code(self) -> u8 {
        128 + self.number()
    }

    fn number(self) -> u8 {
        match self {
            Self::Hup => 1,
            Self::Int => 2,
            Self::Term => 15,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Hup => "SIGHUP",
            Self::Int => "SIGINT",
            Self::Term => "SIGTERM",
        }
    }
}

// === impl Interrupted ===

impl std::fmt::Display for Interrupted {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "interrupted by {}", self.0.name())
    }
}

impl std::error::Error for Interrupted {}

/// Takes SIGINT, SIGTERM and SIGHUP from now on, the last one unless it is ignored. To be called once, before anything is made.
pub fn watch(words: Words) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("cannot start a runtime for signals")?;
    let incoming = {
        let _inside = runtime.enter();
        Incoming {
            int: unix::signal(SignalKind::interrupt())?,
            term: unix::signal(SignalKind::terminate())?,
            hup: if ignores_hangup() {
                None
            } else {
                Some(unix::signal(SignalKind::hangup())?)
            },
        }
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || take(&runtime, incoming, &words))
        .context("cannot start a thread for signals")?;
    Ok(())
}

/// The signal that came, if one did.
pub fn came() -> Option<Signal> {
    state().came
}

/// An error once a signal came.
pub fn check() -> Result<()> {
    match came() {
        Some(signal) => Err(Interrupted(signal).into()),
        None => Ok(()),
    }
}

/// Sends SIGTERM to a child when a signal comes before the registration is dropped: Ctrl-C reaches children by itself, a
/// signal that was sent to this program alone does not.
pub fn end_with_us(child: &Child) -> Option<EndsWithUs> {
    let pid = Pid::from_raw(child.id().cast_signed())?;
    // Nobody has waited for the child yet: the pid is its own.
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    let mut state = state();
    if state.came.is_some() {
        let _ = pidfd_send_signal(&pidfd, rustix::process::Signal::TERM);
    }
    let number = state.next;
    state.next += 1;
    state.children.push((number, pidfd));
    Some(EndsWithUs(number))
}

/// An error when the child's end means that we are interrupted as well.
pub fn check_after(status: ExitStatus) -> Result<()> {
    if matches!(status.signal(), Some(1 | 2 | 15)) {
        // The child may have died of Ctrl-C, or with the terminal, before our own thread has seen it.
        let _ = CAME.wait_timeout_while(state(), BOTH_LIMIT, |state| state.came.is_none());
    }
    check()
}

// === impl EndsWithUs ===

impl Drop for EndsWithUs {
    fn drop(&mut self) {
        state().children.retain(|(number, _)| *number != self.0);
    }
}

// === impl Incoming ===

impl Incoming {
    async fn next(&mut self) -> Signal {
        let hangup = async {
            match &mut self.hup {
                Some(hup) => hup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.int.recv() => Signal::Int,
            _ = self.term.recv() => Signal::Term,
            _ = hangup => Signal::Hup,
        }
    }
}

/// Whether whoever started this program wants it to outlive the terminal, as `nohup` does. A handler of ours would undo that.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (Signal::Hup.number() - 1)) != 0)
}

fn take(runtime: &Runtime, mut incoming: Incoming, words: &Words) {
    loop {
        let signal = runtime.block_on(incoming.next());
        if let Some(first) = came() {
            if signal == Signal::Hup {
                // Nobody asks a second time: both the shell and the kernel send it when a terminal is closed.
                continue;
            }
            say(signal, &format!("ended at once; {}", words.by_hand));
            std::process::exit(first.exit_code().into());
        }
        say(signal, &format!("{} (again: end at once)", words.now));
        let mut state = state();
        state.came = Some(signal);
        for (_, child) in &state.children {
            let _ = pidfd_send_signal(child, rustix::process::Signal::TERM);
        }
        CAME.notify_all();
    }
}

fn say(signal: Signal, text: &str) {
    // Whoever read our output may be gone, as in `cargo xtask lab up FILE | tee log` after Ctrl-C.
    let _ = writeln!(std::io::stderr(), "==> {}: {text}", signal.name());
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}
