//! Losses and gradients against numbers worked by hand; the working stands in the comments.

use pelton::config::{Algorithm, Optimize};
use pelton::domain::{Candidate, Finish, PromptHash};
use pelton::tao::optimize::groups::groups;
use pelton::tao::optimize::{Grpo, Loss, grpo, oapl};

fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-9, "{found} is not {expected}");
}

#[test]
fn oapl_is_the_paper_by_hand() {
    // β₁ = 1, r = (1, 0): V̂ = ln((e + 1)/2) = ln 1.859140914229523 = 0.6201145069582775.
    near(oapl::value(&[1.0, 0.0], 1.0), 0.620_114_506_958_277_5);
    // β₁ → 0 is the best reward, β₁ → ∞ the mean, and no exponent overflows on the way.
    near(oapl::value(&[1.0, 0.0, 0.5], 1e-4), 1.0 - 1e-4 * 3f64.ln());
    assert!((oapl::value(&[1.0, 0.0, 0.5], 1e6) - 0.5).abs() < 1e-6);
    // All equal: V̂ = r, so no advantage.
    near(oapl::advantages(&[0.7, 0.7], 0.3)[0], 0.0);
    let advantages = oapl::advantages(&[1.0, 0.0], 1.0);
    near(advantages[0], 0.379_885_493_041_722_5);
    near(advantages[1], -0.620_114_506_958_277_5);
    // β₂ = 0.5, drift 0.2, A = 0.4: residual 0.5·0.2 − 0.4 = −0.3; loss 0.09; derivative 2·0.5·(−0.3) = −0.3.
    let (loss, derivative) = oapl::loss(0.2, 0.4, 0.5);
    near(loss, 0.09);
    near(derivative, -0.3);
    // The minimum is where the drift is A/β₂ = 0.8 nats.
    near(oapl::loss(0.8, 0.4, 0.5).1, 0.0);
}

#[test]
fn grpo_is_the_paper_by_hand() {
    // r = (1, 0, 0, 1): mean 0.5, Σ(r − mean)² = 1, Bessel: 1/3, std 0.5773502691896258; A = ±0.5/(std + 1e-4).
    let expected = 0.5 / (0.577_350_269_189_625_8 + 1e-4);
    for (found, sign) in grpo::advantages(&[1.0, 0.0, 0.0, 1.0]).iter().zip([1.0, -1.0, -1.0, 1.0]) {
        near(*found, sign * expected);
    }
    assert_eq!(grpo::advantages(&[0.3]), vec![0.0], "one sample has no peer");
    let clip = Grpo { clip_low: 0.2, clip_high: 0.28 };
    let cases = [
        // (ratio, A, loss, derivative by ln π): −min(ρA, clip(ρ)A), and −ρA where the free branch is the smaller.
        (1.0, 2.0, -2.0, -2.0),
        (1.2, 1.0, -1.2, -1.2),
        (1.5, 1.0, -1.28, 0.0), // clipped above: no more push up
        (1.5, -1.0, 1.5, 1.5),  // too likely and bad: pushed down in full
        (0.5, 1.0, -0.5, -0.5), // too unlikely and good: pushed up in full
        (0.5, -1.0, 0.8, 0.0),  // clipped below: no more push down
    ];
    for (ratio, advantage, loss, derivative) in cases {
        let found = grpo::token_loss(f64::ln(ratio), advantage, clip);
        near(found.0, loss);
        near(found.1, derivative);
    }
}

#[test]
fn both_derivatives_are_their_difference_quotients() {
    let step = 1e-6;
    for i in 0..40 {
        let (drift, advantage) = (f64::from(i) * 0.07 - 1.4, f64::from(i % 7) * 0.3 - 0.9);
        let quotient = |f: &dyn Fn(f64) -> f64| (f(drift + step) - f(drift - step)) / (2.0 * step);
        let oapl_slope = quotient(&|d| oapl::loss(d, advantage, 0.05).0);
        assert!((oapl_slope - oapl::loss(drift, advantage, 0.05).1).abs() < 1e-6);
        let clip = Grpo { clip_low: 0.2, clip_high: 0.28 };
        let grpo_slope = quotient(&|d| grpo::token_loss(d, advantage, clip).0);
        assert!((grpo_slope - grpo::token_loss(drift, advantage, clip).1).abs() < 1e-5, "drift {drift}");
    }
}

fn candidate(prompt: u8, sample: u32, tokens: &[u32], reward: f64, finish: Finish) -> Candidate {
    Candidate {
        prompt: PromptHash::of_canonical(&prompt.to_string()),
        sample,
        strategy: String::new(),
        seed: 0,
        tokens: tokens.to_vec(),
        text: String::new(),
        logprobs: vec![-1.0; tokens.len()],
        finish,
        reward: Some(reward),
        components: Vec::new(),
    }
}

#[test]
fn groups_merge_equals_drop_the_flat_and_mask_the_truncated() {
    let candidates = [
        candidate(1, 0, &[5, 6], 1.0, Finish::Stop),
        candidate(1, 1, &[5, 6], 1.0, Finish::Stop),
        candidate(1, 2, &[7], 0.0, Finish::Stop),
        candidate(1, 3, &[8, 8, 8], 0.0, Finish::Length),
        candidate(2, 0, &[5], 0.4, Finish::Stop),
        candidate(2, 1, &[6], 0.4, Finish::Stop),
    ];
    let options = Optimize { algorithm: Algorithm::Grpo, ..Optimize::default() };
    let (found, counts) = groups(&candidates, &Loss::of(&options)).unwrap();
    assert_eq!((counts.flat_groups, counts.truncated, counts.samples, counts.distinct), (1, 1, 3, 2));
    assert_eq!(found.len(), 1);
    let weights: Vec<_> = found[0].responses.iter().map(|r| (r.tokens.clone(), r.weight)).collect();
    assert_eq!(weights, [(vec![5, 6], 2.0), (vec![7], 1.0)]);
    // The truncated sample counts in the group's mean and deviation: r = (1, 1, 0, 0).
    near(found[0].responses[0].advantage, 0.5 / (0.577_350_269_189_625_8 + 1e-4));
    let mut unscored = candidates[0].clone();
    unscored.reward = None;
    assert!(groups(&[unscored], &Loss::of(&options)).unwrap_err().to_string().contains("no reward"));
    let broken = candidate(1, 0, &[5], f64::NAN, Finish::Stop);
    assert!(groups(&[broken], &Loss::of(&options)).unwrap_err().to_string().contains("finite"));
}
