//! Losses and gradients against numbers worked by hand; the working stands in the comments.

use pelton::config::{Algorithm, Optimize};
use pelton::domain::{Candidate, Finish, PromptHash};
use pelton::tao::optimize::dpo::{self, Dpo, Pairs};
use pelton::tao::optimize::groups::{BaseLogprobs, groups};
use pelton::tao::optimize::grpo::{self, Clip, Grpo, Variant};
use pelton::tao::optimize::sft::Choice;
use pelton::tao::optimize::{Loss, oapl, rloo};

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
    for (found, sign) in grpo::advantages(&[1.0, 0.0, 0.0, 1.0], Variant::Dapo).iter().zip([1.0, -1.0, -1.0, 1.0]) {
        near(*found, sign * expected);
    }
    assert_eq!(grpo::advantages(&[0.3], Variant::Dapo), vec![0.0], "one sample has no peer");
    let clip = Clip { low: 0.2, high: 0.28 };
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
fn derivatives_are_their_difference_quotients() {
    let step = 1e-6;
    for i in 0..40 {
        let (drift, advantage) = (f64::from(i) * 0.07 - 1.4, f64::from(i % 7) * 0.3 - 0.9);
        let quotient = |f: &dyn Fn(f64) -> f64| (f(drift + step) - f(drift - step)) / (2.0 * step);
        let oapl_slope = quotient(&|d| oapl::loss(d, advantage, 0.05).0);
        assert!((oapl_slope - oapl::loss(drift, advantage, 0.05).1).abs() < 1e-6);
        let clip = Clip { low: 0.2, high: 0.28 };
        let grpo_slope = quotient(&|d| grpo::token_loss(d, advantage, clip).0);
        assert!((grpo_slope - grpo::token_loss(drift, advantage, clip).1).abs() < 1e-5, "drift {drift}");
        let rloo_slope = quotient(&|d| rloo::loss(d, advantage, clip).0);
        assert!((rloo_slope - rloo::loss(drift, advantage, clip).1).abs() < 1e-5, "drift {drift}");
        let dpo_slope = quotient(&|d| dpo::pair_loss(d * 9.0, advantage, 0.7).0) / 9.0;
        assert!((dpo_slope - dpo::pair_loss(drift * 9.0, advantage, 0.7).1).abs() < 1e-6, "drift {drift}");
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
    let (found, counts) = groups(&candidates, &Loss::of(&options), &BaseLogprobs::new()).unwrap();
    assert_eq!((counts.flat_groups, counts.truncated, counts.samples, counts.distinct), (1, 1, 3, 2));
    assert_eq!(found.len(), 1);
    let weights: Vec<_> = found[0].responses.iter().map(|r| (r.tokens.clone(), r.weight)).collect();
    assert_eq!(weights, [(vec![5, 6], 2.0), (vec![7], 1.0)]);
    // The truncated sample counts in the group's mean and deviation: r = (1, 1, 0, 0).
    near(found[0].responses[0].advantage, 0.5 / (0.577_350_269_189_625_8 + 1e-4));
    let refused =
        |candidate: Candidate| groups(&[candidate], &Loss::of(&options), &BaseLogprobs::new()).unwrap_err().to_string();
    let mut unscored = candidates[0].clone();
    unscored.reward = None;
    assert!(refused(unscored).contains("no reward"));
    let broken = candidate(1, 0, &[5], f64::NAN, Finish::Stop);
    assert!(refused(broken).contains("finite"));
    let mut foreign = candidates[0].clone();
    foreign.logprobs.clear();
    assert!(refused(foreign).contains("2 tokens and 0 log-probabilities"));
}

/// A constant of the fixture.
fn constant(fixture: &serde_json::Value, name: &str) -> f64 {
    fixture["constants"][name].as_f64().unwrap()
}

fn every_loss(fixture: &serde_json::Value) -> Vec<(&'static str, Loss)> {
    let of = |name| constant(fixture, name);
    let clip = Clip { low: of("clip_low"), high: of("clip_high") };
    let preferences =
        |pairs, from_base| Loss::Dpo(Dpo { beta: of("dpo_beta"), margin_min: of("dpo_margin_min"), pairs, from_base });
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small whole number")]
    let top_k = of("best_of_n_top_k") as usize;
    vec![
        ("oapl", Loss::Oapl(oapl::Oapl { beta_value: of("oapl_beta_value"), beta_policy: of("oapl_beta_policy") })),
        ("grpo", Loss::Grpo(Grpo { clip, variant: Variant::Dapo })),
        ("dr_grpo", Loss::Grpo(Grpo { clip, variant: Variant::DrGrpo { tokens: of("dr_grpo_tokens") } })),
        ("rloo", Loss::Rloo(rloo::Rloo { beta: of("rloo_beta"), clip })),
        ("dpo_extremes", preferences(Pairs::Extremes, false)),
        ("dpo_all_base", preferences(Pairs::All, true)),
        ("best_of_n", Loss::Sft(Choice::Best { top_k, reward_min: of("best_of_n_reward_min") })),
        ("zero_label", Loss::Sft(Choice::Agreed { share_min: of("zero_label_share_min") })),
        ("labelled", Loss::Sft(Choice::All)),
    ]
}

fn numbers(value: &serde_json::Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn ids(value: &serde_json::Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| u32::try_from(v.as_u64().unwrap()).unwrap()).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "the fixture's values are exact in f32")]
fn singles(value: &serde_json::Value) -> Vec<f32> {
    numbers(value).into_iter().map(|v| v as f32).collect()
}

/// The candidates of one case of the fixture, and the base's log-probabilities of them.
fn candidates_of(case: &serde_json::Value) -> (Vec<Candidate>, BaseLogprobs) {
    let (mut candidates, mut base) = (Vec::new(), BaseLogprobs::new());
    for prompt in case["prompts"].as_array().unwrap() {
        for (number, sample) in (0u32..).zip(prompt["samples"].as_array().unwrap()) {
            let finish = if sample["complete"].as_bool().unwrap() { Finish::Stop } else { Finish::Length };
            let hash = u8::try_from(prompt["prompt"].as_u64().unwrap()).unwrap();
            let plain = candidate(hash, number, &ids(&sample["tokens"]), sample["reward"].as_f64().unwrap(), finish);
            base.insert((plain.prompt, number), sample["base"].as_f64().unwrap());
            candidates.push(Candidate { logprobs: singles(&sample["behaviour"]), ..plain });
        }
    }
    (candidates, base)
}

#[test]
fn every_loss_and_gradient_is_that_of_autograd_in_float64() {
    let fixture: serde_json::Value = serde_json::from_str(include_str!("../../fixtures/losses.json")).unwrap();
    for case in fixture["cases"].as_array().unwrap() {
        let (candidates, base) = candidates_of(case);
        let mut now = std::collections::HashMap::new();
        for prompt in case["prompts"].as_array().unwrap() {
            let hash = PromptHash::of_canonical(&prompt["prompt"].to_string());
            for response in prompt["now"].as_array().unwrap() {
                now.insert((hash, ids(&response["tokens"])), singles(&response["logprobs"]));
            }
        }
        for (name, loss) in every_loss(&fixture) {
            let known = if loss.needs_base() { base.clone() } else { BaseLogprobs::new() };
            let (found, _) = groups(&candidates, &loss, &known).unwrap();
            let scale = loss.scale(&found.iter().collect::<Vec<_>>());
            let (mut total, mut slopes) = (0.0, std::collections::HashMap::new());
            for group in &found {
                let own: Vec<&[f32]> =
                    group.responses.iter().map(|r| now[&(group.prompt, r.tokens.clone())].as_slice()).collect();
                for (share, response) in loss.shares(group, &own).into_iter().zip(&group.responses) {
                    total += share.loss / scale;
                    slopes.insert((group.prompt, response.tokens.clone()), share.slopes);
                }
            }
            let expected = &case["expected"][name];
            assert!((total - expected["loss"].as_f64().unwrap()).abs() < 1e-9, "{name}: {total}, not {expected}");
            for wanted in expected["gradients"].as_array().unwrap() {
                let key = (PromptHash::of_canonical(&wanted["prompt"].to_string()), ids(&wanted["tokens"]));
                let gradient = numbers(&wanted["gradient"]);
                let none = vec![0.0; gradient.len()];
                for (found, expected) in slopes.get(&key).unwrap_or(&none).iter().zip(&gradient) {
                    assert!((found / scale - expected).abs() < 1e-9, "{name}: {found} / {scale} is not {expected}");
                }
            }
        }
    }
}
