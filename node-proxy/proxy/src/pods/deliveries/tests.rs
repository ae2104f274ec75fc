//! Who gets a turn at once, who waits for what, and what is left afterwards.

use std::task::Poll;
use std::time::Duration;

use futures_util::poll;

use super::{DELIVERIES_MAX, DELIVERIES_TO_PORT_MAX, Deliveries, NoTurn, Turn};

/// Nothing here waits until it is over.
const AGES: Duration = Duration::from_hours(1);
const JAMMED: u16 = 9100;
const OTHER: u16 = 8080;

/// As many turns as there are at once, up to `count`.
async fn turns(of: &Deliveries, port: u16, count: usize) -> Vec<Turn<'_>> {
    let mut turns = Vec::new();
    while turns.len() < count {
        let Ok(turn) = of.turn(port, Duration::ZERO).await else {
            break;
        };
        turns.push(turn);
    }
    turns
}

#[tokio::test]
async fn a_jammed_port_leaves_room_for_others_however_many_wait_for_it() {
    let all = Deliveries::default();
    let mut jam = Vec::new();
    for _ in 0..3 * DELIVERIES_MAX {
        let mut turn = Box::pin(all.turn(JAMMED, AGES));
        let got = poll!(&mut turn);
        jam.push((turn, got));
    }
    let granted = jam.iter().filter(|(_, got)| got.is_ready()).count();
    assert_eq!(granted, DELIVERIES_TO_PORT_MAX);
    // Those that wait have none of the pod's.
    let left = DELIVERIES_MAX - DELIVERIES_TO_PORT_MAX;
    assert_eq!(all.pod.available_permits(), left);
    let others = turns(&all, OTHER, DELIVERIES_MAX).await;
    assert_eq!(others.len(), DELIVERIES_TO_PORT_MAX);
    drop(others);

    // The first to wait is the first to go on.
    let (_, freed) = jam.remove(0);
    drop(freed);
    let (first, _) = &mut jam[DELIVERIES_TO_PORT_MAX - 1];
    let Poll::Ready(Ok(turn)) = poll!(first) else {
        panic!("no turn for the first that waits");
    };
    let (second, _) = &mut jam[DELIVERIES_TO_PORT_MAX];
    assert!(poll!(second).is_pending());
    // What is given up, with a place or without, leaves nothing.
    drop(turn);
    drop(jam);
    assert_eq!(all.pod.available_permits(), DELIVERIES_MAX);
    assert!(all.lock().is_empty());
}

#[tokio::test]
async fn the_refusal_names_the_port_and_leaves_nothing() {
    let all = Deliveries::default();
    let jam = turns(&all, JAMMED, DELIVERIES_MAX).await;
    assert_eq!(jam.len(), DELIVERIES_TO_PORT_MAX);
    let refused = all.turn(JAMMED, Duration::ZERO).await.unwrap_err();
    let waited = Duration::ZERO;
    assert_eq!(
        refused,
        NoTurn::Port {
            port: JAMMED,
            waited
        }
    );
    assert!(refused.to_string().contains("64 connections to port 9100"));
    assert_eq!(all.lock()[&JAMMED].users, jam.len());
    drop(jam);
    assert!(all.lock().is_empty());
    all.turn(JAMMED, Duration::ZERO).await.unwrap();
    assert!(all.lock().is_empty());
}

#[tokio::test]
async fn all_ports_together_are_bounded_and_wait_for_each_other() {
    let all = Deliveries::default();
    let mut jam = Vec::new();
    for port in 1..=(DELIVERIES_MAX / DELIVERIES_TO_PORT_MAX) as u16 {
        jam.extend(turns(&all, port, DELIVERIES_MAX).await);
    }
    assert_eq!(jam.len(), DELIVERIES_MAX);
    let refused = all.turn(OTHER, Duration::ZERO).await.unwrap_err();
    let waited = Duration::ZERO;
    assert_eq!(refused, NoTurn::Pod { waited });
    assert!(!all.lock().contains_key(&OTHER));

    let mut waiting = Box::pin(all.turn(OTHER, AGES));
    assert!(poll!(&mut waiting).is_pending());
    // A turn of another port will do.
    drop(jam.pop());
    let turn = waiting.await.unwrap();
    assert!(all.turn(JAMMED, Duration::ZERO).await.is_err());
    drop((turn, jam));
    assert_eq!(all.pod.available_permits(), DELIVERIES_MAX);
    assert!(all.lock().is_empty());
}
