//! Log-probabilities of given completions, and their gradient.
//!
//! [`Decoder::logprobs`] gives numbers; [`Decoder::forward`] keeps what the gradient needs. The caller forms a scalar
//! loss from [`ForwardPass::tokens`] with candle's operations (or the loss's own derivative by hand), and
//! [`ForwardPass::backward`] carries it on to the adapter, or to the weights of a trainable decoder. The network itself
//! is never in candle's graph.

use std::ops::Range;

use candle_core::{Tensor, Var};

use super::batch::{Batch, PromptGroup};
use super::decoder::{Decoder, Hidden, Layer, LayerTrace, Rotations};
use super::error::{Error, Result};
use super::ops::attention::{self, Saved};
use super::ops::gated;
use super::ops::head;
use super::ops::head_norm;
use super::ops::host::{Slice, matrix};
use super::ops::rms_norm;
use super::ops::rope::Turn;
use super::weights::Tensors;

/// Log-probabilities of completions, and what carries a gradient back from them.
pub struct ForwardPass<'a> {
    decoder: &'a Decoder,
    batch: Batch,
    trace: Vec<Trace>,
    hidden: Hidden,
    lse: Vec<f32>,
    rotations: Rotations,
    temperature: f32,
    tokens: Var,
}

/// What the forward pass keeps for the backward pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Keep {
    /// All that every layer computed: the fastest.
    #[default]
    Everything,
    /// What enters each layer; the rest is computed again, a layer at a time, on the way back (Chen et al. 2016,
    /// arXiv 1604.06174). One more forward pass, and the memory of one layer in place of all.
    LayerInputs,
}

enum Trace {
    Whole(Box<LayerTrace>),
    Input(Tensor),
}

impl Keep {
    fn of(self, trace: LayerTrace) -> Trace {
        match self {
            Self::Everything => Trace::Whole(Box::new(trace)),
            Self::LayerInputs => Trace::Input(trace.x),
        }
    }
}

impl Decoder {
    /// The log-probability of every completion token under `softmax(logits / temperature)`: one list a completion, in
    /// the order of the groups and their completions.
    ///
    /// # Errors
    /// An empty prompt, an unknown token id, a sequence longer than the model's positions, a temperature that is not
    /// positive.
    pub fn logprobs(&self, groups: &[PromptGroup], temperature: f32) -> Result<Vec<Vec<f32>>> {
        let batch = self.pack(groups)?;
        let hidden = self.run_batch(&batch, |_| ())?;
        let (tokens, _) = self.score(&batch, &hidden, temperature)?;
        Ok(batch.completions.iter().map(|range| tokens[range.clone()].to_vec()).collect())
    }

    /// As [`Decoder::logprobs`], ready for a gradient.
    ///
    /// # Errors
    /// As [`Decoder::logprobs`].
    pub fn forward(&self, groups: &[PromptGroup], temperature: f32) -> Result<ForwardPass<'_>> {
        self.forward_keeping(groups, temperature, Keep::Everything)
    }

    /// As [`Decoder::forward`], with less memory where less is kept; the numbers are the same.
    ///
    /// # Errors
    /// As [`Decoder::logprobs`].
    pub fn forward_keeping(&self, groups: &[PromptGroup], temperature: f32, keep: Keep) -> Result<ForwardPass<'_>> {
        let batch = self.pack(groups)?;
        let mut trace = Vec::with_capacity(self.layers.len());
        let hidden = self.run_batch(&batch, |left| trace.push(keep.of(left)))?;
        let (tokens, lse) = self.score(&batch, &hidden, temperature)?;
        let tokens = Var::from_vec(tokens, batch.targets.len(), self.device())?;
        let rotations = self.rotations(&batch.positions);
        Ok(ForwardPass { decoder: self, batch, trace, hidden, lse, rotations, temperature, tokens })
    }

    fn score(&self, batch: &Batch, hidden: &Hidden, temperature: f32) -> Result<(Vec<f32>, Vec<f32>)> {
        if !(temperature.is_finite() && temperature > 0.0) {
            let expected = "a positive number".to_owned();
            return Err(Error::Argument { what: "temperature", found: temperature.to_string(), expected });
        }
        let rows = pick(&hidden.normed, &batch.predictors)?;
        Ok(head::forward(&rows, &self.head, &batch.targets, temperature)?)
    }
}

impl ForwardPass<'_> {
    /// The log-probability of every completion token, `[tokens]`: all completions one after the other. A leaf of
    /// candle's graph: form the loss from it.
    pub fn tokens(&self) -> &Tensor {
        self.tokens.as_tensor()
    }

    /// Where each completion's tokens stand in [`ForwardPass::tokens`].
    pub fn completions(&self) -> &[Range<usize>] {
        &self.batch.completions
    }

    /// The log-probability of every completion, `[completions]`: the sum of its tokens', differentiable.
    ///
    /// # Errors
    /// Only a failing device.
    pub fn sequences(&self) -> Result<Tensor> {
        let completions = self.completions().iter().enumerate();
        let owners: Vec<u32> = completions.flat_map(|(i, range)| std::iter::repeat_n(i as u32, range.len())).collect();
        let owners = Tensor::from_vec(owners, self.batch.targets.len(), self.decoder.device())?;
        let zeros = Tensor::zeros(self.completions().len(), self.tokens().dtype(), self.decoder.device())?;
        Ok(zeros.index_add(&owners, self.tokens(), 0)?)
    }

    /// The gradient of a scalar loss formed from [`ForwardPass::tokens`], by parameter name.
    ///
    /// # Errors
    /// A loss that does not depend on the tokens, or a failing device.
    pub fn backward(self, loss: &Tensor) -> Result<Tensors> {
        let store = loss.backward()?;
        let Some(dtokens) = store.get(self.tokens()) else {
            let (found, expected) = ("independent of them".to_owned(), "formed from tokens()".to_owned());
            return Err(Error::Argument { what: "loss of log-probabilities", found, expected });
        };
        let dtokens = Slice::of(dtokens)?.to_vec();
        self.backward_from(&dtokens)
    }

    /// The gradient, given the loss's derivative by each token's log-probability.
    ///
    /// # Errors
    /// Another number of values than tokens, or a failing device.
    pub fn backward_from(mut self, dtokens: &[f32]) -> Result<Tensors> {
        if dtokens.len() != self.batch.targets.len() {
            let (found, expected) = (dtokens.len().to_string(), self.batch.targets.len().to_string());
            return Err(Error::Argument { what: "number of token gradients", found, expected });
        }
        let mut gradients = Tensors::new();
        let mut dx = self.head_backward(dtokens, &mut gradients)?;
        for index in (0..self.decoder.layers.len()).rev() {
            // The layer's trace is dropped as soon as it has been used: memory falls while the gradient rises.
            let trace = match self.trace.pop() {
                None => break,
                Some(Trace::Whole(trace)) => *trace,
                Some(Trace::Input(x)) => self.decoder.recompute(index, x, &self.batch, &self.rotations)?,
            };
            match self.layer_backward(index, trace, dx, &mut gradients)? {
                Some(next) => dx = next,
                None => return Ok(gradients),
            }
        }
        self.embedding_backward(&dx, &mut gradients)?;
        Ok(gradients)
    }

    /// Output layer and final norm: the gradient that reaches the residual stream, `[rows, hidden]`.
    fn head_backward(&self, dtokens: &[f32], gradients: &mut Tensors) -> Result<Tensor> {
        let (decoder, batch) = (self.decoder, &self.batch);
        let eps = decoder.config.rms_norm_eps;
        let x = pick(&self.hidden.x, &batch.predictors)?;
        let of = head::Backward {
            hidden: &pick(&self.hidden.normed, &batch.predictors)?,
            weight: &decoder.head,
            targets: &batch.targets,
            temperature: self.temperature,
            lse: &self.lse,
            weight_gradient: decoder.trains,
        };
        let (dnormed, dhead) = head::backward(of, dtokens)?;
        if let Some(dhead) = dhead {
            gradients.insert(decoder.head_name().to_owned(), dhead);
            gradients.insert("model.norm.weight".to_owned(), rms_norm::backward_weight(&x, eps, &dnormed)?);
        }
        let picked = rms_norm::backward(&x, &decoder.norm, eps, &dnormed, None)?;
        scatter_add(&picked, &batch.predictors, batch.ids.len())
    }

    /// One layer: the gradient of its input, given the one of its output. `None` where nothing below it trains.
    fn layer_backward(
        &self,
        index: usize,
        trace: LayerTrace,
        dx: Tensor,
        gradients: &mut Tensors,
    ) -> Result<Option<Tensor>> {
        let (decoder, layer) = (self.decoder, &self.decoder.layers[index]);
        let (eps, activation) = (decoder.config.rms_norm_eps, decoder.config.options.activation);
        let norm_name = |name: &str| format!("model.layers.{index}.{name}.weight");

        let dfed = self.delta_backward(&dx, trace.fed.as_ref(), layer.fed_norm.as_ref(), gradients, || {
            norm_name("post_feedforward_layernorm")
        })?;
        if layer.down.has_parameters() {
            layer.down.parameter_gradients(&gated::forward(&trace.gate_up, activation)?, &dfed, gradients)?;
        }
        let dgate_up = gated::backward(&trace.gate_up, &layer.down.input_gradient(&dfed)?, activation)?;
        if layer.gate_up.has_parameters() {
            let normed = rms_norm::forward(&trace.middle, &layer.mlp_norm, eps)?;
            layer.gate_up.parameter_gradients(&normed, &dgate_up, gradients)?;
        }
        let dnormed = layer.gate_up.input_gradient(&dgate_up)?;
        if decoder.trains {
            let dweight = rms_norm::backward_weight(&trace.middle, eps, &dnormed)?;
            gradients.insert(norm_name(Layer::mlp_norm_name(&decoder.config)), dweight);
        }
        let dmiddle = rms_norm::backward(&trace.middle, &layer.mlp_norm, eps, &dnormed, Some(&dx))?;

        let dattended =
            self.delta_backward(&dmiddle, trace.attended.as_ref(), layer.attended_norm.as_ref(), gradients, || {
                norm_name("post_attention_layernorm")
            })?;
        if layer.output.has_parameters() {
            layer.output.parameter_gradients(&trace.heads, &dattended, gradients)?;
        }
        let dqkv = self.attention_backward(index, &trace, &layer.output.input_gradient(&dattended)?, gradients)?;
        if layer.qkv.has_parameters() {
            let normed = rms_norm::forward(&trace.x, &layer.attention_norm, eps)?;
            layer.qkv.parameter_gradients(&normed, &dqkv, gradients)?;
        }
        if index == 0 && !decoder.trains {
            return Ok(None);
        }
        let dnormed = layer.qkv.input_gradient(&dqkv)?;
        if decoder.trains {
            let dweight = rms_norm::backward_weight(&trace.x, eps, &dnormed)?;
            gradients.insert(norm_name("input_layernorm"), dweight);
        }
        Ok(Some(rms_norm::backward(&trace.x, &layer.attention_norm, eps, &dnormed, Some(&dmiddle))?))
    }

    /// The norm of what is added to the residual stream, where there is one: the gradient before it, given the one after.
    fn delta_backward(
        &self,
        dy: &Tensor,
        x: Option<&Tensor>,
        norm: Option<&Tensor>,
        gradients: &mut Tensors,
        name: impl Fn() -> String,
    ) -> Result<Tensor> {
        let (Some(x), Some(norm)) = (x, norm) else { return Ok(dy.clone()) };
        let eps = self.decoder.config.rms_norm_eps;
        if self.decoder.trains {
            gradients.insert(name(), rms_norm::backward_weight(x, eps, dy)?);
        }
        Ok(rms_norm::backward(x, norm, eps, dy, None)?)
    }

    /// Attention, RoPE and the norms of queries and keys: the gradient of the projections' output, `[rows, qkv_width]`.
    fn attention_backward(
        &self,
        index: usize,
        trace: &LayerTrace,
        dheads: &Tensor,
        gradients: &mut Tensors,
    ) -> Result<Tensor> {
        let (decoder, batch, heads) = (self.decoder, &self.batch, self.decoder.heads(index));
        let (qkv, out, dheads) = (Slice::of(&trace.qkv)?, Slice::of(&trace.heads)?, Slice::of(dheads)?);
        let saved = Saved { qkv: &qkv, out: &out, lse: &trace.lse };
        let mut dqkv = attention::backward(saved, &dheads, &batch.spans, &batch.families, heads);
        if let Some(angles) = self.rotations.of(decoder.config.layers[index].rotary) {
            angles.turn(&mut dqkv, heads.qkv_width(), heads.queries + heads.keys, Turn::Backward);
        }
        let dqkv = matrix(dqkv, heads.qkv_width(), decoder.device())?;
        let eps = decoder.config.rms_norm_eps;
        let (Some(unnormed), Some(norms)) = (&trace.unnormed, decoder.layers[index].norms(eps)) else {
            return Ok(dqkv);
        };
        if decoder.trains {
            let (query, key) = head_norm::backward_weights(unnormed, eps, heads, &dqkv)?;
            gradients.insert(format!("model.layers.{index}.self_attn.q_norm.weight"), query);
            gradients.insert(format!("model.layers.{index}.self_attn.k_norm.weight"), key);
        }
        Ok(head_norm::backward(unnormed, norms, heads, &dqkv)?)
    }

    fn embedding_backward(&self, dx: &Tensor, gradients: &mut Tensors) -> Result<()> {
        let name = "model.embed_tokens.weight";
        let mut dembedding = scatter_add(dx, &self.batch.ids, self.decoder.config.vocab_size)?;
        let scale = self.decoder.config.options.embedding_scale;
        if scale != 1.0 {
            dembedding = dembedding.affine(f64::from(scale), 0.0)?;
        }
        let total = match gradients.remove(name) {
            Some(from_head) => (from_head + dembedding)?,
            None => dembedding,
        };
        gradients.insert(name.to_owned(), total);
        Ok(())
    }
}

impl Decoder {
    fn head_name(&self) -> &'static str {
        if self.config.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" }
    }
}

/// The given rows of a matrix, in the given order.
fn pick(matrix: &Tensor, rows: &[u32]) -> Result<Tensor> {
    Ok(matrix.index_select(&Tensor::new(rows, matrix.device())?, 0)?)
}

/// A matrix of `height` rows to which each row of `values` is added at its index, in order.
fn scatter_add(values: &Tensor, rows: &[u32], height: usize) -> Result<Tensor> {
    let width = values.dim(1)?;
    let mut out = vec![0f32; height * width];
    for (value, row) in Slice::of(values)?.chunks_exact(width).zip(rows) {
        let at = *row as usize * width;
        for (out, value) in out[at..at + width].iter_mut().zip(value) {
            *out += value;
        }
    }
    Ok(matrix(out, width, values.device())?)
}
