//! The calibration: used where it predicts users better, and only there; figures as by hand.

use pelton::tao::score::calibrate::{Calibration, Figures, Sample, calibrate};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::BTreeMap;

/// Samples with numbers `a` and `b`, where users are content with the probability that `truth` gives.
fn samples(count: u64, seed: u64, plain: fn(f64, f64) -> f64, truth: fn(f64, f64) -> f64) -> Vec<Sample> {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut sample = |prompt| {
        let (a, b): (f64, f64) = (dice.random(), dice.random());
        let numbers = BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), b)]);
        Sample { prompt, plain: plain(a, b), numbers, content: dice.random_bool(truth(a, b)) }
    };
    (0..count).map(|i| sample(i / 2)).collect()
}

fn figures(calibration: &Calibration, way: &str) -> Figures {
    calibration.figures[way]
}

#[test]
fn a_number_that_is_right_but_off_scale_is_mapped() {
    let all = samples(800, 1, |a, _| a * a * a, |a, _| 0.1 + 0.8 * a);
    let found = calibrate(&all, 5);
    assert_ne!(found.chosen, "uncalibrated", "{found:?}");
    assert!(figures(&found, &found.chosen).brier + 0.02 < figures(&found, "uncalibrated").brier, "{found}");
    assert!(figures(&found, &found.chosen).ece < 0.08, "{found}");
    assert!((figures(&found, "base_rate").auc - 0.5).abs() < 0.06, "{found}");
    let mapping = found.mapping.clone().unwrap();
    let value = |a: f64| mapping.apply(a * a * a, &|name| (name == "a").then_some(a));
    assert!(value(0.1) < 0.35 && value(0.9) > 0.65, "{} and {}", value(0.1), value(0.9));
    assert_eq!(found, calibrate(&all, 5), "the same samples and seed, the same mapping");
    let text = serde_json::to_string(&found).unwrap();
    assert_eq!(serde_json::from_str::<Calibration>(&text).unwrap().chosen, found.chosen);
}

#[test]
fn several_numbers_are_weighed_as_users_weigh_them() {
    // Users look at b; the plain reward looks at a for the most part.
    let all = samples(800, 2, |a, b| 0.8 * a + 0.2 * b, |_, b| if b > 0.5 { 0.9 } else { 0.1 });
    let found = calibrate(&all, 5);
    assert_eq!(found.chosen, "logistic", "{found}");
    assert!(figures(&found, "logistic").auc > figures(&found, "isotonic").auc + 0.1, "{found}");
    let mapping = found.mapping.unwrap();
    let value = |a: f64, b: f64| mapping.apply(0.0, &|name| Some(if name == "a" { a } else { b }));
    assert!(value(0.0, 0.9) > 0.75 && value(1.0, 0.1) < 0.25);
}

#[test]
fn what_predicts_nothing_is_not_used() {
    let noise = calibrate(&samples(600, 3, |a, _| a, |_, _| 0.7), 5);
    assert_eq!((noise.chosen.as_str(), noise.mapping.is_none()), ("uncalibrated", true), "{noise}");
    assert!(noise.reason.contains("base rate"), "{noise}");
    let exact = calibrate(&samples(2_000, 4, |a, _| a, |a, _| a), 5);
    let gain = figures(&exact, "uncalibrated").brier - figures(&exact, &exact.chosen).brier;
    assert!(gain < 0.005, "a number that is calibrated already gains nothing much: {exact}");
    let few = calibrate(&samples(40, 5, |a, _| a, |a, _| a), 5);
    assert!(few.mapping.is_none() && few.reason.contains("at least 50"), "{few}");
    let one_sided = calibrate(&samples(200, 6, |a, _| a, |_, _| 0.99), 5);
    assert!(one_sided.mapping.is_none() && one_sided.reason.contains("10 of each"), "{one_sided}");
}

#[test]
fn figures_are_those_of_a_hand_calculation() {
    let found = Figures::of(&[0.9, 0.6, 0.6, 0.2], &[true, false, true, false]);
    assert!((found.auc - 3.5 / 4.0).abs() < 1e-12);
    assert!((found.brier - (0.01 + 0.36 + 0.16 + 0.04) / 4.0).abs() < 1e-12);
    assert!((found.ece - (0.1 + 0.2 + 0.2) / 4.0).abs() < 1e-12);
}
