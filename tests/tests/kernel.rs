//! The tests of capture on other kernels than the running one.
//!
//! Method: the distribution's kernel package is downloaded and unpacked (nothing is installed), a file system in memory is made of
//! the test program of `capture.rs` and the few programs and libraries that it needs, and qemu boots both under KVM. The guest runs
//! the tests, and its console says how they ended. Skipped, with the reason, where there is no KVM, no qemu or no such package.
//! A KVM that cannot run the kernel (some nested ones miss instructions, or registers that qemu sets before the first of them) is
//! given up for qemu's emulation, which takes minutes.

#![allow(clippy::unwrap_used, reason = "a panic is how a test reports")]

#[path = "kernel/image.rs"]
mod image;
#[path = "kernel/package.rs"]
mod package;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use weft_tests::{has_program, skip};

/// Ten times what the tests take in a guest with two processors.
const PATIENCE: Duration = Duration::from_mins(15);

/// Four times what the slower guest takes emulated, where every other load on the machine counts double: 15 minutes have been too
/// few at a load of ten. Two guests end within the bound that `cargo xtask test` sets to a test program.
const EMULATED_PATIENCE: Duration = Duration::from_mins(25);

/// Ten times what a kernel takes to its first process under a KVM that works.
const START_PATIENCE: Duration = Duration::from_mins(1);

/// What the guest's init prints first.
const STARTED: &str = "Linux version";

/// What the guest's init prints when the tests have passed.
const PASSED: &str = "weft-guest-passed";

/// 40 000 connections are a claim about memory and ports, not about kernels, and take longest.
const LEFT_OUT: &str = "more_connections_than_there_are_ports";

#[test]
fn capture_works_on_kernel_6_1() {
    on_kernel("6.1");
}

#[test]
fn capture_works_on_kernel_6_12() {
    on_kernel("6.12");
}

#[test]
#[ignore = "runs inside the guest, before the other tests"]
fn the_driver_of_veth_pairs_loads() {
    let Ok(module) = std::fs::File::open(image::MODULE) else {
        return; // It is built into this kernel.
    };
    rustix::system::finit_module(&module, c"", 0).unwrap();
}

fn on_kernel(version: &str) {
    if !Path::new("/dev/kvm").exists() {
        return skip("there is no /dev/kvm");
    }
    if !["qemu-system-x86_64", "dpkg-deb", "apt-get", "ip"]
        .into_iter()
        .all(has_program)
    {
        return;
    }
    let kernel = match package::kernel(version, &cache()) {
        Ok(kernel) => kernel,
        Err(reason) => return skip(&reason),
    };
    let folder = tempfile::tempdir().unwrap();
    let initramfs = folder.path().join("initramfs");
    let own = std::env::current_exe().unwrap();
    let tests = [("capture-tests", capture_tests()), ("kernel-tests", own)];
    image::write(&initramfs, &tests, kernel.veth.as_deref(), &init());
    let guest = Guest {
        kernel: &kernel.image,
        initramfs: &initramfs,
        console: &folder.path().join("console"),
        complaints: &folder.path().join("complaints"),
    };
    if !guest.runs_under_kvm() {
        let why = read(guest.complaints);
        println!("this machine's KVM cannot run kernel {version}: emulating it. {why}");
        guest.boot(EMULATED).end(EMULATED_PATIENCE);
    }
    let (said, complaints) = (read(guest.console), read(guest.complaints));
    let release = format!("{STARTED} {version}.");
    assert!(
        said.contains(&release),
        "not this kernel booted:\n{said}\n{complaints}"
    );
    assert!(
        said.contains(PASSED),
        "the tests failed in the guest:\n{said}"
    );
}

/// What stands in a file, whatever its bytes; nothing where there is none.
fn read(file: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(file).unwrap_or_default()).into_owned()
}

/// Downloads are kept beside what cargo builds.
fn cache() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    root.join("target/kernels")
}

/// The program that holds the tests of `capture.rs`. Cargo has built it already when all tests run.
fn capture_tests() -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args([
            "test",
            "-p",
            "weft-tests",
            "--test",
            "capture",
            "--no-run",
            "--message-format=json",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "the tests of capture do not build");
    let built = String::from_utf8(output.stdout).unwrap();
    built
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "capture")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .unwrap()
}

/// The guest's first process. A test that the guest skips (no root there would be a mistake of ours) shows in the count of passed ones.
fn init() -> String {
    format!(
        "#!/bin/sh\n\
         mount -t proc none /proc\n\
         mount -t sysfs none /sys\n\
         mount -t devtmpfs none /dev\n\
         mount -t tmpfs none /run\n\
         mount -t tmpfs none /tmp\n\
         mount -t bpf none /sys/fs/bpf\n\
         mount -t cgroup2 none /sys/fs/cgroup\n\
         read -r version < /proc/version; echo \"$version\"\n\
         ip link set lo up\n\
         /kernel-tests --ignored || exit\n\
         /capture-tests --test-threads 2 --skip {LEFT_OUT} && echo {PASSED}\n\
         echo o > /proc/sysrq-trigger\n\
         read -r never < /dev/zero\n"
    )
}

const UNDER_KVM: [&str; 4] = ["-accel", "kvm", "-cpu", "host"];
const EMULATED: [&str; 4] = ["-accel", "tcg,thread=multi", "-cpu", "max"];

struct Guest<'a> {
    kernel: &'a Path,
    initramfs: &'a Path,
    console: &'a Path,
    /// What qemu itself has to say.
    complaints: &'a Path,
}

/// A guest that runs; it ends when dropped.
struct Running<'a> {
    qemu: Child,
    console: &'a Path,
}

impl<'a> Guest<'a> {
    /// Whether the tests have run to their end. `false` if the kernel does not even start.
    fn runs_under_kvm(&self) -> bool {
        let mut running = self.boot(UNDER_KVM);
        // qemu stops a guest that it cannot go on with, and stays; where it cannot even begin, it ends.
        running.until(START_PATIENCE, |said| said.contains(STARTED));
        if !running.said().contains(STARTED) {
            return false;
        }
        running.end(PATIENCE);
        true
    }

    fn boot(&self, accelerator: [&str; 4]) -> Running<'a> {
        let qemu = Command::new("qemu-system-x86_64")
            .args(accelerator)
            .args(["-smp", "2", "-m", "1024", "-no-reboot"])
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-append", "console=ttyS0 quiet panic=-1", "-kernel"])
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .arg("-serial")
            .arg(format!("file:{}", self.console.display()))
            .stdin(Stdio::null())
            // Not ours: whoever reads that would wait for the guest when this program is ended.
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(self.complaints).unwrap())
            .spawn()
            .unwrap();
        Running {
            qemu,
            console: self.console,
        }
    }
}

impl Running<'_> {
    /// Waits until the guest has turned itself off.
    fn end(mut self, patience: Duration) {
        let ended = self.until(patience, |_| false);
        assert!(ended, "the guest does not come to an end:\n{}", self.said());
    }

    /// Waits until the console says something, or the guest has ended. `false` if it takes too long.
    fn until(&mut self, patience: Duration, condition: impl Fn(&str) -> bool) -> bool {
        let end = Instant::now() + patience;
        while Instant::now() < end {
            if self.qemu.try_wait().unwrap().is_some() || condition(&self.said()) {
                return true;
            }
            std::thread::park_timeout(Duration::from_millis(100));
        }
        false
    }

    fn said(&self) -> String {
        read(self.console)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
