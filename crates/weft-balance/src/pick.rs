//! One pick.

use std::net::IpAddr;
use std::time::Instant;

use rand::Rng;

use crate::affinity::{self, Affinity};
use crate::candidates::{Candidates, Endpoint, EndpointId, NoEndpoint, Tier};
use crate::set_aside::SetAside;

/// Draws before a tier is walked: with half of a tier set aside, one in 256 picks walks.
const DRAWS_MAX: usize = 8;

/// What a pick depends on besides the candidates.
pub struct Ask<'a, L> {
    /// Address of the client, canonical.
    pub client: IpAddr,
    /// Monotonic time.
    pub now: Instant,
    /// Endpoints that failed for this very connection: never picked again.
    pub tried: &'a [EndpointId],
    /// Connections that are open to an endpoint, as far as the caller knows.
    pub in_flight: L,
    /// Endpoints to leave alone while there are others.
    pub set_aside: &'a SetAside,
    /// Session affinity; None chooses without.
    pub affinity: Option<&'a mut Affinity>,
}

/// Where a connection goes.
#[derive(Clone, Copy, Debug)]
pub enum Choice<'c> {
    /// To this endpoint.
    Endpoint(&'c Endpoint),
    /// To the address that the client dialled: a headless or passthrough service.
    AsDialled,
}

impl Candidates {
    /// Picks an endpoint.
    pub fn pick<L, R>(&self, mut ask: Ask<'_, L>, rng: &mut R) -> Result<Choice<'_>, NoEndpoint>
    where
        L: Fn(&Endpoint) -> u32,
        R: Rng + ?Sized,
    {
        if self.as_dialled {
            return Ok(Choice::AsDialled);
        }
        if self.tiers.is_empty() {
            return Err(self.empty);
        }
        let affinity = ask.affinity.take().filter(|_| self.affinity_secs > 0);
        let picked = match affinity {
            Some(affinity) => self.pick_sticky(&ask, affinity),
            None => self.nearest(&ask, |tier, usable| {
                tier.less_loaded_of_two(rng, usable, &ask.in_flight)
            }),
        };
        picked.map(Choice::Endpoint).ok_or(NoEndpoint::AllTried)
    }

    fn pick_sticky<L>(&self, ask: &Ask<'_, L>, affinity: &mut Affinity) -> Option<&Endpoint> {
        let known = affinity
            .known(self.key, ask.client, ask.now)
            .and_then(|id| self.endpoints().find(|endpoint| endpoint.id == id))
            .filter(|endpoint| !ask.was_tried(endpoint) && !ask.left_alone(endpoint));
        let endpoint = known.or_else(|| {
            self.nearest(ask, |tier, usable| {
                let endpoints = tier.endpoints.iter().filter(|endpoint| usable(endpoint));
                affinity::rendezvous(endpoints, ask.client)
            })
        })?;
        let until = affinity::end(ask.now, self.affinity_secs);
        affinity.keep(self.key, ask.client, endpoint.id, until, ask.now);
        Some(endpoint)
    }

    /// Chooses in the nearest tier that has something usable.
    /// When all that is left is set aside, it counts as usable again: worth a try rather than a refusal.
    fn nearest<'c, L>(
        &'c self,
        ask: &Ask<'_, L>,
        mut choose: impl FnMut(&'c Tier, &dyn Fn(&Endpoint) -> bool) -> Option<&'c Endpoint>,
    ) -> Option<&'c Endpoint> {
        let untried = |endpoint: &Endpoint| !ask.was_tried(endpoint);
        let usable = |endpoint: &Endpoint| untried(endpoint) && !ask.left_alone(endpoint);
        let mut among = |usable: &dyn Fn(&Endpoint) -> bool| {
            self.tiers.iter().find_map(|tier| choose(tier, usable))
        };
        among(&usable).or_else(|| among(&untried))
    }
}

impl<L> Ask<'_, L> {
    fn was_tried(&self, endpoint: &Endpoint) -> bool {
        self.tried.contains(&endpoint.id)
    }

    fn left_alone(&self, endpoint: &Endpoint) -> bool {
        self.set_aside.contains(endpoint.id, self.now)
    }
}

impl Tier {
    /// Power of two choices: two different endpoints drawn by weight, of which the less loaded for its weight.
    fn less_loaded_of_two<R: Rng + ?Sized>(
        &self,
        rng: &mut R,
        usable: &dyn Fn(&Endpoint) -> bool,
        in_flight: impl Fn(&Endpoint) -> u32,
    ) -> Option<&Endpoint> {
        let first = self.draw(rng, usable)?;
        if self.endpoints.len() == 1 {
            return Some(first);
        }
        let other = |endpoint: &Endpoint| endpoint.id != first.id && usable(endpoint);
        let Some(second) = self.draw(rng, &other) else {
            return Some(first);
        };
        // load / weight, compared crosswise.
        let load = |endpoint: &Endpoint| u64::from(in_flight(endpoint));
        let weight = |endpoint: &Endpoint| u64::from(endpoint.workload.capacity);
        let (of_first, of_second) = (load(first) * weight(second), load(second) * weight(first));
        // The first at a tie: it was drawn by weight, so that idle endpoints share by weight as well.
        Some(if of_second < of_first { second } else { first })
    }

    /// A random usable endpoint, in proportion to weight.
    fn draw<R: Rng + ?Sized>(
        &self,
        rng: &mut R,
        usable: &dyn Fn(&Endpoint) -> bool,
    ) -> Option<&Endpoint> {
        for _ in 0..DRAWS_MAX {
            let endpoint = &self.endpoints[self.draw_index(rng)];
            if usable(endpoint) {
                return Some(endpoint);
            }
        }
        let weight = |endpoint: &&Endpoint| u64::from(endpoint.workload.capacity);
        let left = || self.endpoints.iter().filter(|endpoint| usable(endpoint));
        let total: u64 = left().map(|endpoint| weight(&endpoint)).sum();
        let mut at = (total > 0).then(|| rng.random_range(0..total))?;
        left().find(|endpoint| {
            let here = weight(endpoint);
            let found = at < here;
            at = at.saturating_sub(here);
            found
        })
    }

    fn draw_index<R: Rng + ?Sized>(&self, rng: &mut R) -> usize {
        match self.cumulative.last() {
            None => rng.random_range(0..self.endpoints.len()),
            Some(total) => {
                let at = rng.random_range(0..*total);
                self.cumulative.partition_point(|sum| *sum <= at)
            }
        }
    }
}
