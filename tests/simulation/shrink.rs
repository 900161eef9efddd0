//! A failing run, told in few steps: leaves out what it fails without.

use crate::{
    breaks::Break,
    profile::Profile,
    world::{Step, run, steps_of},
};

/// The steps without which the run would not break the same promise (Zeller's delta debugging).
pub fn shrink(seed: u64, profile: &Profile, steps: &[Step], breaks: Option<Break>) -> Vec<Step> {
    let invariant = |steps: &[Step]| {
        run(seed, profile, steps, breaks, false).violation.map(|violation| violation.invariant)
    };
    let wanted = invariant(steps);
    let mut kept = steps.to_vec();
    let mut chunk = kept.len().div_ceil(2);
    while chunk > 0 {
        let mut at = 0;
        let before = kept.len();
        while at < kept.len() {
            let end = (at + chunk).min(kept.len());
            let mut fewer = kept.clone();
            fewer.drain(at..end);
            if invariant(&fewer) == wanted {
                kept = fewer;
            } else {
                at = end;
            }
        }
        if chunk > 1 {
            chunk /= 2;
        } else if kept.len() == before {
            break;
        }
    }
    kept
}

/// What to print of a seed.
pub fn report(seed: u64, breaks: Option<Break>) -> String {
    let profile = Profile::of_seed(seed);
    let steps = steps_of(seed, &profile);
    let Some(violation) = run(seed, &profile, &steps, breaks, false).violation else {
        let trace = run(seed, &profile, &steps, breaks, true).trace;
        return format!("seed {seed} breaks nothing\n{}", trace.join("\n"));
    };
    let short = shrink(seed, &profile, &steps, breaks);
    let shortest = run(seed, &profile, &short, breaks, true);
    format!(
        "seed {seed} breaks a promise: {}\n{}\n{} of {} steps are enough:\n{}\n=> {:?}",
        violation.invariant,
        violation.what,
        short.len(),
        steps.len(),
        shortest.trace.join("\n"),
        shortest.violation
    )
}
