//! Every gradient is the one of the slow operations; every LoRA matrix learns; packing changes nothing.

use candle_core::{D, Tensor, Var};
use pelton::model::Activation;
use pelton::model::ops::attention::{self, Heads, Rows, Saved, Span};
use pelton::model::ops::rope::{Angles, Turn};
use pelton::model::ops::{gated, head, math, rms_norm};
use pelton::model::{AdamW, AdamWConfig, Decoder, Keep, Lora, LoraConfig, PromptGroup, Tensors, Weights};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{CPU, check_close, group, largest_difference, random_adapter, random_decoder, small_config, values};

const TOLERANCE: f32 = 2e-5;

/// A tensor of values between -1 and 1, as a leaf of candle's graph.
fn leaf(seed: u64, shape: &[usize]) -> Var {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let count = shape.iter().product();
    let data: Vec<f32> = (0..count).map(|_| rng.random::<f32>() * 2.0 - 1.0).collect();
    Var::from_tensor(&Tensor::from_vec(data, shape, &CPU).unwrap()).unwrap()
}

/// The gradient of `Σ y∘dy` by candle's autograd.
fn slow(y: &Tensor, dy: &Tensor, of: &Var) -> Vec<f32> {
    let store = (y * dy).unwrap().sum_all().unwrap().backward().unwrap();
    values(store.get(of).unwrap())
}

fn check(found: &[f32], expected: &[f32]) {
    let difference = largest_difference(found, expected);
    assert!(difference < TOLERANCE, "differs by {difference}");
}

#[test]
fn rms_norm_is_the_slow_one() {
    let (x, w, dy) = (leaf(1, &[70, 24]), leaf(2, &[24]), leaf(3, &[70, 24]));
    let y = candle_nn::ops::rms_norm_slow(&x, &w, 1e-5).unwrap();
    check(&values(&rms_norm::forward(&x, &w, 1e-5).unwrap()), &values(&y));
    check(&values(&rms_norm::backward(&x, &w, 1e-5, &dy, None).unwrap()), &slow(&y, &dy, &x));
    check(&values(&rms_norm::backward_weight(&x, 1e-5, &dy).unwrap()), &slow(&y, &dy, &w));

    let (sum, normed) = rms_norm::add_forward(&x, &dy, &w, 1e-5).unwrap();
    check(&values(&sum), &values(&(x.as_tensor() + dy.as_tensor()).unwrap()));
    check(&values(&normed), &values(&rms_norm::forward(&sum, &w, 1e-5).unwrap()));
    let beside = rms_norm::backward(&x, &w, 1e-5, &dy, Some(&sum)).unwrap();
    let alone = rms_norm::backward(&x, &w, 1e-5, &dy, None).unwrap();
    check(&values(&beside), &values(&(alone + sum).unwrap()));
}

#[test]
fn swiglu_is_the_slow_one() {
    let (x, dy) = (leaf(4, &[40, 36]), leaf(5, &[40, 18]));
    let (gate, up) = (x.narrow(1, 0, 18).unwrap(), x.narrow(1, 18, 18).unwrap());
    let y = (gate.silu().unwrap() * up).unwrap();
    check(&values(&gated::forward(&x, Activation::Silu).unwrap()), &values(&y));
    check(&values(&gated::backward(&x, &dy, Activation::Silu).unwrap()), &slow(&y, &dy, &x));
}

#[test]
fn rope_is_the_slow_one_and_turns_back() {
    let (heads, dim, rows) = (3, 8, 5);
    let frequencies: Vec<f32> = (0..dim / 2).map(|i| 1.0 / 100f32.powf(2.0 * i as f32 / dim as f32)).collect();
    let positions: Vec<u32> = (0..rows as u32).collect();
    let angles = Angles::at(&frequencies, &positions);
    let x = leaf(6, &[rows, heads * dim]);
    let mut found = values(&x);
    angles.turn(&mut found, heads * dim, heads, Turn::Forward);

    let table: Vec<f32> = (0..rows).flat_map(|p| frequencies.iter().map(move |f| p as f32 * f)).collect();
    let table = Tensor::from_vec(table, (rows, dim / 2), &CPU).unwrap();
    let turned = x.reshape((1, rows, heads, dim)).unwrap().transpose(1, 2).unwrap().contiguous().unwrap();
    let slow = candle_nn::rotary_emb::rope_slow(&turned, &table.cos().unwrap(), &table.sin().unwrap()).unwrap();
    check(&found, &values(&slow.transpose(1, 2).unwrap().contiguous().unwrap()));

    angles.turn(&mut found, heads * dim, heads, Turn::Backward);
    check(&found, &values(&x));
}

#[test]
fn attention_is_the_slow_one() {
    let heads = Heads { queries: 4, keys: 2, dim: 20, scale: 1.0 / 20f32.sqrt(), window: None };
    // Two families: a prompt of 3 rows with completions of 2 and 1, and a prompt of 4 alone.
    let spans = vec![
        Span { queries: 0..3, keys: vec![0, 1, 2] },
        Span { queries: 3..5, keys: vec![0, 1, 2, 3, 4] },
        Span { queries: 5..6, keys: vec![0, 1, 2, 5] },
        Span { queries: 6..10, keys: vec![6, 7, 8, 9] },
    ];
    let (qkv, dout) = (leaf(7, &[10, heads.qkv_width()]), leaf(8, &[10, heads.query_width()]));
    let y = slow_attention(&qkv, &spans, heads);

    let data = values(&qkv);
    let rows = |offset| Rows { data: &data, stride: heads.qkv_width(), offset };
    let (k, v) = (heads.query_width(), heads.query_width() + heads.key_width());
    let (out, lse) = attention::forward(rows(0), rows(k), rows(v), &spans, heads);
    check(&out, &values(&y));
    let saved = Saved { qkv: &data, out: &out, lse: &lse };
    let found = attention::backward(saved, &values(&dout), &spans, &[0..3, 3..4], heads);
    check(&found, &slow(&y, &dout, &qkv));
}

/// Softmax attention with a mask of who sees whom, in candle's differentiable operations.
fn slow_attention(qkv: &Tensor, spans: &[Span], heads: Heads) -> Tensor {
    let rows = qkv.dim(0).unwrap();
    let mut mask = vec![-1e30f32; rows * rows];
    for span in spans {
        for (i, row) in span.queries.clone().enumerate() {
            let seen = span.keys.len() - (span.queries.len() - 1 - i);
            span.keys[..seen].iter().for_each(|key| mask[row * rows + *key as usize] = 0.0);
        }
    }
    let mask = Tensor::from_vec(mask, (rows, rows), &CPU).unwrap();
    let part = |start: usize| qkv.narrow(1, start, heads.dim).unwrap();
    let outs: Vec<Tensor> = (0..heads.queries)
        .map(|head| {
            let key = head / (heads.queries / heads.keys) * heads.dim;
            let q = part(head * heads.dim);
            let k = part(heads.query_width() + key);
            let v = part(heads.query_width() + heads.key_width() + key);
            let scores = (q.matmul(&k.t().unwrap()).unwrap() / (heads.dim as f64).sqrt()).unwrap();
            candle_nn::ops::softmax(&(scores + &mask).unwrap(), D::Minus1).unwrap().matmul(&v).unwrap()
        })
        .collect();
    Tensor::cat(&outs, 1).unwrap()
}

#[test]
fn the_output_layer_is_the_slow_one() {
    let (hidden, weight, dy) = (leaf(9, &[6, 10]), leaf(10, &[33, 10]), leaf(11, &[6]));
    let (targets, temperature) = ([0u32, 32, 7, 7, 12, 1], 0.6);
    let logits = (hidden.matmul(&weight.t().unwrap()).unwrap() / f64::from(temperature)).unwrap();
    let index = Tensor::new(&targets, &CPU).unwrap().unsqueeze(1).unwrap();
    let y = candle_nn::ops::log_softmax(&logits, 1).unwrap().gather(&index, 1).unwrap().squeeze(1).unwrap();

    let (found, lse) = head::forward(&hidden, &weight, &targets, temperature).unwrap();
    check(&found, &values(&y));
    let of = head::Backward {
        hidden: &hidden,
        weight: &weight,
        targets: &targets,
        temperature,
        lse: &lse,
        weight_gradient: true,
    };
    let (dhidden, dweight) = head::backward(of, &values(&dy)).unwrap();
    check(&values(&dhidden), &slow(&y, &dy, &hidden));
    check(&values(&dweight.unwrap()), &slow(&y, &dy, &weight));
}

#[test]
fn the_exponential_is_exact_to_the_last_places() {
    for step in -8700..8800 {
        let x = step as f32 * 0.01;
        let (found, expected) = (f64::from(math::exp(x)), f64::from(x).exp());
        assert!((found / expected - 1.0).abs() < 3e-7, "exp({x}) = {found}, expected {expected}");
    }
    assert!(math::exp(f32::NAN).is_nan());
    assert!(math::exp(-1e30) < 1e-37 && math::exp(f32::NEG_INFINITY) < 1e-37);
}

/// The guard against gradients cut in silence: B learns at the first step, A as soon as B is not zero.
#[test]
fn every_lora_matrix_learns() {
    let base = random_decoder(3);
    let config = LoraConfig { rank: 4, ..LoraConfig::default() };
    let mut lora = Lora::new(base.config(), config, 9, &CPU).unwrap();
    assert_eq!(lora.tensors.len(), 2 * 7 * 2);
    let mut optimiser = AdamW::new(AdamWConfig::default());
    for step in 0..2 {
        let gradients = adapter_gradients(&base, &lora, &groups());
        assert_eq!(gradients.keys().collect::<Vec<_>>(), lora.tensors.keys().collect::<Vec<_>>());
        for (name, gradient) in &gradients {
            let moves = values(gradient).iter().any(|g| *g != 0.0);
            assert_eq!(moves, name.contains("lora_B") || step == 1, "{name} at step {step}");
        }
        optimiser.step(&mut lora.tensors, &gradients, 1e-2).unwrap();
    }
}

#[test]
fn only_targets_get_matrices_and_gradients() {
    let base = random_decoder(3);
    let config = LoraConfig { rank: 2, alpha: 2.0, targets: vec!["v_proj".to_owned(), "down_proj".to_owned()] };
    let lora = Lora::new(base.config(), config, 9, &CPU).unwrap();
    let gradients = adapter_gradients(&base, &lora, &groups());
    assert_eq!(gradients.keys().collect::<Vec<_>>(), lora.tensors.keys().collect::<Vec<_>>());
    assert!(gradients.keys().all(|name| name.contains("v_proj") || name.contains("down_proj")));
}

#[test]
fn a_fresh_adapter_changes_nothing() {
    let base = random_decoder(4);
    let lora = Lora::new(base.config(), LoraConfig::default(), 1, &CPU).unwrap();
    let before = base.logprobs(&groups(), 1.0).unwrap();
    assert_eq!(before, base.with_adapter(&lora).unwrap().logprobs(&groups(), 1.0).unwrap());
    let other = random_adapter(base.config(), 6);
    let adapted = base.with_adapter(&other).unwrap();
    assert_ne!(before, adapted.logprobs(&groups(), 1.0).unwrap());
    // An adapter replaces the one before: it is never stacked on it.
    assert_eq!(before, adapted.with_adapter(&lora).unwrap().logprobs(&groups(), 1.0).unwrap());
}

#[test]
fn the_same_prompt_computed_once_or_for_each_completion_gives_the_same() {
    let base = random_decoder(5);
    let lora = random_adapter(base.config(), 2);
    let together = groups();
    let apart: Vec<PromptGroup> = together
        .iter()
        .flat_map(|g| {
            g.completions.iter().map(|c| PromptGroup { prompt: g.prompt.clone(), completions: vec![c.clone()] })
        })
        .collect();
    let decoder = base.with_adapter(&lora).unwrap();
    let (a, b) = (decoder.logprobs(&together, 0.8).unwrap(), decoder.logprobs(&apart, 0.8).unwrap());
    check(&a.concat(), &b.concat());
    let (a, b) = (adapter_gradients(&base, &lora, &together), adapter_gradients(&base, &lora, &apart));
    check_close(&a, &b, 1e-3);
}

#[test]
fn the_gradient_of_an_untied_output_layer_is_the_difference_quotient() {
    let config = pelton::model::ModelConfig { tie_word_embeddings: false, ..small_config() };
    let weights = Weights::random(&config, 8, &CPU).unwrap();
    let loss = |weights: &Weights| -> f64 {
        let decoder = Decoder::trainable(&config, weights).unwrap();
        decoder.logprobs(&groups(), 1.0).unwrap().concat().iter().map(|logprob| -f64::from(*logprob)).sum()
    };
    let decoder = Decoder::trainable(&config, &weights).unwrap();
    let pass = decoder.forward(&groups(), 1.0).unwrap();
    let ones = vec![-1.0; pass.tokens().elem_count()];
    let gradients = pass.backward_from(&ones).unwrap();
    assert_eq!(gradients.keys().collect::<Vec<_>>(), weights.tensors.keys().collect::<Vec<_>>());
    for name in ["lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"] {
        // Along the gradient itself, so that the difference is far above the rounding.
        let gradient = &gradients[name];
        let norm = values(gradient).iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        let step = 2e-2;
        let moved = |by: f64| {
            let mut weights = weights.clone();
            let shifted = (&weights.tensors[name] + (gradient * (by / norm)).unwrap()).unwrap();
            weights.tensors.insert(name.to_owned(), shifted);
            loss(&weights)
        };
        let quotient = (moved(step) - moved(-step)) / (2.0 * step);
        assert!((quotient / norm - 1.0).abs() < 1e-2, "{name}: {quotient} against {norm}");
    }
}

#[test]
fn a_loss_formed_elsewhere_is_an_error() {
    let decoder = random_decoder(1);
    let pass = decoder.forward(&groups(), 1.0).unwrap();
    let elsewhere = leaf(1, &[3]).sum_all().unwrap();
    let message = pass.backward(&elsewhere).unwrap_err().to_string();
    assert_eq!(message, "loss of log-probabilities is independent of them, expected formed from tokens()");
}

fn groups() -> Vec<PromptGroup> {
    vec![
        group(&[3, 1, 4, 1, 5], &[&[9, 2, 6], &[5, 3, 5, 8, 9], &[7]]),
        group(&[2, 7], &[&[1, 8, 2, 8], &[]]),
        group(&[1, 6, 1, 8, 0, 3, 3], &[&[9, 8]]),
    ]
}

fn adapter_gradients(base: &Decoder, lora: &Lora, groups: &[PromptGroup]) -> Tensors {
    let decoder = base.with_adapter(lora).unwrap();
    let pass = decoder.forward(groups, 0.8).unwrap();
    let loss = pass.sequences().unwrap().sqr().unwrap().mean_all().unwrap();
    pass.backward(&loss).unwrap()
}

#[test]
fn training_gives_the_same_bits_on_any_number_of_threads() {
    let train = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let base = random_decoder(7);
            let mut lora = random_adapter(base.config(), 2);
            let mut optimiser = AdamW::new(AdamWConfig::default());
            for _ in 0..3 {
                let gradients = adapter_gradients(&base, &lora, &vec![groups(); 20].concat());
                optimiser.step(&mut lora.tensors, &gradients, 1e-2).unwrap();
            }
            lora.tensors.values().flat_map(values).map(f32::to_bits).collect::<Vec<u32>>()
        })
    };
    let once = train(1);
    assert!(once == train(1) && once == train(2) && once == train(5));
}

#[test]
fn layers_computed_again_give_the_same_gradients() {
    for name in ["llama_tied", "llama_biased", "qwen3", "gemma3", "smollm3", "mistral"] {
        let decoder = super::fixture_decoder(name).with_adapter(&super::fixture_adapter(name)).unwrap();
        let gradients = |keep| {
            let pass = decoder.forward_keeping(&groups(), 0.8, keep).unwrap();
            let slopes: Vec<f32> = (0..pass.tokens().elem_count()).map(|i| (i as f32).sin()).collect();
            (values(pass.tokens()), pass.backward_from(&slopes).unwrap())
        };
        let (whole, again) = (gradients(Keep::Everything), gradients(Keep::LayerInputs));
        assert_eq!(whole.0, again.0, "{name}");
        check_close(&again.1, &whole.1, 1e-6);
    }
}

#[test]
fn a_quarter_of_a_million_logits_a_row_exist_for_a_few_rows_only() {
    let (rows, vocabulary, width) = (300, 262_144, 4);
    let largest = head::chunks(rows, vocabulary).map(|chunk| chunk.len() * vocabulary * 4).max().unwrap();
    assert!(largest <= head::CHUNK_BYTES_MAX, "{largest} bytes");
    let covered: Vec<usize> = head::chunks(rows, vocabulary).flatten().collect();
    assert_eq!(covered, (0..rows).collect::<Vec<_>>());
    // A row that alone is more than a chunk is a chunk.
    assert_eq!(head::chunks(3, 100 << 20).count(), 3);

    let (hidden, weight) = (leaf(31, &[rows, width]), leaf(32, &[vocabulary, width]));
    let targets: Vec<u32> = (0..rows as u32).map(|i| i * 871 % vocabulary as u32).collect();
    let (logprobs, lse) = head::forward(&hidden, &weight, &targets, 1.0).unwrap();
    let of = head::Backward {
        hidden: &hidden,
        weight: &weight,
        targets: &targets,
        temperature: 1.0,
        lse: &lse,
        weight_gradient: false,
    };
    let dy: Vec<f32> = (0..rows).map(|i| (i as f32).cos()).collect();
    let found = values(&head::backward(of, &dy).unwrap().0);
    // Rows on both sides of a border between chunks, by candle, one at a time.
    for row in [0, 63, 64, 65, 299] {
        let own = Var::from_tensor(&hidden.narrow(0, row, 1).unwrap().contiguous().unwrap()).unwrap();
        let logits = own.matmul(&weight.t().unwrap()).unwrap();
        let logprob = candle_nn::ops::log_softmax(&logits, D::Minus1).unwrap();
        let logprob = logprob.narrow(1, targets[row] as usize, 1).unwrap().sum_all().unwrap();
        assert!((logprob.to_scalar::<f32>().unwrap() - logprobs[row]).abs() < 1e-4);
        let store = (logprob * f64::from(dy[row])).unwrap().backward().unwrap();
        check(&found[row * width..(row + 1) * width], &values(store.get(&own).unwrap()));
    }
}
