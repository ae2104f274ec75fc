//! Whether access records name the identities that pods really have.
//!
//! In: which address belongs to which identity, the text of a proxy's log. Out: records that say otherwise. A mesh
//! that presents, accepts or reports the wrong identity shows here whatever it did on the wire. Not here: where the
//! truth comes from, which must not be the mesh.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

/// What every access record begins with, after its time and level.
const RECORD: &str = " access connection ";

/// Which identities an address has had. Addresses that are not in it may be anybody.
#[derive(Clone, Debug, Default)]
pub struct Truth(HashMap<IpAddr, BTreeSet<String>>);

// === impl Truth ===

impl Truth {
    /// From now on an address may have this identity, too.
    pub fn learn(&mut self, address: IpAddr, identity: String) {
        self.0.entry(address).or_default().insert(identity);
    }

    /// How many records of a log name an identity of an address that is known, and those that name a wrong one.
    pub fn check<'a>(&self, log: &'a str) -> (u64, Vec<&'a str>) {
        let mut named = 0;
        let mut wrong = Vec::new();
        for record in log.lines().filter(|line| line.contains(RECORD)) {
            for (address, identity) in [("src.addr", "src.identity"), ("dst.addr", "dst.identity")]
            {
                let Some(identity) = field(record, identity) else {
                    continue;
                };
                let address = field(record, address).and_then(|text| text.parse().ok());
                let known = address.and_then(|at: SocketAddr| self.0.get(&at.ip().to_canonical()));
                if let Some(known) = known {
                    named += 1;
                    if !known.contains(identity) {
                        wrong.push(record);
                    }
                }
            }
        }
        (named, wrong)
    }
}

/// The value of a field of a record in text, without its quotes.
fn field<'a>(record: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = record.split_once(&format!(" {name}="))?;
    match rest.strip_prefix('"') {
        Some(quoted) => Some(quoted.split_once('"')?.0),
        None => rest.split(' ').next(),
    }
}

#[cfg(test)]
mod tests {
    use super::Truth;

    const RECORD: &str = "1970-01-01T00:00:00.012000Z info access connection complete src.addr=10.0.0.1:4000 \
        src.identity=\"spiffe://cluster.local/ns/default/sa/a\" dst.addr=[fd00::2]:15008 \
        dst.identity=\"spiffe://cluster.local/ns/default/sa/b\" direction=\"outbound\"\n";

    fn truth(a: &str, b: &str) -> Truth {
        let mut truth = Truth::default();
        for (address, account) in [("10.0.0.1", a), ("fd00::2", b)] {
            let identity = format!("spiffe://cluster.local/ns/default/sa/{account}");
            truth.learn(address.parse().unwrap(), identity);
        }
        truth
    }

    #[test]
    fn records_that_name_the_right_identities_pass_and_all_others_do_not() {
        assert_eq!(truth("a", "b").check(RECORD), (2, vec![]));
        assert_eq!(truth("c", "b").check(RECORD).1.len(), 1);
        assert_eq!(truth("b", "a").check(RECORD).1.len(), 2);
        assert_eq!(Truth::default().check(RECORD), (0, vec![]));
        assert_eq!(truth("c", "d").check("another line"), (0, vec![]));
    }
}
