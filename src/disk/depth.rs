//! How long a chain of layers may be, and which layers a merge takes. Pure.
//!
//! An engine opens every layer of a chain, and each read may look at all of them, so a chain must not grow with the number
//! of snapshots. A merge copies the newest layers into one. It takes an older layer along only if that is at most twice as
//! large as all newer ones together; so a layer is copied again only when much was written since, and over many saves each
//! byte is copied a number of times that grows with the logarithm of their number.

/// The largest number of layers between an image's disk and a machine, the machine's own included.
pub(super) const MOST: usize = 24;

/// A longer chain than this is not used: better an error than a machine that does not boot. Only reached when merges fail.
pub(super) const TOO_MANY: usize = 64;

/// How many layers a merge makes room for at least.
const ROOM: usize = 8;

/// The first layer that a merge takes, of layers with these sizes in bytes, oldest first; `None` if the chain is short
/// enough. The merge takes all from there on.
pub(super) fn merge_from(sizes: &[u64]) -> Option<usize> {
    if sizes.len() <= MOST {
        return None;
    }
    let mut from = MOST - ROOM;
    let mut newer = sum(&sizes[from..]);
    while let Some(older) = from.checked_sub(1).map(|older| sizes[older])
        && older <= newer.saturating_mul(2)
    {
        from -= 1;
        newer = newer.saturating_add(older);
    }
    Some(from)
}

fn sum(sizes: &[u64]) -> u64 {
    sizes.iter().fold(0, |sum, size| sum.saturating_add(*size))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Saves layers of these sizes one after the other, merging where it is due; gives the bytes that were copied.
    fn save_all(sizes: impl IntoIterator<Item = u64>) -> u64 {
        let (mut chain, mut copied) = (Vec::new(), 0);
        for size in sizes {
            chain.push(size);
            if let Some(from) = merge_from(&chain) {
                let merged = sum(&chain[from..]);
                copied += merged;
                chain.truncate(from);
                chain.push(merged);
            }
            assert!(chain.len() <= MOST, "{chain:?}");
        }
        copied
    }

    #[test]
    fn a_thousand_equal_layers_are_copied_a_few_times() {
        let copied = save_all(std::iter::repeat_n(1, 1000));
        assert!(copied < 5 * 1000, "{copied}");
    }

    #[test]
    fn a_large_old_layer_is_left_alone() {
        let copied = save_all(std::iter::once(1 << 34).chain(std::iter::repeat_n(1 << 20, 300)));
        assert!(copied < 1 << 34, "{copied}");
    }

    proptest! {
        #[test]
        fn a_chain_stays_short_and_its_bytes_are_seldom_copied(
            sizes in prop::collection::vec(prop_oneof![0..1000_u64, 0..1_000_000_000_u64], 0..1500)
        ) {
            let all = sum(&sizes);
            let times = 2 + 2 * u64::from(sizes.len().max(1).ilog2());
            prop_assert!(save_all(sizes) <= all * times);
        }

        #[test]
        fn a_merge_leaves_room(sizes in prop::collection::vec(any::<u64>(), MOST + 1..2000)) {
            let from = merge_from(&sizes).unwrap();
            prop_assert!(from <= MOST - ROOM);
        }
    }
}
