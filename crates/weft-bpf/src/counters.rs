//! Reading the counters that every CPU keeps for itself.

#![expect(unsafe_code, reason = "hands memory to bpf(2)")]

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use crate::error::BpfError;
use crate::map::check_per_cpu_shape;
use crate::syscall::{self, ElementOp};

/// A per-CPU array of `u64`.
#[derive(Debug)]
pub struct Counters {
    fd: OwnedFd,
    cpus: usize,
}

impl Counters {
    /// Takes a descriptor, and checks that it is a per-CPU array of `u64`.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, BpfError> {
        check_per_cpu_shape(fd.as_fd(), size_of::<u32>(), size_of::<u64>())?;
        let possible =
            fs::read_to_string("/sys/devices/system/cpu/possible").map_err(|source| {
                BpfError::Kernel {
                    operation: "count possible CPUs",
                    source,
                }
            })?;
        Ok(Self {
            fd,
            cpus: possible_cpus(&possible),
        })
    }

    /// The sum of a counter over all CPUs.
    pub fn sum(&self, index: u32) -> Result<u64, BpfError> {
        let mut values = vec![0_u64; self.cpus];
        // SAFETY: the key is a u32, and the kernel writes one u64 for each possible CPU.
        let found = unsafe {
            syscall::element(
                ElementOp::Lookup,
                self.fd.as_fd(),
                (&raw const index).cast(),
                values.as_mut_ptr().cast(),
            )
        }
        .map_err(|error| BpfError::kernel("counter lookup", error))?;
        Ok(if found { values.iter().sum() } else { 0 })
    }
}

/// The highest number in a list like `0-3,8-11`, plus one: the kernel counts all CPUs up to the last possible one.
fn possible_cpus(list: &str) -> usize {
    list.trim()
        .split([',', '-'])
        .filter_map(|number| number.parse::<usize>().ok())
        .max()
        .map_or(1, |last| last + 1)
}

#[cfg(test)]
mod tests {
    use super::possible_cpus;

    #[test]
    fn cpu_lists_are_counted_to_their_last() {
        assert_eq!(possible_cpus("0-1\n"), 2);
        assert_eq!(possible_cpus("0\n"), 1);
        assert_eq!(possible_cpus("0-3,8-11\n"), 12);
    }
}
