//! Addresses of network interfaces.
//!
//! In: the network namespace of the calling thread. Out: every IP address there, and what is told of its interface.
//! Not here: which of them count.

#![expect(unsafe_code, reason = "getifaddrs has no safe wrapper here")]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr;

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The address.
    pub ip: IpAddr,
    /// Whether somebody has set its interface up.
    pub is_up: bool,
    /// Whether its interface has the flags of the kernel's dummy driver, through which nothing comes and goes.
    pub is_dummy: bool,
}

/// All addresses of the thread's network namespace, loopback ones too.
pub fn interface_addresses() -> io::Result<Vec<InterfaceAddress>> {
    let mut list: *mut libc::ifaddrs = ptr::null_mut();
    // SAFETY: list is valid for a write; on success it owns a list that freeifaddrs below releases.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = Vec::new();
    let mut next = list;
    while !next.is_null() {
        // SAFETY: next is an element of the list, which lives until freeifaddrs.
        let entry = unsafe { &*next };
        // SAFETY: ifa_addr is null or points to a socket address of the size that its family says.
        if let Some(ip) = unsafe { ip_of(entry.ifa_addr) } {
            let flags = entry.ifa_flags.cast_signed();
            found.push(InterfaceAddress {
                ip,
                is_up: flags & libc::IFF_UP != 0,
                is_dummy: is_dummy(flags),
            });
        }
        next = entry.ifa_next;
    }
    // SAFETY: list came from getifaddrs and nothing borrows from it any more.
    unsafe { libc::freeifaddrs(list) };
    Ok(found)
}

/// The driver's name is not among the flags. IPVLAN in its L3 modes has no ARP either, but multicast, which a dummy has not.
fn is_dummy(flags: libc::c_int) -> bool {
    let asked = libc::IFF_BROADCAST | libc::IFF_NOARP | libc::IFF_MULTICAST;
    flags & asked == libc::IFF_BROADCAST | libc::IFF_NOARP
}

/// # Safety
/// `address` is null, or points to a socket address of the size that belongs to its family.
unsafe fn ip_of(address: *const libc::sockaddr) -> Option<IpAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: not null, so it points at least to a family, by the caller's promise.
    match i32::from(unsafe { (*address).sa_family }) {
        libc::AF_INET => {
            // SAFETY: the family says sockaddr_in; read_unaligned asks for no alignment.
            let v4 = unsafe { ptr::read_unaligned(address.cast::<libc::sockaddr_in>()) };
            Some(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says sockaddr_in6; read_unaligned asks for no alignment.
            let v6 = unsafe { ptr::read_unaligned(address.cast::<libc::sockaddr_in6>()) };
            Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}
