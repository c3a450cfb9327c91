//! The decoder: embedding, pre-norm layers of attention and a gated unit, final norm, output layer; forward only.
//!
//! Options of [`ModelConfig`] tell the families apart. Works on packed rows (see `batch`), so that there is no padding
//! and no mask. Never builds candle's graph: the gradient is the hand-written reverse in `backward`, checked in the
//! tests against candle's autograd on slow operations and against Hugging Face.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Tensor};

use super::batch::Batch;
use super::config::{ModelConfig, Rotary};
use super::error::Result;
use super::linear::Linear;
use super::lora::Lora;
use super::ops::attention::{self, Heads, Rows};
use super::ops::gated;
use super::ops::head_norm::{self, Norms};
use super::ops::host::{Slice, matrix};
use super::ops::rms_norm;
use super::ops::rope::{Angles, Turn};
use super::weights::Weights;

/// Parameters up to which a decoder is held a second time, arranged for generation.
pub(super) const FEW_ROWS_PARAMETERS_MAX: usize = 64 << 20;

/// A model's weights, arranged to run. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Decoder {
    pub(super) config: ModelConfig,
    pub(super) embedding: Tensor,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: Tensor,
    /// The output layer, `[vocabulary, hidden]`; the embedding itself where tied.
    pub(super) head: Tensor,
    /// Of RoPE, `head_dim / 2`.
    pub(super) inverse_frequencies: Arc<[f32]>,
    /// Of the layers with a window, where they have others.
    local_inverse_frequencies: Option<Arc<[f32]>>,
    /// Whether the base weights themselves train.
    pub(super) trains: bool,
    few_rows: Arc<OnceLock<Decoder>>,
}

#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub(super) attention_norm: Tensor,
    pub(super) qkv: Linear,
    /// Of each head's query and key, where the family norms them.
    pub(super) head_norms: Option<(Tensor, Tensor)>,
    pub(super) output: Linear,
    /// Of what attention gives, where the family norms it.
    pub(super) attended_norm: Option<Tensor>,
    pub(super) mlp_norm: Tensor,
    pub(super) gate_up: Linear,
    pub(super) down: Linear,
    /// Of what the feed-forward layer gives, where the family norms it.
    pub(super) fed_norm: Option<Tensor>,
}

/// What one layer's backward pass needs; all `[rows, …]`.
pub(super) struct LayerTrace {
    /// The residual stream that enters.
    pub(super) x: Tensor,
    /// Queries and keys before their norm and RoPE, where they are normed.
    pub(super) unnormed: Option<Tensor>,
    /// Queries and keys after RoPE, values.
    pub(super) qkv: Tensor,
    /// The heads' outputs before the output projection.
    pub(super) heads: Tensor,
    /// Log-sum-exp of the attention scores, `[rows, heads]`.
    pub(super) lse: Vec<f32>,
    /// What attention gave before its norm, where there is one.
    pub(super) attended: Option<Tensor>,
    /// The residual stream between attention and feed-forward.
    pub(super) middle: Tensor,
    /// Gate and up before the gated unit.
    pub(super) gate_up: Tensor,
    /// What the feed-forward layer gave before its norm, where there is one.
    pub(super) fed: Option<Tensor>,
}

/// The angles of rows at their positions, for each rotary embedding that layers use.
pub(super) struct Rotations {
    global: Angles,
    local: Option<Angles>,
}

impl Rotations {
    /// Those of one layer; none where it does not turn.
    pub(super) fn of(&self, rotary: Rotary) -> Option<&Angles> {
        match rotary {
            Rotary::Off => None,
            Rotary::Global => Some(&self.global),
            Rotary::Local => Some(self.local.as_ref().unwrap_or(&self.global)),
        }
    }
}

/// The residual stream after the last layer and its final norm, `[rows, hidden]` each.
pub(super) struct Hidden {
    pub(super) x: Tensor,
    pub(super) normed: Tensor,
}

impl Decoder {
    /// A decoder whose base weights never change: for generation, evaluation and LoRA.
    ///
    /// # Errors
    /// [`super::Error::MissingTensor`] where `weights` were not made for `config`.
    pub fn frozen(config: &ModelConfig, weights: &Weights) -> Result<Self> {
        Self::new(config, weights, false)
    }

    /// A decoder whose every weight gets a gradient: for pre-training and full fine-tuning.
    ///
    /// # Errors
    /// As [`Decoder::frozen`].
    pub fn trainable(config: &ModelConfig, weights: &Weights) -> Result<Self> {
        Self::new(config, weights, true)
    }

    /// The base of this decoder with an adapter added; only the adapter gets gradients. An adapter that was there
    /// before is replaced, never stacked.
    ///
    /// # Errors
    /// Only a failing device: that an adapter fits is checked where it is made or loaded.
    pub fn with_adapter(&self, lora: &Lora) -> Result<Self> {
        let mut adapted = Self { trains: false, few_rows: Arc::default(), ..self.clone() };
        for layer in &mut adapted.layers {
            for linear in [&mut layer.qkv, &mut layer.output, &mut layer.gate_up, &mut layer.down] {
                *linear = linear.with_adapter(lora)?;
            }
        }
        Ok(adapted)
    }

    /// This decoder arranged for generation, made when it is first asked for: small weights are held a second time with
    /// inputs as rows, so that no matrix product of a few rows has to rearrange them (a sixth of the time of decoding).
    /// Large ones stay as they are: there the memory weighs more.
    pub(super) fn for_few_rows(&self) -> Result<&Self> {
        if self.config.parameters() > FEW_ROWS_PARAMETERS_MAX {
            return Ok(self);
        }
        if let Some(arranged) = self.few_rows.get() {
            return Ok(arranged);
        }
        let mut arranged = Self { few_rows: Arc::default(), ..self.clone() };
        for layer in &mut arranged.layers {
            for linear in [&mut layer.qkv, &mut layer.output, &mut layer.gate_up, &mut layer.down] {
                *linear = linear.for_few_rows()?;
            }
        }
        Ok(self.few_rows.get_or_init(|| arranged))
    }

    /// The configuration that it was built from.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        self.embedding.device()
    }

    /// All logits of each sequence, `[tokens, vocabulary]` each: for comparisons and perplexity, not for training.
    ///
    /// # Errors
    /// An empty sequence, an unknown token id, a sequence longer than the model's positions.
    pub fn logits(&self, sequences: &[Vec<u32>]) -> Result<Vec<Tensor>> {
        let groups: Vec<_> = sequences
            .iter()
            .map(|ids| super::batch::PromptGroup { prompt: ids.clone(), completions: Vec::new() })
            .collect();
        let batch = self.pack(&groups)?;
        let logits = self.run_batch(&batch, |_| ())?.normed.matmul(&self.head.t()?)?;
        let rows = batch.spans.iter().map(|span| logits.narrow(0, span.queries.start, span.queries.len()));
        Ok(rows.collect::<candle_core::Result<_>>()?)
    }

    /// The normed residual stream of each sequence's last token, `[sequences, hidden]`: what a classifier's head sees.
    pub(super) fn last_hidden(&self, sequences: &[Vec<u32>]) -> Result<Tensor> {
        let group = |ids: &Vec<u32>| super::batch::PromptGroup { prompt: ids.clone(), completions: Vec::new() };
        let batch = self.pack(&sequences.iter().map(group).collect::<Vec<_>>())?;
        let normed = self.run_batch(&batch, |_| ())?.normed;
        let last = batch.spans.iter().map(|span| u32::try_from(span.queries.end - 1).unwrap_or(u32::MAX));
        let last = Tensor::new(last.collect::<Vec<u32>>(), self.device())?;
        Ok(normed.index_select(&last, 0)?)
    }

    pub(super) fn pack(&self, groups: &[super::batch::PromptGroup]) -> Result<Batch> {
        Batch::pack(groups, self.config.vocab_size, self.config.max_position_embeddings)
    }

    /// The heads of one layer.
    pub(super) fn heads(&self, layer: usize) -> Heads {
        Heads {
            queries: self.config.heads,
            keys: self.config.kv_heads,
            dim: self.config.head_dim,
            scale: self.config.options.attention_scale,
            window: self.config.layers[layer].window,
        }
    }

    /// The angles of rows at `positions`.
    pub(super) fn rotations(&self, positions: &[u32]) -> Rotations {
        Rotations {
            global: Angles::at(&self.inverse_frequencies, positions),
            local: self.local_inverse_frequencies.as_ref().map(|frequencies| Angles::at(frequencies, positions)),
        }
    }

    /// All layers over a packed batch; what each leaves for its backward pass goes to `keep`.
    pub(super) fn run_batch(&self, batch: &Batch, keep: impl FnMut(LayerTrace)) -> Result<Hidden> {
        self.run(&batch.ids, &batch.positions, self.attend_within(batch), keep)
    }

    /// Attention of a packed batch's rows to each other.
    fn attend_within(&self, batch: &Batch) -> impl FnMut(usize, &[f32]) -> (Vec<f32>, Vec<f32>) {
        move |layer: usize, qkv: &[f32]| {
            let heads = self.heads(layer);
            let rows = |offset| Rows { data: qkv, stride: heads.qkv_width(), offset };
            let (k, v) = (heads.query_width(), heads.query_width() + heads.key_width());
            attention::forward(rows(0), rows(k), rows(v), &batch.spans, heads)
        }
    }

    /// One layer of a packed batch again, from the residual stream that enters it: what its backward pass needs.
    pub(super) fn recompute(
        &self,
        index: usize,
        x: Tensor,
        batch: &Batch,
        rotations: &Rotations,
    ) -> Result<LayerTrace> {
        let normed = rms_norm::forward(&x, &self.layers[index].attention_norm, self.config.rms_norm_eps)?;
        Ok(self.layer(index, x, &normed, rotations, &mut self.attend_within(batch))?.0)
    }

    /// All layers over rows of tokens. `attend` gets a layer's number and its `[rows, qkv_width]` after RoPE, and gives
    /// the heads' outputs and the log-sum-exp. What each layer leaves for its backward pass goes to `keep`.
    pub(super) fn run(
        &self,
        ids: &[u32],
        positions: &[u32],
        mut attend: impl FnMut(usize, &[f32]) -> (Vec<f32>, Vec<f32>),
        mut keep: impl FnMut(LayerTrace),
    ) -> Result<Hidden> {
        let rotations = self.rotations(positions);
        let ids = Tensor::new(ids, self.device())?;
        let mut x = self.embedding.index_select(&ids, 0)?;
        if self.config.options.embedding_scale != 1.0 {
            x = x.affine(f64::from(self.config.options.embedding_scale), 0.0)?;
        }
        let mut normed = rms_norm::forward(&x, &self.layers[0].attention_norm, self.config.rms_norm_eps)?;
        for index in 0..self.layers.len() {
            let (left, next) = self.layer(index, x, &normed, &rotations, &mut attend)?;
            keep(left);
            Hidden { x, normed } = next;
        }
        Ok(Hidden { x, normed })
    }

    /// One layer: what its backward pass needs, the residual stream after it and that normed for the next.
    fn layer(
        &self,
        index: usize,
        x: Tensor,
        normed: &Tensor,
        rotations: &Rotations,
        attend: &mut impl FnMut(usize, &[f32]) -> (Vec<f32>, Vec<f32>),
    ) -> Result<(LayerTrace, Hidden)> {
        let (layer, eps, options) = (&self.layers[index], self.config.rms_norm_eps, self.config.options);
        let projected = layer.qkv.forward(normed)?;
        let (unnormed, projected) = match layer.norms(eps) {
            Some(norms) => {
                let normed = head_norm::forward(&projected, norms, self.heads(index))?;
                (Some(projected), normed)
            }
            None => (None, projected),
        };
        let qkv = match rotations.of(self.config.layers[index].rotary) {
            Some(angles) => self.rotate(projected, angles)?,
            None => projected,
        };
        let (heads, lse) = attend(index, &Slice::of(&qkv)?);
        let heads = matrix(heads, self.heads(index).query_width(), self.device())?;
        let (attended, delta) = normed_where(layer.output.forward(&heads)?, layer.attended_norm.as_ref(), eps)?;
        let (middle, middle_normed) = rms_norm::add_forward(&x, &delta, &layer.mlp_norm, eps)?;
        let gate_up = layer.gate_up.forward(&middle_normed)?;
        let fed = layer.down.forward(&gated::forward(&gate_up, options.activation)?)?;
        let (fed, delta) = normed_where(fed, layer.fed_norm.as_ref(), eps)?;
        let next_norm = self.layers.get(index + 1).map_or(&self.norm, |next| &next.attention_norm);
        let (next, next_normed) = rms_norm::add_forward(&middle, &delta, next_norm, eps)?;
        let trace = LayerTrace { x, unnormed, qkv, heads, lse, attended, middle, gate_up, fed };
        Ok((trace, Hidden { x: next, normed: next_normed }))
    }

    /// Turns queries and keys to their positions, in place where the rows are on the host.
    fn rotate(&self, qkv: Tensor, angles: &Angles) -> Result<Tensor> {
        let (heads, turned) = (self.heads(0), self.config.heads + self.config.kv_heads);
        let turn = TurnRows { angles, width: heads.qkv_width(), heads: turned };
        if self.device().is_cpu() {
            qkv.inplace_op1(&turn)?;
            return Ok(qkv);
        }
        let mut rows = Slice::of(&qkv)?.to_vec();
        turn.apply(&mut rows);
        Ok(matrix(rows, turn.width, self.device())?)
    }

    fn new(config: &ModelConfig, weights: &Weights, trains: bool) -> Result<Self> {
        let embedding = weights.get("model.embed_tokens.weight")?;
        let head = if config.tie_word_embeddings { embedding.clone() } else { weights.get("lm_head.weight")? };
        let layers =
            (0..config.layers.len()).map(|index| Layer::new(config, weights, index, trains)).collect::<Result<_>>()?;
        let frequencies = |rope: &super::config::Rope| rope.inverse_frequencies(config.head_dim).into();
        Ok(Self {
            config: config.clone(),
            embedding,
            layers,
            norm: norm_weight(config, weights, "model.norm.weight")?,
            head,
            inverse_frequencies: frequencies(&config.rope),
            local_inverse_frequencies: config.local_rope.as_ref().map(frequencies),
            trains,
            few_rows: Arc::default(),
        })
    }
}

impl Layer {
    fn new(config: &ModelConfig, weights: &Weights, index: usize, trains: bool) -> Result<Self> {
        let options = config.options;
        let module = |name: &str| format!("model.layers.{index}.{name}");
        let linear = |names: &[&str], biased: bool| {
            let modules: Vec<String> = names.iter().map(|name| module(name)).collect();
            Linear::new(weights, &modules, biased, trains)
        };
        let norm = |name: &str| norm_weight(config, weights, &module(name));
        let sandwich = |name: &str| if options.sandwich_norms { norm(name).map(Some) } else { Ok(None) };
        Ok(Self {
            attention_norm: norm("input_layernorm.weight")?,
            qkv: linear(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], options.qkv_bias)?,
            head_norms: match options.qk_norm {
                true => Some((norm("self_attn.q_norm.weight")?, norm("self_attn.k_norm.weight")?)),
                false => None,
            },
            output: linear(&["self_attn.o_proj"], options.output_bias)?,
            attended_norm: sandwich("post_attention_layernorm.weight")?,
            mlp_norm: norm(&format!("{}.weight", Self::mlp_norm_name(config)))?,
            gate_up: linear(&["mlp.gate_proj", "mlp.up_proj"], options.mlp_bias)?,
            down: linear(&["mlp.down_proj"], options.mlp_bias)?,
            fed_norm: sandwich("post_feedforward_layernorm.weight")?,
        })
    }

    /// What the norm before the feed-forward layer is called: the same name means the norm after attention elsewhere.
    pub(super) fn mlp_norm_name(config: &ModelConfig) -> &'static str {
        if config.options.sandwich_norms { "pre_feedforward_layernorm" } else { "post_attention_layernorm" }
    }

    /// The norms of queries and keys, where there are any.
    pub(super) fn norms(&self, eps: f64) -> Option<Norms<'_>> {
        self.head_norms.as_ref().map(|(query, key)| Norms { query, key, eps })
    }
}

/// What a norm multiplies by.
fn norm_weight(config: &ModelConfig, weights: &Weights, name: &str) -> Result<Tensor> {
    let weight = weights.get(name)?;
    if config.options.norm_offset { Ok((weight + 1.0)?) } else { Ok(weight) }
}

/// Norms rows where there is a norm: the rows as they were where they are needed again, and what to go on with.
fn normed_where(x: Tensor, norm: Option<&Tensor>, eps: f64) -> Result<(Option<Tensor>, Tensor)> {
    match norm {
        Some(norm) => {
            let normed = rms_norm::forward(&x, norm, eps)?;
            Ok((Some(x), normed))
        }
        None => Ok((None, x)),
    }
}

struct TurnRows<'a> {
    angles: &'a Angles,
    width: usize,
    heads: usize,
}

impl TurnRows<'_> {
    fn apply(&self, rows: &mut [f32]) {
        self.angles.turn(rows, self.width, self.heads, Turn::Forward);
    }
}

impl InplaceOp1 for TurnRows<'_> {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        match (storage, layout.contiguous_offsets()) {
            (CpuStorage::F32(values), Some((start, end))) => {
                self.apply(&mut values[start..end]);
                Ok(())
            }
            _ => candle_core::bail!("rope needs contiguous f32 rows"),
        }
    }
}
