//! One address, one workload. In: members. Out: members of which no two have the same address in the same network.
//!
//! Two workloads with one address would make it a matter of luck whose identity is expected there.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use weft_k8s_api::ObjectKey;
use weft_types::NetworkMode;

use super::finding::{Findings, Note, Reason};
use super::member::Member;

/// Who held an address in the last translation.
pub(crate) type Holders = BTreeMap<(Arc<str>, IpAddr), ObjectKey>;

/// Takes each address from all but one that claim it: the one that stays longer, held it before, is older, comes first by name.
pub(super) fn settle(members: &mut [Member], holders: &mut Holders, findings: &mut Findings) {
    let mut claims: HashMap<(Arc<str>, IpAddr), Vec<usize>> = HashMap::new();
    for (index, member) in members.iter().enumerate() {
        // Host addresses belong to the node, and are never used as an identity.
        if member.workload.network_mode == NetworkMode::HostNetwork {
            continue;
        }
        for address in &member.workload.addresses {
            let claim = (Arc::clone(&member.workload.network), *address);
            claims.entry(claim).or_default().push(index);
        }
    }
    let mut settled = Holders::new();
    for (claim, claimants) in claims {
        let before = holders.get(&claim);
        let rank = |index: &usize| {
            let member = &members[*index];
            let newcomer = before != Some(&member.key);
            (
                member.terminating,
                newcomer,
                member.created,
                member.key.clone(),
            )
        };
        let Some(winner) = claimants.iter().copied().min_by_key(rank) else {
            continue;
        };
        let holder = members[winner].key.clone();
        for loser in claimants.into_iter().filter(|index| *index != winner) {
            take(&mut members[loser], claim.1, &holder, findings);
        }
        settled.insert(claim, holder);
    }
    *holders = settled;
}

fn take(loser: &mut Member, address: IpAddr, holder: &ObjectKey, findings: &mut Findings) {
    loser.workload.addresses.retain(|own| *own != address);
    let pod = weft_k8s_api::Kind::Pod;
    findings.add(
        &loser.key,
        Note {
            field: if loser.key.kind == pod {
                "status.podIPs"
            } else {
                "spec.address"
            },
            reason: Reason::Conflicted,
            message: format!("address {address} is used by {holder}"),
            effect: "published without this address",
        },
    );
}
