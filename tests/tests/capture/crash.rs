//! The death of an agent at any step of its work, without an agent.
//!
//! Method: the work runs on a thread of its own under a seccomp filter that reports every system call by which state outlives a
//! process: pins made and removed, links made, updated and detached, map entries written and deleted. The first calls go on; from a chosen
//! one on all fail. For the kernel that is a process that was killed there: nothing it did after that point had an effect, and
//! what it held is closed.

#![expect(
    unsafe_code,
    reason = "a seccomp listener (kernel 5.0) has no safe wrapper"
)]

use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::mpsc;

use rustix::event::{PollFd, PollFlags, poll};

/// Commands of bpf(2) that change what outlives the process, by name.
const COMMANDS: [(u32, &str); 7] = [
    (2, "map update"),
    (3, "map delete"),
    (6, "pin"),
    (21, "map take"),
    (28, "link create"),
    (29, "link update"),
    (34, "link detach"),
];

/// System calls that change the folders of the pins, by name.
const FOLDERS: &[(libc::c_long, &str)] = &[
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, "mkdir"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rmdir, "rmdir"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, "unlink"),
    (libc::SYS_mkdirat, "mkdir"),
    (libc::SYS_unlinkat, "unlink"),
];

/// What the work of one life did.
pub(crate) struct Life<T> {
    /// Its result; an error when it was cut off.
    pub(crate) outcome: T,
    /// Steps that it took, the ones that failed left out.
    pub(crate) steps: Vec<&'static str>,
    /// Whether a step failed.
    pub(crate) died: bool,
}

/// Lets `work` take this many steps and no more.
pub(crate) fn live_for<T: Send>(allowed: usize, work: impl FnOnce() -> T + Send) -> Life<T> {
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        let worker = scope.spawn(move || {
            sender.send(listen().unwrap()).unwrap();
            work()
        });
        let (steps, died) = supervise(&receiver.recv().unwrap(), allowed);
        Life {
            outcome: worker.join().unwrap(),
            steps,
            died,
        }
    })
}

/// Answers until the filtered thread has ended.
fn supervise(listener: &OwnedFd, allowed: usize) -> (Vec<&'static str>, bool) {
    let mut steps = Vec::new();
    let mut died = false;
    loop {
        let mut polled = [PollFd::new(listener, PollFlags::IN)];
        if poll(&mut polled, None).is_err() {
            continue;
        }
        // Hang-up: nobody is under the filter any more.
        if !polled[0].revents().contains(PollFlags::IN) {
            return (steps, died);
        }
        let Ok(call) = receive(listener) else {
            continue;
        };
        let goes_on = steps.len() < allowed;
        if goes_on {
            steps.push(name(&call.data));
        } else {
            died = true;
        }
        let answer = libc::seccomp_notif_resp {
            id: call.id,
            val: 0,
            error: if goes_on { 0 } else { -libc::EIO },
            flags: if goes_on {
                libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32
            } else {
                0
            },
        };
        send(listener, &answer).unwrap();
    }
}

fn name(call: &libc::seccomp_data) -> &'static str {
    if i64::from(call.nr) == libc::SYS_bpf {
        let command = COMMANDS
            .iter()
            .find(|(of, _)| u64::from(*of) == call.args[0]);
        return command.expect("the filter lets no other through").1;
    }
    let folder = FOLDERS.iter().find(|(nr, _)| *nr == i64::from(call.nr));
    folder.expect("the filter lets no other through").1
}

/// Puts the calling thread under the filter, for good, and returns the other end.
fn listen() -> io::Result<OwnedFd> {
    let mut program = filter();
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the program and its instructions live across the call; the kernel copies them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}

/// Load the call; for bpf(2) the command; report those that are listed, let the others pass.
fn filter() -> Vec<libc::sock_filter> {
    let load = |offset: usize| {
        (
            libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
            0,
            0,
            offset as u32,
        )
    };
    let end = |action: u32| (libc::BPF_RET | libc::BPF_K, 0, 0, action);
    let jump = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let (commands, folders) = (COMMANDS.len(), FOLDERS.len());
    let mut program = vec![
        load(offset_of!(libc::seccomp_data, nr)),
        (jump, 0, commands + 2, libc::SYS_bpf as u32),
        // The lower half comes first on a little-endian machine.
        load(offset_of!(libc::seccomp_data, args)),
    ];
    for (index, (command, _)) in COMMANDS.iter().enumerate() {
        let to_report = (commands - index - 1) + 1 + folders + 1;
        program.push((jump, to_report, 0, *command));
    }
    program.push(end(libc::SECCOMP_RET_ALLOW));
    for (index, (number, _)) in FOLDERS.iter().enumerate() {
        program.push((jump, folders - index, 0, *number as u32));
    }
    program.push(end(libc::SECCOMP_RET_ALLOW));
    program.push(end(libc::SECCOMP_RET_USER_NOTIF));
    program
        .into_iter()
        .map(|(code, jt, jf, k)| libc::sock_filter {
            code: code as u16,
            jt: jt as u8,
            jf: jf as u8,
            k,
        })
        .collect()
}

fn receive(listener: &OwnedFd) -> io::Result<libc::seccomp_notif> {
    // SAFETY: made of integers only; the kernel wants it zeroed.
    let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    request(listener, 0, &mut call)?;
    Ok(call)
}

fn send(listener: &OwnedFd, answer: &libc::seccomp_notif_resp) -> io::Result<()> {
    let mut answer = *answer;
    request(listener, 1, &mut answer)
}

/// `_IOWR('!', number, T)`: the requests of a seccomp listener.
fn request<T>(listener: &OwnedFd, number: libc::c_ulong, value: &mut T) -> io::Result<()> {
    const READ_AND_WRITE: libc::c_ulong = 3;
    let size = size_of::<T>() as libc::c_ulong;
    let code = (READ_AND_WRITE << 30) | (size << 16) | (libc::c_ulong::from(b'!') << 8) | number;
    // SAFETY: the pointer is to a live value of the size that is part of the request.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), code, std::ptr::from_mut(value)) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
