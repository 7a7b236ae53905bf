//! Properties of the update formats and the outer step over arbitrary values.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use common::{layout, outer as spec, sealed, update};
use proptest::prelude::*;
use shoal_learn::outer;
use shoal_wire::manifest::{Codec, Outer};
use shoal_wire::share::Share;

fn codec() -> impl Strategy<Value = Codec> {
    prop_oneof![Just(Codec::Dense4), Just(Codec::Topk)]
}

/// Shapes that end in the middle of chunks, with values of very different sizes.
fn model() -> impl Strategy<Value = (Vec<usize>, Vec<f32>)> {
    prop::collection::vec(1_usize..600, 1..4).prop_flat_map(|sizes| {
        let count = sizes.iter().sum::<usize>();
        let value = (-1.0_f32..1.0, 0_i32..30).prop_map(|(value, halvings)| value / (1_u64 << halvings) as f32);
        (Just(sizes), prop::collection::vec(value, count))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn what_is_sent_and_what_is_kept_add_up_to_what_was_learnt(codec in codec(), (sizes, delta) in model()) {
        let layout = layout(&sizes);
        let spec = spec(codec);
        let mut whole = outer::Residual::new(&layout);
        whole.compress(&spec, &layout, &delta).unwrap();
        whole.settle(&layout, Share::NOTHING).unwrap();
        let mut residual = outer::Residual::new(&layout);
        let update = residual.compress(&spec, &layout, &delta).unwrap();
        outer::check(&layout, codec, &update).unwrap();
        let sent = outer::decode(&layout, codec, &update).unwrap();
        for ((kept, sent), learnt) in residual.values().iter().zip(sent).zip(whole.values()) {
            prop_assert_eq!(kept + sent, *learnt);
        }
    }

    #[test]
    fn arbitrary_bytes_under_a_sound_checksum_are_refused_or_are_one_whole_update(
        codec in codec(), body in prop::collection::vec(any::<u8>(), 0..400)
    ) {
        let layout = layout(&[70, 5]);
        let accepted: Vec<_> = (0..=body.len())
            .filter_map(|end| outer::decode(&layout, codec, &sealed(codec, &body[..end])).ok())
            .collect();
        prop_assert!(accepted.len() <= 1);
        prop_assert!(accepted.iter().all(|values| values.len() == layout.len()));
    }

    #[test]
    fn arbitrary_bytes_are_refused(codec in codec(), bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(outer::check(&layout(&[70, 5]), codec, &bytes).is_err());
    }

    #[test]
    fn a_changed_byte_is_refused_and_under_a_new_checksum_is_refused_or_changes_a_value(
        codec in codec(), (sizes, delta) in model(), at in any::<prop::sample::Index>(), change in 1_u8..
    ) {
        let layout = layout(&sizes);
        let good = update(codec, &layout, &delta);
        let mut bad = good.clone();
        bad[at.index(good.len())] ^= change;
        prop_assert_eq!(outer::check(&layout, codec, &bad), Err(outer::UpdateError::Checksum));
        let mut body = common::body(&good).to_vec();
        let at = at.index(body.len());
        body[at] ^= change;
        if let Ok(values) = outer::decode(&layout, codec, &sealed(codec, &body)) {
            prop_assert_ne!(values, outer::decode(&layout, codec, &good).unwrap());
        }
    }

    #[test]
    fn dense_values_are_within_half_a_step_or_beyond_reach((sizes, delta) in model()) {
        let layout = layout(&sizes);
        let sent = outer::decode(&layout, Codec::Dense4, &update(Codec::Dense4, &layout, &delta)).unwrap();
        let energy: f64 = delta.iter().map(|value| f64::from(*value).powi(2)).sum();
        prop_assume!(energy > 1e-6);
        prop_assert!(common::relative_error(&delta, &sent) < 0.03, "{}", common::relative_error(&delta, &sent));
    }

    #[test]
    fn the_order_of_updates_does_not_change_the_outcome((sizes, delta) in model(), weights in prop::array::uniform3(1_u16..4096)) {
        let layout = layout(&sizes);
        let spec = Outer { codec: Codec::Dense4, alpha_1024: 900, feedback_1024: 1024 };
        let make = |size: f32| {
            let scaled: Vec<f32> = delta.iter().map(|value| value * size).collect();
            outer::Residual::new(&layout).compress(&spec, &layout, &scaled).unwrap()
        };
        let made = [make(1.0), make(-0.5), make(0.01)];
        let theta = vec![0.25; layout.len()];
        let run = |order: [usize; 3]| {
            let updates: Vec<(u16, &[u8])> = order.iter().map(|index| (weights[*index], made[*index].as_slice())).collect();
            outer::aggregate(&layout, &spec, &theta, &updates, &[], Share::WHOLE).unwrap()
        };
        let (next, norms) = run([0, 1, 2]);
        prop_assert_eq!(&run([2, 0, 1]), &(next.clone(), norms));
        prop_assert!(next.iter().all(|value| value.is_finite()));
    }
}
