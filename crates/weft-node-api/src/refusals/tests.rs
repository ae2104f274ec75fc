//! Teller and hearer against each other, and against what neither would send.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Hearer, PART_MAX, REFUSALS_MAX, RefusalChange, Refused, RefusedSet, Teller};
use crate::message::{Message, PACKET_MAX};

fn refusal(number: usize) -> Refused {
    let address = std::net::Ipv4Addr::from(u32::try_from(number).unwrap() + 0x0a60_0000);
    Refused::from((address.into(), 80))
}

fn set(numbers: std::ops::Range<usize>) -> RefusedSet {
    Arc::new(numbers.map(refusal).collect())
}

fn parts(teller: &mut Teller) -> Vec<RefusalChange> {
    teller.parts()
}

fn pass(teller: &mut Teller, hearer: &mut Hearer) -> usize {
    let parts = parts(teller);
    for part in parts.clone() {
        hearer.take(&part).unwrap();
    }
    teller.acknowledged();
    parts.len()
}

#[test]
fn a_set_arrives_whole_and_then_by_what_differs() {
    let (mut teller, mut hearer) = (Teller::default(), Hearer::default());
    assert_eq!(pass(&mut teller, &mut hearer), 0, "nothing is known yet");
    teller.want(set(0..10));
    assert_eq!(pass(&mut teller, &mut hearer), 10_usize.div_ceil(PART_MAX));
    assert_eq!(*hearer.set(), set(0..10));
    teller.want(set(1..11));
    let change = parts(&mut teller);
    assert_eq!(change.len(), 1);
    assert_eq!(
        (change[0].remove.clone(), change[0].add.clone()),
        (vec![refusal(0)], vec![refusal(10)])
    );
    assert_eq!(hearer.take(&change[0]), Ok(true));
    assert_eq!(*hearer.set(), set(1..11));
}

#[test]
fn no_part_takes_effect_before_the_last() {
    let (mut teller, mut hearer) = (Teller::default(), Hearer::default());
    teller.want(set(0..PART_MAX * 3));
    let (last, first) = parts(&mut teller)
        .split_last()
        .map(|(l, f)| (l.clone(), f.to_vec()))
        .unwrap();
    for part in first {
        assert_eq!(hearer.take(&part), Ok(false));
        assert!(hearer.set().is_empty());
    }
    assert_eq!(hearer.take(&last), Ok(true));
    assert_eq!(*hearer.set(), set(0..PART_MAX * 3));
}

#[test]
fn what_is_wanted_while_a_change_is_under_way_is_one_change_later() {
    let (mut teller, mut hearer) = (Teller::default(), Hearer::default());
    teller.want(set(0..1));
    let first = parts(&mut teller);
    for end in 2..100 {
        teller.want(set(0..end));
        assert!(parts(&mut teller).is_empty());
    }
    teller.want(set(0..2));
    hearer.take(&first[0]).unwrap();
    teller.acknowledged();
    assert_eq!(pass(&mut teller, &mut hearer), 1);
    assert_eq!(*hearer.set(), set(0..2));
    teller.want(set(0..2));
    assert!(parts(&mut teller).is_empty(), "the peer has it");
}

#[test]
fn a_new_connection_starts_with_the_whole_set_and_an_empty_one_is_told_too() {
    let (mut teller, mut hearer) = (Teller::default(), Hearer::default());
    teller.want(set(0..5));
    pass(&mut teller, &mut hearer);
    // The next proxy: another teller, whose set is empty.
    let mut next = Teller::default();
    hearer.restart();
    assert_eq!(*hearer.set(), set(0..5), "the last known ones stay");
    next.want(set(0..0));
    assert_eq!(pass(&mut next, &mut hearer), 1);
    assert!(hearer.set().is_empty());
    // The connection breaks within a change; the half is forgotten.
    next.want(set(0..PART_MAX * 2));
    hearer.take(&parts(&mut next)[0]).unwrap();
    next.restart();
    hearer.restart();
    assert!(hearer.set().is_empty());
    pass(&mut next, &mut hearer);
    assert_eq!(*hearer.set(), set(0..PART_MAX * 2));
}

#[test]
fn a_peer_that_refuses_a_part_hears_no_more_until_it_connects_again() {
    let mut teller = Teller::default();
    teller.want(set(0..1));
    assert_eq!(parts(&mut teller).len(), 1);
    teller.refused();
    teller.want(set(0..2));
    assert!(parts(&mut teller).is_empty());
    teller.restart();
    assert_eq!(parts(&mut teller).len(), 1);
}

#[test]
fn more_than_the_map_holds_and_changes_of_nothing_are_refused_and_change_nothing() {
    let mut hearer = Hearer::default();
    let part = |generation, base, more, numbers: std::ops::Range<usize>| RefusalChange {
        generation,
        base,
        more,
        remove: Vec::new(),
        add: numbers.map(refusal).collect(),
    };
    assert!(hearer.take(&part(1, Some(0), false, 0..1)).is_err());
    assert_eq!(hearer.take(&part(2, None, false, 0..3)), Ok(true));
    assert!(hearer.take(&part(3, Some(1), false, 3..4)).is_err());
    // A set that grows for ever, part by part.
    let size = 1000;
    let mut refused = false;
    for number in 0..REFUSALS_MAX / size + 2 {
        let numbers = number * size..(number + 1) * size;
        refused |= hearer.take(&part(4, Some(2), true, numbers)).is_err();
        let staged = hearer.staged.as_ref().map_or(0, |(_, staged)| staged.len());
        assert!(staged <= REFUSALS_MAX);
    }
    assert!(refused);
    assert_eq!(*hearer.set(), set(0..3));
    assert_eq!(
        hearer.take(&part(5, None, false, 0..1)),
        Ok(true),
        "a whole set heals it"
    );
    // The limit itself is fine.
    assert_eq!(
        hearer.take(&part(6, None, false, 0..REFUSALS_MAX)),
        Ok(true)
    );
}

#[test]
fn the_largest_part_fits_into_a_packet_and_a_mapped_address_is_its_plain_one() {
    let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap();
    let entry = Refused::from((longest, u16::MAX));
    let part = Message::Refusals(RefusalChange {
        generation: u64::MAX,
        base: Some(u64::MAX),
        more: true,
        remove: Vec::new(),
        add: vec![entry; 512],
    });
    assert!(serde_json::to_vec(&part).unwrap().len() < PACKET_MAX / 2);
    let mapped: Refused = serde_json::from_str(r#"["::ffff:10.96.0.1",80]"#).unwrap();
    let plain: Refused = serde_json::from_str(r#"["10.96.0.1",80]"#).unwrap();
    assert_eq!(mapped, plain);
    assert_eq!(BTreeSet::from([mapped, plain]).len(), 1);
}
