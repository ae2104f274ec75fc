//! What the verbs share: the workspace's root, running programs, progress lines.
//!
//! In: program names and arguments. Out: their exit status as an error that names the command.
//! Not here: anything that one verb alone needs.

use std::fmt::Arguments;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use weft_testkit::interrupt;
use weft_testkit::lab::{Occupant, down, occupant};

mod pulse;

pub(crate) use pulse::{Heartbeat, Pulse, on_terminal};

/// The workspace's root folder, the one that holds `Cargo.toml` and `Cargo.lock`.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is a folder of the workspace")
        .to_owned()
}

/// The cargo that started this program, or the one on the path.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Prints a line of progress on standard error. Whoever read it may be gone: that is no reason to leave a lab half-made.
pub(crate) fn progress(text: &str) {
    let _ = writeln!(std::io::stderr(), "==> {text}");
}

/// Prints a line of a result on standard output, as [`progress`] does: a terminal that is gone must not end what has to be
/// taken down.
pub(crate) fn say(text: Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints a line on standard error as it is.
pub(crate) fn note(text: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints a warning on standard error.
pub(crate) fn warn(text: &str) {
    let _ = writeln!(std::io::stderr(), "warning: {text}");
}

/// Takes signals that end a program from now on, for a verb that takes its lab down when it is interrupted.
pub(crate) fn take_down_on_signals(lab: &str) -> Result<()> {
    interrupt::watch(interrupt::Words {
        now: format!("taking down what was begun of lab {lab}"),
        by_hand: format!("what is left goes with `cargo xtask lab down --name {lab}`"),
    })
}

/// For a verb that makes a lab of a fixed name: one of that name may be in use, as the verb's that runs, or as somebody's own.
pub(crate) fn refuse_lab_in_use(lab: &str, verb: &str) -> Result<()> {
    if let Occupant::InUse(how) = occupant(lab) {
        bail!(
            "a lab named {lab} is in use ({how}), and the {verb} makes one of that name; to end it: `cargo xtask lab down --name {lab}`"
        );
    }
    Ok(())
}

/// The same right before the lab is made; takes away what a run of the verb left behind that was killed.
pub(crate) fn claim_lab_name(lab: &str, verb: &str) -> Result<()> {
    refuse_lab_in_use(lab, verb)?;
    if occupant(lab) == Occupant::Left {
        progress(&format!(
            "taking away what a {verb} left behind that was killed"
        ));
        down(lab)?;
    }
    Ok(())
}

/// Runs a command to its end; its output goes where ours goes.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    interrupt::check()?;
    let mut child = command
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {}", words(command)))?;
    let status = {
        let _ends = interrupt::end_with_us(&child);
        child
            .wait()
            .with_context(|| format!("{} is gone", words(command)))?
    };
    interrupt::check_after(status)?;
    if !status.success() {
        bail!("{} ended with {status}", words(command));
    }
    Ok(())
}

/// Runs a command under a line that says what it does and, at its end, how long it took.
pub(crate) fn step(what: &str, command: &mut Command) -> Result<()> {
    progress(what);
    let started = Instant::now();
    {
        let _alive = Heartbeat::begin(what);
        run(command)?;
    }
    progress(&format!(
        "{what}: done in {} s",
        started.elapsed().as_secs()
    ));
    Ok(())
}

/// Runs a command to its end and returns what it wrote on standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    interrupt::check()?;
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", words(command)))?;
    let output = {
        let _ends = interrupt::end_with_us(&child);
        child
            .wait_with_output()
            .with_context(|| format!("{} is gone", words(command)))?
    };
    interrupt::check_after(output.status)?;
    if !output.status.success() {
        bail!("{} ended with {}", words(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} wrote no text", words(command)))
}

/// Builds the programs of the mesh and the test peer, dev profile, and returns their folder.
///
/// With `WEFT_XTASK_NO_BUILD` set, the programs are taken as they were last built.
pub(crate) fn build_programs() -> Result<PathBuf> {
    if std::env::var_os("WEFT_XTASK_NO_BUILD").is_some() {
        return own_folder();
    }
    let mut command = cargo();
    command.arg("build").args(quiet()).args([
        "-p",
        "weft-node",
        "-p",
        "weft-agent",
        "-p",
        "weft-proxy",
        "-p",
        "weft-controller",
        "-p",
        "weft-testkit",
        "--bins",
    ]);
    step("building the programs and the test peer", &mut command)?;
    own_folder()
}

/// For cargo: on a terminal its progress is shown, in a log its hundreds of lines are not.
pub(crate) fn quiet() -> Option<&'static str> {
    (!on_terminal()).then_some("--quiet")
}

/// Where this program was built, and with it all others.
pub(crate) fn own_folder() -> Result<PathBuf> {
    let this = std::env::current_exe().context("cannot find this program's own path")?;
    Ok(this
        .parent()
        .expect("an executable has a folder")
        .to_owned())
}

/// Whether this process is root, as everything with namespaces or eBPF needs.
pub(crate) fn require_root(verb: &str) -> Result<()> {
    if rustix_is_root() {
        return Ok(());
    }
    bail!(
        "`cargo xtask {verb}` works with network namespaces, eBPF and programs of root: run it as root"
    )
}

fn rustix_is_root() -> bool {
    // The owner of our own /proc entry is our effective uid.
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|entry| entry.uid() == 0)
}

fn words(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}
