//! Sampling: the cache changes nothing, seeds decide everything, what is recorded is what the policy says.

use pelton::model::{Decoder, Finish, Generated, GenerationOptions, GenerationRequest, Sampling, argmax, draw};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{PromptGroup, largest_difference, random_adapter, random_decoder, values};

fn requests() -> Vec<GenerationRequest> {
    let prompt = |start: u32, length: u32| (0..length).map(|i| (start + i * 13) % 50).collect();
    vec![
        GenerationRequest { prompt: prompt(3, 5), seeds: vec![1, 2, 3, 4, 5] },
        GenerationRequest { prompt: prompt(8, 1), seeds: vec![6] },
        GenerationRequest { prompt: prompt(9, 2), seeds: vec![] },
        GenerationRequest { prompt: prompt(1, 12), seeds: vec![7, 8, 9] },
        GenerationRequest { prompt: prompt(40, 3), seeds: vec![10, 11] },
    ]
}

fn options() -> GenerationOptions {
    GenerationOptions { new_tokens_max: 20, stop: vec![7, 21], ..GenerationOptions::default() }
}

fn decoder() -> Decoder {
    let base = random_decoder(11);
    base.with_adapter(&random_adapter(base.config(), 4)).unwrap()
}

#[test]
fn a_sample_depends_on_its_prompt_and_seed_alone() {
    let decoder = decoder();
    let together = decoder.generate(&requests(), &options()).unwrap();
    assert!(together.iter().flatten().any(|g| g.finish == Finish::Stop && g.tokens.len() > 1));
    assert!(together.iter().flatten().any(|g| g.finish == Finish::Length && g.tokens.len() == 20));
    for rows_max in [1, 2, 3, 7] {
        let options = GenerationOptions { rows_max, ..options() };
        assert_eq!(together, decoder.generate(&requests(), &options).unwrap(), "{rows_max} rows at once");
    }
    for (request, expected) in requests().iter().zip(&together) {
        for (seed, expected) in request.seeds.iter().zip(expected) {
            let alone = GenerationRequest { prompt: request.prompt.clone(), seeds: vec![*seed] };
            assert_eq!(decoder.generate(&[alone], &options()).unwrap(), vec![vec![expected.clone()]]);
        }
    }
}

#[test]
fn cached_generation_takes_the_largest_logit_of_the_whole_sequence() {
    let decoder = decoder();
    let options = GenerationOptions { temperature: 0.0, ..options() };
    let found = decoder.generate(&requests(), &options).unwrap();
    for (request, generated) in requests().iter().zip(&found) {
        let Some(generated) = generated.first() else { continue };
        let mut sequence = request.prompt.clone();
        for token in &generated.tokens {
            let logits = decoder.logits(std::slice::from_ref(&sequence)).unwrap();
            let last = values(&logits[0].get(sequence.len() - 1).unwrap());
            assert_eq!(argmax(&last) as u32, *token);
            sequence.push(*token);
        }
    }
}

#[test]
fn the_recorded_logprobs_are_those_of_the_plain_policy() {
    let decoder = decoder();
    for (temperature, top_p) in [(1.0, None), (0.6, None), (1.3, Some(0.8)), (0.0, None)] {
        let options = GenerationOptions { temperature, top_p, ..options() };
        let found = decoder.generate(&requests(), &options).unwrap();
        let again = decoder.logprobs(&groups(&found), 1.0).unwrap();
        for (generated, again) in found.iter().flatten().zip(&again) {
            assert!(largest_difference(&generated.logprobs, again) < 1e-4);
        }
        let sampling: Vec<f32> = found.iter().flatten().flat_map(|g| g.sampling_logprobs.clone()).collect();
        match (temperature > 0.0, top_p) {
            (false, _) => assert!(sampling.iter().all(|logprob| *logprob == 0.0)),
            (true, None) => {
                let tempered = decoder.logprobs(&groups(&found), temperature).unwrap().concat();
                assert!(largest_difference(&sampling, &tempered) < 1e-4);
            }
            (true, Some(top_p)) => {
                // Renormalised by at most 1 / top_p, never below.
                let tempered = decoder.logprobs(&groups(&found), temperature).unwrap().concat();
                let gains = sampling.iter().zip(&tempered).map(|(inside, all)| inside - all);
                assert!(gains.clone().all(|gain| gain > -1e-4 && gain < -top_p.ln() + 1e-4));
            }
        }
    }
}

fn groups(found: &[Vec<Generated>]) -> Vec<PromptGroup> {
    let group = |(request, samples): (GenerationRequest, &Vec<Generated>)| PromptGroup {
        prompt: request.prompt,
        completions: samples.iter().map(|sample| sample.tokens.clone()).collect(),
    };
    requests().into_iter().zip(found).map(group).collect()
}

#[test]
fn draws_follow_the_distribution() {
    let logits: Vec<f32> = [0.5f32, 0.2, 0.15, 0.1, 0.05].iter().map(|p| p.ln() + 3.0).collect();
    let share = |sampling: Sampling| {
        let mut counts = [0f32; 5];
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        for _ in 0..20_000 {
            counts[draw(&logits, sampling, &mut rng).token as usize] += 1.0 / 20_000.0;
        }
        counts
    };
    let plain = share(Sampling { temperature: 1.0, top_p: None });
    assert!(largest_difference(&plain, &[0.5, 0.2, 0.15, 0.1, 0.05]) < 0.015, "{plain:?}");
    // Half the temperature squares the probabilities: 0.25, 0.04, 0.0225, 0.01, 0.0025 of 0.325.
    let cold = share(Sampling { temperature: 0.5, top_p: None });
    assert!(largest_difference(&cold, &[0.769, 0.123, 0.069, 0.031, 0.008]) < 0.015, "{cold:?}");
    let nucleus = share(Sampling { temperature: 1.0, top_p: Some(0.69) });
    assert!(largest_difference(&nucleus, &[0.714, 0.286, 0.0, 0.0, 0.0]) < 0.015, "{nucleus:?}");
}

#[test]
fn a_sample_ends_with_the_models_positions() {
    let decoder = decoder();
    let request = GenerationRequest { prompt: vec![1; 60], seeds: vec![1] };
    let options = GenerationOptions { new_tokens_max: 20, ..GenerationOptions::default() };
    let found = decoder.generate(&[request], &options).unwrap();
    // 64 positions: the 5th token needs none, because nothing is computed from it.
    assert_eq!((found[0][0].tokens.len(), found[0][0].finish), (5, Finish::Length));
}

#[test]
fn requests_out_of_range_are_named() {
    let decoder = decoder();
    let ask = |prompt: Vec<u32>, options: GenerationOptions| {
        decoder.generate(&[GenerationRequest { prompt, seeds: vec![1] }], &options).unwrap_err().to_string()
    };
    assert_eq!(ask(vec![], options()), "length of a prompt is 0, expected at least one token");
    assert_eq!(ask(vec![50], options()), "token id is 50, expected below the vocabulary's 50");
    let long = "length of a sequence in tokens is 65, expected at most max_position_embeddings, 64";
    assert_eq!(ask(vec![1; 64], options()), long);
    let cold = GenerationOptions { temperature: f32::NAN, ..options() };
    assert_eq!(ask(vec![1], cold), "temperature is NaN, expected 0 or a positive number");
    let wide = GenerationOptions { top_p: Some(1.5), ..options() };
    assert_eq!(ask(vec![1], wide), "top_p is 1.5, expected above 0 and at most 1");
}
