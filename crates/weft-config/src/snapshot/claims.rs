//! Who claims a key (an address, a hostname). Nearly always one, which must not cost a list.

use std::cmp::Ordering;
use std::sync::Arc;

/// What can claim a key together with others of its kind.
pub(super) trait Claimant: Clone {
    /// Whether both are the same thing, maybe in different states.
    fn is(&self, other: &Self) -> bool;
    /// Which of two claims is the better one: the lesser.
    fn order(&self, other: &Self) -> Ordering;
}

/// The claimants of one key, at least one.
#[derive(Clone, Debug)]
pub(super) enum Claims<T> {
    One(Arc<T>),
    /// At least two, the best first.
    Many(Vec<Arc<T>>),
}

impl<T: Claimant> Claims<T> {
    pub(super) fn best(&self) -> &Arc<T> {
        match self {
            Self::One(only) => only,
            Self::Many(all) => &all[0],
        }
    }

    /// Adds a claimant that is not there yet; one may claim a key twice.
    pub(super) fn add(&mut self, claimant: Arc<T>) {
        let mut all = match self {
            Self::One(only) if only.is(&claimant) => return,
            Self::One(only) => vec![only.clone()],
            Self::Many(all) => std::mem::take(all),
        };
        if !all.iter().any(|one| one.is(&claimant)) {
            all.push(claimant);
        }
        all.sort_by(|a, b| a.order(b));
        *self = Self::Many(all);
    }

    /// Removes a claimant; false when nobody is left.
    pub(super) fn release(&mut self, gone: &T) -> bool {
        match self {
            Self::One(only) => !only.is(gone),
            Self::Many(all) => {
                all.retain(|one| !one.is(gone));
                if let [only] = all.as_slice() {
                    *self = Self::One(only.clone());
                }
                true
            }
        }
    }
}

/// A map from keys to their claimants. Ordered maps of `imbl` take a quarter of the memory of its hashed ones.
#[derive(Clone, Debug)]
pub(super) struct ClaimMap<K: Ord, T>(imbl::OrdMap<K, Claims<T>>);

impl<K: Ord, T> Default for ClaimMap<K, T> {
    fn default() -> Self {
        Self(imbl::OrdMap::new())
    }
}

impl<K: Ord + Clone, T: Claimant> ClaimMap<K, T> {
    pub(super) fn best<Q>(&self, key: &Q) -> Option<&Arc<T>>
    where
        Q: Ord + ?Sized,
        K: std::borrow::Borrow<Q>,
    {
        self.0.get(key).map(Claims::best)
    }

    pub(super) fn add(&mut self, key: K, claimant: Arc<T>) {
        match self.0.get_mut(&key) {
            Some(claims) => claims.add(claimant),
            None => {
                self.0.insert(key, Claims::One(claimant));
            }
        }
    }

    pub(super) fn release(&mut self, key: &K, gone: &T) {
        let left = self
            .0
            .get_mut(key)
            .is_some_and(|claims| claims.release(gone));
        if !left {
            self.0.remove(key);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
