//! Round trip, and damage of every kind.

use std::sync::Arc;
use std::time::SystemTime;

use super::{HandoverError, export, import};
use crate::testing::{HOUR, Root, WEB};

const DB: &str = "spiffe://cluster.local/ns/default/sa/db";

#[test]
fn all_that_was_exported_comes_back() {
    let root = Root::new("root");
    let all = [WEB, DB].map(|name| Arc::new(root.credentials(name)));
    let bytes = export(&all);
    let back = import(&bytes, SystemTime::now()).unwrap();
    assert_eq!(back.len(), 2);
    for (before, after) in all.iter().zip(&back) {
        assert_eq!(before.identity(), after.identity());
        assert_eq!(before.key().pkcs8(), after.key().pkcs8());
        assert_eq!(before.chain(), after.chain());
        assert_eq!(before.roots(), after.roots());
    }
    assert!(import(&export(&[]), SystemTime::now()).unwrap().is_empty());
}

#[test]
fn what_has_expired_meanwhile_is_left_out() {
    let bytes = export(&[Arc::new(Root::new("root").credentials(WEB))]);
    let later = SystemTime::now() + 2 * HOUR;
    assert!(import(&bytes, later).unwrap().is_empty());
}

#[test]
fn damage_is_refused_wherever_it_is() {
    let good = export(&[Arc::new(Root::new("root").credentials(WEB))]);
    let now = SystemTime::now();
    for at in 0..good.len() {
        let mut bytes = good.to_vec();
        bytes[at] ^= 0x20;
        assert!(import(&bytes, now).is_err(), "byte {at}");
        assert!(import(&good[..at], now).is_err(), "cut at {at}");
    }
    let mut longer = good.to_vec();
    longer.push(0);
    assert!(import(&longer, now).is_err());
    assert!(matches!(import(b"", now), Err(HandoverError::Foreign)));
    assert!(matches!(
        import(&[0; 4096], now),
        Err(HandoverError::Foreign)
    ));
}

#[test]
fn another_version_is_named() {
    let mut bytes = export(&[]).to_vec();
    bytes[9] = 9;
    assert_eq!(
        import(&bytes, SystemTime::now()).unwrap_err(),
        HandoverError::Version(9)
    );
}
