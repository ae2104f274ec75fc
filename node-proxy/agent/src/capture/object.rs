//! The object: from bytes in this executable to loaded programs on pinned maps.

use std::path::PathBuf;

use aya::programs::{CgroupSockAddr, Program, ProgramError, ProgramFd, SkLookup, SockOps};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use weft_ebpf_abi::{map_names, program_names};

use super::MapSizes;
use super::error::CaptureError;
use super::pins::Pins;
use super::probe;

static OBJECT: &[u8] = include_bytes_aligned!("../../bpf/weft.bpf.o");

/// Addresses and listeners for each pod: three listeners, and v4, v6, link-local and one more.
const PER_POD: u32 = 4;

/// Parses the object. Maps that are pinned are taken, others are made and pinned; no program is loaded yet.
pub(crate) fn load(pins: &Pins, sizes: &MapSizes) -> Result<Ebpf, CaptureError> {
    parse(pins, sizes, 0, Steering::All)
}

/// What a pod's `lookup` hands to the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Steering {
    /// All TCP.
    All,
    /// Tunnels, and captures in flight: the pod leaves the mesh.
    TunnelsOnly,
}

/// Loads the `lookup` instance of a pod. The maps must be pinned already, so sizes play no part.
pub(crate) fn load_lookup(
    pins: &Pins,
    pod_id: u32,
    steering: Steering,
) -> Result<ProgramFd, CaptureError> {
    let mut object = parse(pins, &MapSizes::default(), pod_id, steering)?;
    load_program(&mut object, program_names::LOOKUP)
}

/// Loads one program, which is when the verifier sees it.
pub(crate) fn load_program(
    object: &mut Ebpf,
    name: &'static str,
) -> Result<ProgramFd, CaptureError> {
    let program = object
        .program_mut(name)
        .ok_or(CaptureError::NoProgram(name))?;
    let loaded = match program {
        Program::CgroupSockAddr(program) => {
            load_with(program, CgroupSockAddr::load, CgroupSockAddr::fd)
        }
        Program::SockOps(program) => load_with(program, SockOps::load, SockOps::fd),
        Program::SkLookup(program) => load_with(program, SkLookup::load, SkLookup::fd),
        _ => return Err(CaptureError::NoProgram(name)),
    };
    loaded.map_err(|error| CaptureError::ProgramRefused {
        program: name,
        reason: reason(&error),
    })
}

fn load_with<P>(
    program: &mut P,
    load: impl FnOnce(&mut P) -> Result<(), ProgramError>,
    fd: impl FnOnce(&P) -> Result<&ProgramFd, ProgramError>,
) -> Result<ProgramFd, ProgramError> {
    load(program)?;
    Ok(fd(program)?.try_clone()?)
}

/// No kernel BTF: none of our program types is relocated against it, and reading it costs more than all the rest.
fn parse(
    pins: &Pins,
    sizes: &MapSizes,
    pod_id: u32,
    steering: Steering,
) -> Result<Ebpf, CaptureError> {
    let paths: Vec<(&str, PathBuf)> = map_names::ALL
        .into_iter()
        .map(|name| (name, pins.map(name)))
        .collect();
    let has_mptcp = u32::from(probe::has_mptcp());
    let tunnels_only = u32::from(steering == Steering::TunnelsOnly);
    let mut loader = EbpfLoader::new();
    loader
        .btf(None)
        .override_global(program_names::POD_ID_GLOBAL, &pod_id, true)
        .override_global(program_names::HAS_MPTCP_GLOBAL, &has_mptcp, true)
        .override_global(program_names::TUNNELS_ONLY_GLOBAL, &tunnels_only, true)
        .map_max_entries(map_names::CAPTURES, sizes.captures)
        .map_max_entries(map_names::CLIENTS, sizes.clients)
        .map_max_entries(map_names::PODS, sizes.pods)
        .map_max_entries(map_names::POD_ADDRESSES, sizes.pods.saturating_mul(PER_POD))
        .map_max_entries(map_names::LISTENERS, sizes.pods.saturating_mul(PER_POD))
        .map_max_entries(map_names::REFUSALS, sizes.refusals);
    for (name, path) in &paths {
        loader.map_pin_path(name, path.as_path());
    }
    loader
        .load(OBJECT)
        .map_err(|error| CaptureError::Object(Box::new(error)))
}

/// The end of the verifier's log says why; the rest is the program.
fn reason(error: &ProgramError) -> String {
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    else {
        return error.to_string();
    };
    let log = verifier_log.to_string();
    let last: Vec<&str> = log
        .lines()
        .filter(|line| !line.starts_with("processed "))
        .collect();
    let tail = last[last.len().saturating_sub(2)..].join("; ");
    format!("{io_error}: {tail}")
}
