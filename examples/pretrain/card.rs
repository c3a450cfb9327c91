//! The model card that is written beside the model.

use crate::{Measured, Recipe};
use pelton::model::ModelConfig;

/// The card as Markdown.
pub fn text(recipe: &Recipe, config: &ModelConfig, measured: &Measured) -> String {
    let Recipe { seed, labels, steps, batch, learning_rate, labelled_share, held_out, .. } = recipe;
    let Measured { greedy, pass_1, pass_8, seconds, loss } = measured;
    let percent = |share: &f64| format!("{:.1} %", 100.0 * share);
    format!(
        "# sql-tiny

The demo's base model: a Llama that turns English questions about a small shop into SQL for DataFusion. It is made from
nothing by this repository, and deliberately from few labels, so that a TAO cycle has something to find.

| | |
|---|---|
| made by | `cargo run --release --example pretrain` |
| parameters | {parameters}; {layers} layers of width {width}, {heads} heads on {kv_heads} key-value heads, {vocab} tokens |
| format | `config.json`, `model.safetensors` (f16), `tokenizer.json` (byte-level BPE), chat template in `tokenizer_config.json` |
| data | {labels} questions with their SQL; 3,000 SQL statements without questions; every text value of the database with its literal. All from `src/demo`, nothing from elsewhere |
| seed | {seed} |
| training | {steps} updates of {batch} examples ({labelled_share} of them labelled), AdamW, peak rate {learning_rate}, cosine; loss at the end {loss:.3} nats a token; {seconds:.0} s |
| greedy | {greedy} of {held_out} held-out questions have the right result |
| sampled at temperature 1 | {pass_1} of samples, {pass_8} of questions with at least one right among 8 |
| licence | Apache-2.0, like the code |

Held-out questions are of the side that users ask; a hash of the question decides the side, so that no label is among
them. It knows nothing but this shop, and is of no use for anything else.
",
        parameters = config.parameters(),
        layers = config.layers.len(),
        width = config.hidden_size,
        heads = config.heads,
        kv_heads = config.kv_heads,
        vocab = config.vocab_size,
        greedy = percent(greedy),
        pass_1 = percent(pass_1),
        pass_8 = percent(pass_8),
    )
}
