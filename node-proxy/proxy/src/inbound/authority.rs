//! What a tunnel peer may ask for: the address that it dialled, and nothing of the mesh's own.
//!
//! Source: `hbone_ip_mismatch` in Istio's node proxy. A request for another address than the one dialled would reach a pod
//! under policies and an identity that are not its own; a hostname or a Service address names no single application, so
//! these are for waypoints and gateways, which terminate their tunnels themselves and never get here.

use std::net::SocketAddr;

use weft_hbone::{Authority, HBONE_PORT};
use weft_types::address::canonical;

use crate::failure::Failure;

/// The application's address, if the request may be served.
pub(super) fn target(asked: &Authority, dialled: SocketAddr) -> Result<SocketAddr, Failure> {
    let mismatch = || Failure::Authority {
        asked: Box::new(asked.clone()),
        dialled,
    };
    let target = canonical(asked.address().ok_or_else(mismatch)?);
    if target.ip() != dialled.ip() {
        return Err(mismatch());
    }
    if target.port() == HBONE_PORT {
        return Err(Failure::MeshPort(HBONE_PORT));
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::target;
    use crate::failure::Failure;

    #[test]
    fn only_the_dialled_address_with_an_application_port_is_served() {
        let check = |asked: &str, dialled: &str, want: Option<&str>| {
            let result = target(&asked.parse().unwrap(), dialled.parse().unwrap());
            match (&result, want) {
                (Ok(got), Some(want)) => assert_eq!(got.to_string(), want),
                (Err(failure), None) => assert_eq!(failure.status(), 400, "{asked}"),
                _ => panic!("{asked} at {dialled}: {result:?}"),
            }
        };
        let v4 = "10.0.0.1:15008";
        check("10.0.0.1:80", v4, Some("10.0.0.1:80"));
        check("[::ffff:10.0.0.1]:80", v4, Some("10.0.0.1:80"));
        check("10.0.0.1:15001", v4, Some("10.0.0.1:15001"));
        check("10.0.0.2:80", v4, None);
        check("127.0.0.1:80", v4, None);
        check("0.0.0.0:80", v4, None);
        check("169.254.169.254:80", v4, None);
        check("[::1]:80", v4, None);
        check("10.0.0.1:15008", v4, None);
        check("web.default.svc.cluster.local:80", v4, None);
        check("[fd00::1]:80", "[fd00::1]:15008", Some("[fd00::1]:80"));
        check("[fd00::2]:80", "[fd00::1]:15008", None);
    }

    #[test]
    fn the_reason_names_what_was_asked_and_what_was_dialled() {
        let failure = target(
            &"10.0.0.2:80".parse().unwrap(),
            "10.0.0.1:15008".parse().unwrap(),
        )
        .unwrap_err();
        assert!(matches!(failure, Failure::Authority { .. }));
        assert_eq!(
            failure.to_string(),
            "the client asked for 10.0.0.2:80 at 10.0.0.1:15008"
        );
    }
}
