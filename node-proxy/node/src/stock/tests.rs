//! The stock of sockets: what it gives, when it refills, what it drops.

use weft_node_api::Family;
use weft_types::PodUid;

use super::{Stock, TARGET_MIN, TOTAL_MAX};

/// Makes whatever is ordered at once.
fn fill(stock: &mut Stock<u32>) -> usize {
    let mut made = 0;
    loop {
        let orders = stock.orders();
        if orders.is_empty() {
            return made;
        }
        for order in orders {
            made += order.count;
            stock.deliver(&order, vec![0; order.count]);
        }
    }
}

fn pod(stock: &mut Stock<u32>, name: &str) -> PodUid {
    let uid = PodUid::from(name);
    stock.open(&uid, &[Family::V4]);
    uid
}

#[test]
fn a_quiet_pod_has_a_small_stock_of_its_own_family_only() {
    let mut stock = Stock::new();
    let uid = pod(&mut stock, "a");
    fill(&mut stock);
    assert_eq!(stock.count(&uid), (TARGET_MIN, 0));
}

#[test]
fn the_stock_follows_demand_up_and_down() {
    let mut stock = Stock::new();
    let uid = pod(&mut stock, "a");
    for of in 0..20 {
        assert!(stock.ask(of, &uid, Family::V4, 64));
        fill(&mut stock);
        let answers = stock.answers();
        assert_eq!(answers.len(), 1);
        assert!(!answers[0].sockets.is_empty());
        fill(&mut stock);
    }
    let busy = stock.count(&uid).0;
    assert!(busy > TARGET_MIN * 4, "{busy}");
    for _ in 0..20 {
        stock.tick();
    }
    assert_eq!(stock.count(&uid).0, TARGET_MIN);
    assert_eq!(stock.total(), TARGET_MIN);
}

#[test]
fn a_request_waits_until_sockets_come_and_is_returned_when_they_cannot() {
    let mut stock = Stock::new();
    let uid = pod(&mut stock, "a");
    stock.ask(1, &uid, Family::V6, 2);
    assert!(stock.answers().is_empty());
    let order = stock
        .orders()
        .into_iter()
        .find(|order| order.family == Family::V6)
        .unwrap();
    assert_eq!(stock.fail(&order), [1]);
    stock.ask(2, &uid, Family::V4, 2);
    assert_eq!(stock.close(&uid), [2]);
}

#[test]
fn many_pods_stay_below_the_limit_and_requests_are_still_served() {
    let mut stock = Stock::new();
    let pods: Vec<PodUid> = (0..TOTAL_MAX)
        .map(|i| pod(&mut stock, &i.to_string()))
        .collect();
    fill(&mut stock);
    assert!(stock.total() <= TOTAL_MAX + TARGET_MIN);
    let last = pods.last().unwrap();
    stock.ask(1, last, Family::V4, 1);
    fill(&mut stock);
    assert_eq!(stock.answers().len(), 1);
}
