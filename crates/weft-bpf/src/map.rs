//! Typed access to a map through its descriptor.

#![expect(unsafe_code, reason = "hands typed memory to bpf(2)")]

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use weft_ebpf_abi::{ListenerKey, Plain};

use crate::error::BpfError;
use crate::syscall::{self, ElementOp};

/// A map whose keys are `K` and values are `V`, checked when it is made.
#[derive(Debug)]
pub struct Map<K, V> {
    fd: OwnedFd,
    types: PhantomData<fn() -> (K, V)>,
}

/// What a map may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapShape {
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Entries at most.
    pub max_entries: u32,
}

/// Whether an update may create, may replace, or both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpdateMode {
    /// Create or replace.
    #[default]
    Any,
    /// Create only (`EEXIST` otherwise).
    Create,
    /// Replace only (`ENOENT` otherwise).
    Replace,
}

/// `LISTENERS`: a sockhash that sockets are put into by descriptor.
#[derive(Debug)]
pub struct SocketHash {
    fd: OwnedFd,
}

// === impl Map ===

impl<K: Plain, V: Plain> Map<K, V> {
    /// Takes a descriptor, and checks that it is a map with keys and values of these sizes.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, BpfError> {
        check_shape(fd.as_fd(), size_of::<K>(), size_of::<V>())?;
        Ok(Self {
            fd,
            types: PhantomData,
        })
    }

    /// Reads the value of `key`, if there is one.
    pub fn lookup(&self, key: &K) -> Result<Option<V>, BpfError> {
        self.read(ElementOp::Lookup, key, "map lookup")
    }

    /// Removes the value of `key` and returns what it was (hash maps, kernel 5.14).
    pub fn take(&self, key: &K) -> Result<Option<V>, BpfError> {
        self.read(ElementOp::LookupAndDelete, key, "map lookup and delete")
    }

    /// Writes a value.
    pub fn update(&self, key: &K, value: &V, mode: UpdateMode) -> Result<(), BpfError> {
        // SAFETY: the shape was checked, so both are as long as the kernel reads.
        unsafe { syscall::update(self.fd.as_fd(), bytes(key), bytes(value), mode.flags()) }
            .map_err(|error| BpfError::kernel("map update", error))
    }

    /// Removes `key`. Returns whether it was there.
    pub fn delete(&self, key: &K) -> Result<bool, BpfError> {
        // SAFETY: the shape was checked, so the key is as long as the kernel reads.
        unsafe { syscall::delete(self.fd.as_fd(), bytes(key)) }
            .map_err(|error| BpfError::kernel("map delete", error))
    }

    /// All keys at about this moment; concurrent changes may or may not show.
    pub fn keys(&self) -> Result<Vec<K>, BpfError> {
        // A hash walk restarts when its current key is deleted meanwhile, so bound it by what the map can hold.
        let limit = self.shape()?.max_entries as usize;
        let mut keys = Vec::<K>::new();
        while keys.len() < limit {
            let last = keys.last().map_or(std::ptr::null(), bytes);
            let mut next = MaybeUninit::<K>::uninit();
            // SAFETY: the shape was checked: `last` (or null, for the first) and `next` are as long as a key.
            let more = unsafe {
                syscall::element(
                    ElementOp::NextKey,
                    self.fd.as_fd(),
                    last,
                    next.as_mut_ptr().cast(),
                )
            }
            .map_err(|error| BpfError::kernel("map next key", error))?;
            if !more {
                break;
            }
            // SAFETY: the kernel wrote a whole key, and every bit pattern is a valid `Plain`.
            keys.push(unsafe { next.assume_init() });
        }
        Ok(keys)
    }

    /// The map's sizes.
    pub fn shape(&self) -> Result<MapShape, BpfError> {
        shape(self.fd.as_fd())
    }

    fn read(&self, op: ElementOp, key: &K, name: &'static str) -> Result<Option<V>, BpfError> {
        let mut value = MaybeUninit::<V>::uninit();
        // SAFETY: the shape was checked, so both are as long as the kernel reads and writes.
        let found =
            unsafe { syscall::element(op, self.fd.as_fd(), bytes(key), value.as_mut_ptr().cast()) }
                .map_err(|error| BpfError::kernel(name, error))?;
        // SAFETY: the kernel wrote a whole value, and every bit pattern is a valid `Plain`.
        Ok(found.then(|| unsafe { value.assume_init() }))
    }
}

impl<K, V> AsFd for Map<K, V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

// === impl SocketHash ===

impl SocketHash {
    /// Takes a descriptor, and checks that it is a map with keys of this size and values of a socket's.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, BpfError> {
        check_shape(fd.as_fd(), size_of::<ListenerKey>(), size_of::<u32>())?;
        Ok(Self { fd })
    }

    /// Puts a listening TCP socket in, in place of the one that was there. It leaves by itself when it is closed.
    pub fn insert(&self, key: ListenerKey, socket: BorrowedFd<'_>) -> Result<(), BpfError> {
        use std::os::fd::AsRawFd;
        let value = socket.as_raw_fd() as u32;
        // SAFETY: the shape was checked, so both are as long as the kernel reads.
        unsafe {
            syscall::update(
                self.fd.as_fd(),
                bytes(&key),
                bytes(&value),
                UpdateMode::Any.flags(),
            )
        }
        .map_err(|error| BpfError::kernel("listener insert", error))
    }

    /// Takes a socket out. Returns whether it was there.
    pub fn remove(&self, key: ListenerKey) -> Result<bool, BpfError> {
        // SAFETY: the shape was checked, so the key is as long as the kernel reads.
        match unsafe { syscall::delete(self.fd.as_fd(), bytes(&key)) } {
            // A sockhash says EINVAL where other maps say ENOENT.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            other => other.map_err(|error| BpfError::kernel("listener remove", error)),
        }
    }
}

impl AsFd for SocketHash {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

// === impl UpdateMode ===

impl UpdateMode {
    fn flags(self) -> u64 {
        match self {
            Self::Any => 0,
            Self::Create => 1,
            Self::Replace => 2,
        }
    }
}

/// Entries of any hash at about this moment, whatever its keys are, and how many it can hold.
pub fn count_entries(fd: BorrowedFd<'_>) -> Result<(usize, usize), BpfError> {
    let shape = shape(fd)?;
    let mut last: Option<Vec<u8>> = None;
    let mut next = vec![0_u8; shape.key_size as usize];
    let capacity = shape.max_entries as usize;
    for count in 0..capacity {
        let from = last.as_ref().map_or(std::ptr::null(), Vec::as_ptr);
        // SAFETY: both buffers (or null, for the first) are as long as a key.
        let more = unsafe { syscall::element(ElementOp::NextKey, fd, from, next.as_mut_ptr()) }
            .map_err(|error| BpfError::kernel("map next key", error))?;
        if !more {
            return Ok((count, capacity));
        }
        last.get_or_insert_with(|| next.clone())
            .copy_from_slice(&next);
    }
    Ok((capacity, capacity))
}

pub(crate) fn check_shape(fd: BorrowedFd<'_>, key: usize, value: usize) -> Result<(), BpfError> {
    check(fd, key, value, false)
}

pub(crate) fn check_per_cpu_shape(
    fd: BorrowedFd<'_>,
    key: usize,
    value: usize,
) -> Result<(), BpfError> {
    check(fd, key, value, true)
}

/// The sizes alone would not do: the kernel copies one value for each CPU out of a per-CPU map.
fn check(fd: BorrowedFd<'_>, key: usize, value: usize, per_cpu: bool) -> Result<(), BpfError> {
    let head = syscall::map_info(fd).map_err(|error| BpfError::kernel("map info", error))?;
    let (want_key, want_value) = (key as u32, value as u32);
    let is_per_cpu = PER_CPU_KINDS.contains(&head.kind);
    if (head.key_size, head.value_size, is_per_cpu) == (want_key, want_value, per_cpu) {
        return Ok(());
    }
    Err(BpfError::Shape {
        want_key,
        want_value,
        key: head.key_size,
        value: head.value_size,
    })
}

/// `BPF_MAP_TYPE_PERCPU_HASH`, `_PERCPU_ARRAY`, `_LRU_PERCPU_HASH`, `_PERCPU_CGROUP_STORAGE`.
const PER_CPU_KINDS: [u32; 4] = [5, 6, 10, 21];

fn shape(fd: BorrowedFd<'_>) -> Result<MapShape, BpfError> {
    let head = syscall::map_info(fd).map_err(|error| BpfError::kernel("map info", error))?;
    Ok(MapShape {
        key_size: head.key_size,
        value_size: head.value_size,
        max_entries: head.max_entries,
    })
}

fn bytes<T>(value: &T) -> *const u8 {
    std::ptr::from_ref(value).cast()
}
