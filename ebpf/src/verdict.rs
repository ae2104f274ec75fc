//! What happens to a connect and to a SYN.

use weft_ebpf_abi::{Endpoint, HBONE_PORT, Ip16, ListenerKind, PodValue, pod_flags};

/// What the connect hook does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outbound {
    /// Nothing: the kernel goes on as if there were no mesh.
    Pass,
    /// Nothing, unless `POD_ADDRESSES` does not hold the destination: then [`Outbound::Capture`].
    CaptureUnlessOwn(Ip16),
    /// Rewrite to this address of the pod.
    Capture(Ip16),
    /// Fail with ENETUNREACH: the pod has no address of that family, and without one the kernel would say the same
    /// but for link-local neighbours, which must not be reached around the mesh.
    Unreachable,
}

/// Where a SYN (or another segment without a connection) goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inbound {
    /// From this pod itself: to the outbound listener if it belongs to a capture, else to the application.
    Local,
    /// From elsewhere, unless a grant says otherwise.
    Remote(ListenerKind),
}

/// Judges the destination of a TCP connect of an enrolled pod.
#[inline(always)]
pub fn outbound(pod: &PodValue, destination: &Endpoint) -> Outbound {
    let ip = &destination.ip;
    if pod.flags & pod_flags::DRAINING != 0 || stays_untouched(ip) {
        return Outbound::Pass;
    }
    let own = if ip.is_v4() { pod.v4 } else { pod.v6 };
    if own.words() == ip.words() {
        return Outbound::Pass;
    }
    if own.is_empty() {
        return Outbound::Unreachable;
    }
    if pod.flags & pod_flags::MORE_ADDRESSES != 0 {
        return Outbound::CaptureUnlessOwn(own);
    }
    Outbound::Capture(own)
}

/// Judges a segment that looks for a listener in a pod. `source_is_own` asks `POD_ADDRESSES`, and is only called when needed.
#[inline(always)]
pub fn inbound(
    source: &Endpoint,
    destination: &Endpoint,
    source_is_own: impl FnOnce() -> bool,
) -> Inbound {
    // A pod that talks to its own address nearly always does so from that address.
    if source.ip.words() == destination.ip.words() || is_loopback(&source.ip) || source_is_own() {
        return Inbound::Local;
    }
    Inbound::Remote(if destination.port == HBONE_PORT {
        ListenerKind::Hbone
    } else {
        ListenerKind::Inbound
    })
}

/// Loopback, unspecified (the kernel takes it for loopback), multicast and broadcast (the kernel refuses them for TCP).
#[inline(always)]
fn stays_untouched(ip: &Ip16) -> bool {
    let words = ip.words();
    if ip.is_v4() {
        let v4 = u32::from_be(words[3]);
        return v4 == 0 || v4 >> 24 == 127 || v4 >> 28 == 0xe || v4 == u32::MAX;
    }
    let is_multicast = u32::from_be(words[0]) >> 24 == 0xff;
    let is_unspecified_or_loopback =
        words[0] | words[1] | words[2] == 0 && u32::from_be(words[3]) <= 1;
    is_multicast || is_unspecified_or_loopback
}

#[inline(always)]
fn is_loopback(ip: &Ip16) -> bool {
    let words = ip.words();
    if ip.is_v4() {
        return u32::from_be(words[3]) >> 24 == 127;
    }
    words[0] | words[1] | words[2] == 0 && u32::from_be(words[3]) == 1
}

#[cfg(test)]
mod tests {
    use super::{Inbound, Outbound, inbound, outbound};
    use core::net::{IpAddr, SocketAddr};
    use weft_ebpf_abi::{Endpoint, Ip16, ListenerKind, PodValue, pod_flags};

    fn ip(text: &str) -> Ip16 {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn endpoint(text: &str) -> Endpoint {
        text.parse::<SocketAddr>().unwrap().into()
    }

    fn pod() -> PodValue {
        PodValue {
            pod_id: 7,
            v4: ip("10.0.0.1"),
            v6: ip("fd00::1"),
            ..PodValue::default()
        }
    }

    #[test]
    fn connects_to_elsewhere_are_captured_to_the_own_address_of_the_same_family() {
        let check = |to: &str, own: &str| {
            assert_eq!(
                outbound(&pod(), &endpoint(to)),
                Outbound::Capture(ip(own)),
                "{to}"
            );
        };
        check("10.0.0.2:80", "10.0.0.1");
        check("[::ffff:10.0.0.2]:80", "10.0.0.1");
        check("8.8.8.8:15008", "10.0.0.1");
        check("169.254.169.254:80", "10.0.0.1");
        check("[fd00::2]:80", "fd00::1");
        check("[fe80::2]:80", "fd00::1");
        check("[::2]:80", "fd00::1");
    }

    #[test]
    fn loopback_own_and_impossible_destinations_are_untouched() {
        for to in [
            "127.0.0.1:80",
            "127.9.9.9:80",
            "[::ffff:127.0.0.1]:80",
            "[::1]:80",
            "0.0.0.0:80",
            "[::]:80",
            "10.0.0.1:80",
            "[::ffff:10.0.0.1]:80",
            "[fd00::1]:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "[ff02::1]:80",
        ] {
            assert_eq!(outbound(&pod(), &endpoint(to)), Outbound::Pass, "{to}");
        }
    }

    #[test]
    fn a_draining_pod_captures_nothing_more() {
        let pod = PodValue {
            flags: pod_flags::DRAINING,
            ..pod()
        };
        assert_eq!(outbound(&pod, &endpoint("10.0.0.2:80")), Outbound::Pass);
    }

    #[test]
    fn a_pod_with_more_addresses_asks_for_them() {
        let pod = PodValue {
            flags: pod_flags::MORE_ADDRESSES,
            ..pod()
        };
        assert_eq!(
            outbound(&pod, &endpoint("10.0.0.2:80")),
            Outbound::CaptureUnlessOwn(ip("10.0.0.1"))
        );
        assert_eq!(outbound(&pod, &endpoint("10.0.0.1:80")), Outbound::Pass);
    }

    #[test]
    fn a_family_without_address_is_unreachable_never_direct() {
        let pod = PodValue {
            v6: Ip16::default(),
            ..pod()
        };
        assert_eq!(
            outbound(&pod, &endpoint("[fd00::2]:80")),
            Outbound::Unreachable
        );
        assert_eq!(outbound(&pod, &endpoint("[::1]:80")), Outbound::Pass);
    }

    #[test]
    fn segments_from_the_pod_itself_are_local() {
        let check = |from: &str, to: &str, own: bool| {
            assert_eq!(
                inbound(&endpoint(from), &endpoint(to), || own),
                Inbound::Local,
                "{from} {to}"
            );
        };
        check("10.0.0.1:4000", "10.0.0.1:80", false);
        check("127.0.0.1:4000", "10.0.0.1:80", false);
        check("[::1]:4000", "[fd00::1]:80", false);
        check("10.0.0.9:4000", "10.0.0.1:15008", true);
    }

    #[test]
    fn segments_from_elsewhere_go_to_the_listener_of_their_port() {
        let check = |from: &str, to: &str, kind: ListenerKind| {
            assert_eq!(
                inbound(&endpoint(from), &endpoint(to), || false),
                Inbound::Remote(kind),
                "{from} {to}"
            );
        };
        check("10.0.0.2:4000", "10.0.0.1:80", ListenerKind::Inbound);
        check("10.0.0.2:15008", "10.0.0.1:15006", ListenerKind::Inbound);
        check("10.0.0.2:4000", "10.0.0.1:15008", ListenerKind::Hbone);
        check("[fd00::2]:4000", "[fd00::1]:15008", ListenerKind::Hbone);
    }
}
