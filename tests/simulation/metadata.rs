//! The offset metadata under the worst that can happen to it.

use dunmore_connectors::offsets::{
    Begin, CompletionMap, MAX_INCOMPLETE, MAX_METADATA_BYTES, Tracker,
};

use crate::chance::Chance;

/// Reads offsets from a log until the cap; `gap` says how far the next record is.
fn fill(tracker: &mut Tracker, from: i64, mut gap: impl FnMut() -> i64) -> (Vec<i64>, i64) {
    let (mut begun, mut offset) = (Vec::new(), from);
    while !tracker.is_full() {
        if tracker.begin(offset) == Begin::Work {
            begun.push(offset);
        }
        offset += gap();
    }
    (begun, offset)
}

fn committed(tracker: &mut Tracker) -> (i64, CompletionMap) {
    let commit = tracker.commit().unwrap();
    assert!(commit.metadata.len() <= MAX_METADATA_BYTES, "{}", commit.metadata.len());
    tracker.committed(&commit);
    (commit.offset, CompletionMap::decode(commit.offset, &commit.metadata).unwrap())
}

/// The coding writes the gaps between incomplete offsets as varints, so the worst for it is a full
/// partition whose incomplete offsets are as far apart as they can get: one that will not end,
/// then thousands that do, a thousand times over.
#[test]
fn a_full_partition_fits_however_far_apart_its_offsets_are() {
    // 2^7, 2^14 and 2^21 are where a varint gets a byte longer.
    for (gap, most) in [
        (1, 1_400),
        (2, 1_400),
        (127, 1_400),
        (128, 2_800),
        (16_383, 2_800),
        (16_384, 4_096),
        (2_097_151, 4_096),
        (2_097_152, 4_096),
        (1 << 40, 4_096),
    ] {
        let mut tracker = Tracker::new(CompletionMap::default());
        let (begun, next) = fill(&mut tracker, 0, || gap);
        assert_eq!(begun.len(), MAX_INCOMPLETE);
        let metadata = tracker.commit().unwrap().metadata.len();
        println!(
            "a gap of {gap}: {metadata} bytes for {MAX_INCOMPLETE} incomplete of {next} offsets"
        );
        assert!(metadata <= most.min(MAX_METADATA_BYTES), "a gap of {gap}: {metadata} bytes");
        let (_, map) = committed(&mut tracker);
        assert!(begun.iter().all(|offset| !map.is_done(*offset)));
    }
}

/// Every second offset is the worst for a bitmap, and costs one byte each here.
#[test]
fn every_second_offset_of_two_thousand_is_small() {
    let mut tracker = Tracker::new(CompletionMap::default());
    let mut offset = 0;
    while !tracker.is_full() {
        tracker.begin(offset);
        if offset % 2 == 1 {
            tracker.complete(offset);
        }
        offset += 1;
    }
    let metadata = tracker.commit().unwrap().metadata;
    assert!(metadata.len() < 1_400, "{}", metadata.len());
}

/// After a take-over the map of the last owner and the new one's own work are written together.
/// What is incomplete beyond the new owner's position was counted by the last one, so the sum
/// never exceeds the cap, whenever the take-over comes and however often.
#[test]
fn take_overs_at_every_point_never_add_up_to_more_than_the_cap() {
    let mut longest = (0, 0);
    for seed in 0..60 {
        let mut chance = Chance::new(seed);
        let widest = 1_u64 << chance.between(1, 40);
        let mut map = CompletionMap::default();
        let mut from = 0;
        for _ in 0..6 {
            let mut tracker = Tracker::new(map.clone());
            // The log goes on as it was: what the map has as incomplete are its records.
            let known: Vec<i64> = map.incomplete().collect();
            let taken = chance.below(known.len() + 1);
            let mut open: Vec<i64> = Vec::new();
            for offset in known.iter().take(taken) {
                assert_eq!(tracker.begin(*offset), Begin::Work);
                open.push(*offset);
                from = from.max(*offset);
            }
            // All that was restored is taken up: the owner reads on, to the cap.
            if taken == known.len() {
                from = from.max(map.end()) + 1;
                let gap = || i64::try_from(chance.between(1, widest)).unwrap();
                let (begun, next) = fill(&mut tracker, from, gap);
                open.extend(begun);
                from = next;
            }
            // A commit here has both in it.
            if let Some(commit) = tracker.commit() {
                assert!(commit.metadata.len() <= MAX_METADATA_BYTES);
            }
            // Some of it ends, not the lowest first.
            for _ in 0..chance.below(open.len() + 1) {
                let offset = open.swap_remove(chance.below(open.len()));
                tracker.complete(offset);
            }
            if tracker.commit().is_none() {
                continue;
            }
            let length = tracker.commit().unwrap().metadata.len();
            let (_, committed) = committed(&mut tracker);
            let incomplete = committed.incomplete().count();
            assert!(incomplete <= MAX_INCOMPLETE, "{incomplete} after a take-over");
            assert!(open.iter().all(|offset| !committed.is_done(*offset)));
            longest = longest.max((length, incomplete));
            map = committed;
        }
    }
    println!("the longest: {} bytes, {} incomplete", longest.0, longest.1);
    assert!(longest.0 > MAX_METADATA_BYTES / 2, "the worst was not reached: {longest:?}");
}
