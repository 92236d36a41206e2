//! Which tipsets lie below the head, and which of them gave way to others. Pure.

use std::collections::VecDeque;

use super::wire::{Link, Tipset, TipsetKey};
use crate::chain::{ChainEpoch, Reorgs};

/// Tipsets that are remembered, and the most that are fetched to join a new head to them: finality, in
/// epochs, and some more.
pub(super) const REMEMBERED_MAX: usize = 1_000;

/// The chain below the head, as far as this process has seen it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Follower {
    /// Oldest first.
    seen: VecDeque<(ChainEpoch, TipsetKey)>,
    reorgs: Reorgs,
}

impl Follower {
    /// What was replaced so far.
    pub(super) const fn reorgs(&self) -> Reorgs {
        self.reorgs
    }

    /// Whether `head` is the head that was seen last.
    pub(super) fn is_head(&self, head: &Tipset) -> bool {
        self.seen.back().is_some_and(|(_, key)| *key == head.cids)
    }

    /// Whether it is known what lies below `tipset`, so that nothing more need be fetched.
    pub(super) fn joins(&self, tipset: &Tipset) -> bool {
        let below = tipset.parents();
        self.seen.is_empty()
            || below.is_empty()
            || self.position(&tipset.cids).is_some()
            || self.position(below).is_some()
    }

    /// Takes a new head: `path` is the head and, in turn, what lies below it, down to one that
    /// [`Follower::joins`], or as far as was fetched.
    pub(super) fn take(&mut self, path: Vec<Tipset>) {
        let Some(lowest) = path.last() else { return };
        // The head may have moved back to what lay below it.
        let stays = self.position(&lowest.cids).or_else(|| self.position(lowest.parents()));
        match stays {
            Some(index) if index + 1 == self.seen.len() => {}
            Some(index) => {
                let from = self.seen[index].0 + 1;
                self.reorgs = Reorgs { count: self.reorgs.count + 1, from };
                self.seen.truncate(index + 1);
            }
            None if self.seen.is_empty() => {}
            None => {
                // Which epochs gave way is not known: a number is skipped.
                self.reorgs = Reorgs { count: self.reorgs.count + 2, from: lowest.height };
                self.seen.clear();
            }
        }
        for tipset in path.into_iter().rev() {
            if self.position(&tipset.cids).is_none() {
                self.seen.push_back((tipset.height, tipset.cids));
            }
        }
        let surplus = self.seen.len().saturating_sub(REMEMBERED_MAX);
        self.seen.drain(..surplus);
    }

    /// Where the tipset of this key is; new ones are looked for most.
    fn position(&self, key: &[Link]) -> Option<usize> {
        self.seen.iter().rposition(|(_, seen)| seen.as_slice() == key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::lotus::wire::Block;
    use crate::chain::randomness::blake2b256;
    use cid::Cid;
    use cid::multihash::Multihash;

    fn link(name: &str) -> Link {
        let hash = Multihash::wrap(0xb220, &blake2b256(name.as_bytes())).unwrap();
        Link(Cid::new_v1(fvm_ipld_encoding::DAG_CBOR, hash))
    }

    /// The tipset `name` at a height, on top of `below`.
    fn tipset(height: ChainEpoch, name: &str, below: &str) -> Tipset {
        let block = Block { parents: vec![link(below)], height, timestamp: 0 };
        Tipset { cids: vec![link(name)], blocks: vec![block], height }
    }

    fn at(names: &[(ChainEpoch, &str, &str)]) -> Follower {
        let mut follower = Follower::default();
        for (height, name, below) in names {
            let next = tipset(*height, name, below);
            assert!(follower.joins(&next), "{name}");
            follower.take(vec![next]);
        }
        follower
    }

    const CHAIN: [(ChainEpoch, &str, &str); 4] =
        [(10, "a10", "a9"), (11, "a11", "a10"), (13, "a13", "a11"), (14, "a14", "a13")];

    #[test]
    fn a_chain_that_grows_replaces_nothing_whatever_epochs_have_no_block() {
        assert_eq!(at(&CHAIN).reorgs(), Reorgs::default());
        assert!(at(&CHAIN).is_head(&tipset(14, "a14", "a13")));
    }

    #[test]
    fn a_head_whose_parents_are_not_the_former_head_replaces_what_lies_above_the_one_they_share() {
        let mut follower = at(&CHAIN);
        let (head, middle) = (tipset(15, "b15", "b12"), tipset(12, "b12", "a11"));
        assert!(!follower.joins(&head));
        assert!(follower.joins(&middle));
        follower.take(vec![head, middle]);
        assert_eq!(follower.reorgs(), Reorgs { count: 1, from: 12 });
        follower.take(vec![tipset(16, "b16", "b15")]);
        assert_eq!(follower.reorgs().count, 1);
    }

    #[test]
    fn a_tipset_with_another_block_at_the_same_height_replaces_it() {
        let mut follower = at(&CHAIN);
        follower.take(vec![tipset(14, "b14", "a13")]);
        assert_eq!(follower.reorgs(), Reorgs { count: 1, from: 14 });
    }

    #[test]
    fn a_head_that_moves_back_replaces_what_lay_above_it() {
        let mut follower = at(&CHAIN);
        let head = tipset(11, "a11", "a10");
        assert!(follower.joins(&head));
        follower.take(vec![head]);
        assert_eq!(follower.reorgs(), Reorgs { count: 1, from: 12 });
        assert!(follower.is_head(&tipset(11, "a11", "a10")));
    }

    #[test]
    fn a_head_that_cannot_be_joined_skips_a_number_so_that_everything_is_looked_at_again() {
        let mut follower = at(&CHAIN);
        follower.take(vec![tipset(5_000, "c5000", "c4999")]);
        assert_eq!(follower.reorgs().count, 2);
        assert!(follower.is_head(&tipset(5_000, "c5000", "c4999")));
    }

    #[test]
    fn no_more_is_remembered_than_is_needed() {
        let mut follower = Follower::default();
        for height in 0..2 * REMEMBERED_MAX as ChainEpoch {
            follower.take(vec![tipset(height, &height.to_string(), &(height - 1).to_string())]);
        }
        assert_eq!((follower.seen.len(), follower.reorgs().count), (REMEMBERED_MAX, 0));
    }
}
