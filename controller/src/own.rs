//! The addresses at which the controller itself is reached, which no Service may have.
//!
//! In: flags, and the machine's interfaces where they say "all addresses". Out: addresses. Not here: who is told (`translate`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::config::Config;

/// Its own addresses as they are now: one that the machine gets later counts after the next start.
pub(crate) fn own_addresses(config: &Config) -> BTreeSet<IpAddr> {
    among(config, machine)
}

fn among(config: &Config, machine: impl FnOnce() -> Vec<IpAddr>) -> BTreeSet<IpAddr> {
    let listens = [
        Some(config.listen.ip()),
        config.metrics_address.map(|at| at.ip()),
    ];
    let listens = || listens.into_iter().flatten();
    let names = config.server_names.iter();
    let named = names.filter_map(|name| name.parse::<IpAddr>().ok());
    let mut own: BTreeSet<IpAddr> = named.chain(listens()).collect();
    let wildcards = listens().map(|address| address.to_canonical());
    let wildcards: Vec<IpAddr> = wildcards.filter(IpAddr::is_unspecified).collect();
    // `[::]` accepts connections over IPv4 as well.
    let serves = |address: &IpAddr| {
        let mut all = wildcards.iter();
        all.any(|wildcard| wildcard.is_ipv6() || address.is_ipv4())
    };
    if !wildcards.is_empty() {
        own.extend(machine().into_iter().filter(serves));
    }
    own.into_iter()
        .map(|address| address.to_canonical())
        .filter(|address| !address.is_unspecified())
        .collect()
}

/// The addresses of the machine's interfaces that are up and no dummies. The others carry what others answer for: kube-proxy
/// (IPVS) puts the addresses of Services on a dummy of every node that is down, kube-router on one that is up.
fn machine() -> Vec<IpAddr> {
    match weft_runtime::interface_addresses() {
        Ok(all) => all
            .into_iter()
            .filter(|address| address.is_up && !address.is_dummy)
            .map(|address| address.ip)
            .collect(),
        Err(error) => {
            tracing::warn!(%error, "cannot list the machine's addresses, and a Service may claim one of them; name them with --server-name");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::{Config, among};

    /// The machine's addresses are asked for, or not, and what comes of them.
    fn own(flags: &[&str]) -> Vec<String> {
        let needed = "weft-controller --source s --state-dir d --tokens t --root-cert-out r";
        let words = needed.split(' ').chain(flags.iter().copied());
        let config = Config::try_parse_from(words).unwrap();
        let machine = || vec!["192.0.2.7".parse().unwrap(), "fd00::7".parse().unwrap()];
        let own = among(&config, machine);
        own.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn who_listens_on_all_addresses_has_all_of_the_machine() {
        let machine = ["192.0.2.7", "fd00::7"];
        assert_eq!(own(&["--listen", "[::]:1"]), machine);
        let metrics = ["--listen", "10.0.0.1:1", "--metrics-address", "[::]:2"];
        assert_eq!(own(&metrics), ["10.0.0.1", "192.0.2.7", "fd00::7"]);
    }

    #[test]
    fn who_listens_on_all_addresses_of_ipv4_has_those_of_the_machine() {
        assert_eq!(own(&[]), ["192.0.2.7"], "the default");
        for all in ["0.0.0.0:1", "[::ffff:0.0.0.0]:1"] {
            assert_eq!(own(&["--listen", all]), ["192.0.2.7"], "{all}");
        }
        let both = ["--listen", "0.0.0.0:1", "--metrics-address", "[::]:2"];
        assert_eq!(own(&both), ["192.0.2.7", "fd00::7"]);
    }

    #[test]
    fn who_listens_on_one_address_has_that_one_and_those_that_flags_name() {
        let flags = ["--listen", "[::ffff:10.0.0.1]:1"];
        assert_eq!(own(&flags), ["10.0.0.1"]);
        let named = ["--server-name", "weft.example,10.0.0.9"];
        assert_eq!(own(&[flags, named].concat()), ["10.0.0.1", "10.0.0.9"]);
    }
}
