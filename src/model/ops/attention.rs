//! Causal attention with grouped key heads over packed rows, and its gradient.
//!
//! Rows of all sequences stand in one matrix without padding. A [`Span`] is a run of query rows with the list of key
//! rows that the last of them sees; earlier ones see correspondingly fewer. One form serves all: a prompt, a completion
//! that also sees its prompt's rows (computed once for all completions), a decode step over cached keys. No mask and no
//! `[T, T]` matrix exists; only the log-sum-exp of each row and head is kept for the backward pass, which forms the
//! probabilities again (Dao et al. 2022, without the tiling that short rows do not need).

use std::ops::Range;

use rayon::prelude::*;

use super::math::{LANES, add_weighted_rows, dot, exp, max, sum, vectorised};

/// Consecutive query rows and the key rows that they see: query `i` of `n` sees all keys but the last `n - 1 - i`,
/// and of these only the last ones where there is a window.
#[derive(Debug, Clone)]
pub struct Span {
    /// Rows of the query matrix.
    pub queries: Range<usize>,
    /// Rows of the key and value matrices, in the order of their positions.
    pub keys: Vec<u32>,
}

impl Span {
    /// How many of the keys the `i`-th query sees.
    #[inline(always)]
    fn seen(&self, i: usize) -> usize {
        self.keys.len() - (self.queries.len() - 1 - i)
    }
}

/// The number and width of heads.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Query heads.
    pub queries: usize,
    /// Key and value heads; divides `queries`.
    pub keys: usize,
    /// Channels of a head.
    pub dim: usize,
    /// Scores are multiplied by this.
    pub scale: f32,
    /// How many of the last keys a query sees, its own included; all where there is no window.
    pub window: Option<usize>,
}

impl Heads {
    /// Width of a row that holds queries, keys and values side by side.
    pub fn qkv_width(&self) -> usize {
        (self.queries + 2 * self.keys) * self.dim
    }

    /// Width of all query heads.
    pub fn query_width(&self) -> usize {
        self.queries * self.dim
    }

    /// Width of all key heads.
    pub fn key_width(&self) -> usize {
        self.keys * self.dim
    }

    /// The first of `seen` keys that the window leaves in sight.
    #[inline(always)]
    fn first_seen(&self, seen: usize) -> usize {
        self.window.map_or(0, |window| seen.saturating_sub(window))
    }
}

/// Equally spaced rows inside a larger matrix: row `i` begins at `offset + i * stride`.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// The matrix.
    pub data: &'a [f32],
    /// Values from one row to the next.
    pub stride: usize,
    /// Where the first row begins.
    pub offset: usize,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    fn part(&self, row: usize, column: usize, width: usize) -> &'a [f32] {
        let at = self.offset + row * self.stride + column;
        &self.data[at..at + width]
    }
}

/// Attention of queries over keys and values.
///
/// `spans` cover the query rows in order and without gaps. Returns the output `[n, heads · dim]` and the log-sum-exp of
/// the scaled scores `[n, heads]`.
pub fn forward(q: Rows<'_>, k: Rows<'_>, v: Rows<'_>, spans: &[Span], heads: Heads) -> (Vec<f32>, Vec<f32>) {
    let rows = spans.last().map_or(0, |span| span.queries.end);
    let (mut out, mut lse) = (vec![0f32; rows * heads.query_width()], vec![0f32; rows * heads.queries]);
    let lengths = || spans.iter().map(|span| span.queries.len());
    let outs = split(&mut out, lengths().map(|n| n * heads.query_width()));
    let lses = split(&mut lse, lengths().map(|n| n * heads.queries));
    spans.par_iter().zip(outs).zip(lses).for_each(|((span, out), lse)| {
        vectorised(
            #[inline(always)]
            || span_forward(q, k, v, span, heads, out, lse),
        );
    });
    (out, lse)
}

#[inline(always)]
fn span_forward(q: Rows<'_>, k: Rows<'_>, v: Rows<'_>, span: &Span, heads: Heads, out: &mut [f32], lse: &mut [f32]) {
    let (dim, scale, group) = (heads.dim, heads.scale, heads.queries / heads.keys);
    let mut scores = vec![0f32; padded(span.keys.len())];
    let mut turned = Vec::new();
    for head in 0..heads.queries {
        let (q_column, kv_column) = (head * dim, head / group * dim);
        let few = span.queries.len() < TRANSPOSE_QUERIES_MIN;
        if !few && head % group == 0 {
            transpose(k, &span.keys, kv_column, dim, &mut turned);
        }
        for (i, row) in span.queries.clone().enumerate() {
            let seen = span.seen(i);
            let first = heads.first_seen(seen);
            let keys = &span.keys[first..seen];
            let query = q.part(row, q_column, dim);
            if few {
                for (score, key) in scores[first..seen].iter_mut().zip(keys) {
                    *score = dot(query, k.part(*key as usize, kv_column, dim));
                }
            } else {
                products(query, &turned, &mut scores);
            }
            let scores = &mut scores[first..seen];
            let largest = max(scores) * scale;
            scores.iter_mut().for_each(|score| *score = exp(*score * scale - largest));
            let total = sum(scores);
            let inverse = 1.0 / total;
            scores.iter_mut().for_each(|score| *score *= inverse);
            let at = i * heads.query_width() + q_column;
            let value = |j: usize| v.part(keys[j] as usize, kv_column, dim);
            add_weighted_rows(&mut out[at..at + dim], keys.len(), |j| scores[j], value);
            lse[i * heads.queries + head] = largest + total.ln();
        }
    }
}

/// What the backward pass needs from the forward pass; keys and values are rows of the same matrix as the queries.
#[derive(Debug, Clone, Copy)]
pub struct Saved<'a> {
    /// Queries, keys and values side by side, `[n, qkv_width]`.
    pub qkv: &'a [f32],
    /// The output, `[n, heads · dim]`.
    pub out: &'a [f32],
    /// The log-sum-exp, `[n, heads]`.
    pub lse: &'a [f32],
}

/// The gradient with respect to `qkv`, `[n, qkv_width]`, given the one of the output.
///
/// `families` are runs of spans whose keys lie within their own query rows: they share no row, so that they run in
/// parallel and the result does not depend on it.
pub fn backward(saved: Saved<'_>, dout: &[f32], spans: &[Span], families: &[Range<usize>], heads: Heads) -> Vec<f32> {
    let width = heads.qkv_width();
    let mut dqkv = vec![0f32; saved.qkv.len()];
    let rows = |family: &Range<usize>| spans[family.start].queries.start..spans[family.end - 1].queries.end;
    let parts = split(&mut dqkv, families.iter().map(|family| rows(family).len() * width));
    families.par_iter().zip(parts).for_each(|(family, dqkv)| {
        let first = rows(family).start;
        for span in &spans[family.clone()] {
            vectorised(
                #[inline(always)]
                || span_backward(saved, dout, span, heads, dqkv, first),
            );
        }
    });
    dqkv
}

#[inline(always)]
fn span_backward(saved: Saved<'_>, dout: &[f32], span: &Span, heads: Heads, dqkv: &mut [f32], first: usize) {
    let (dim, scale, group, width) = (heads.dim, heads.scale, heads.queries / heads.keys, heads.qkv_width());
    let rows = |offset| Rows { data: saved.qkv, stride: width, offset };
    let (q, k, v) = (rows(0), rows(heads.query_width()), rows(heads.query_width() + heads.key_width()));
    let outs = |data| Rows { data, stride: heads.query_width(), offset: 0 };
    let (out, dout) = (outs(saved.out), outs(dout));
    let (count, stride) = (span.queries.len(), padded(span.keys.len()));
    let (mut k_turned, mut v_turned) = (Vec::new(), Vec::new());
    // Probabilities and gradients of the scores, [queries, keys]; what a query does not see stays zero.
    let (mut p, mut ds) = (vec![0f32; count * stride], vec![0f32; count * stride]);
    for head in 0..heads.queries {
        let (q_column, kv_column) = (head * dim, head / group * dim);
        if head % group == 0 {
            transpose(k, &span.keys, kv_column, dim, &mut k_turned);
            transpose(v, &span.keys, kv_column, dim, &mut v_turned);
        }
        for (i, row) in span.queries.clone().enumerate() {
            let (p, ds) = (&mut p[i * stride..(i + 1) * stride], &mut ds[i * stride..(i + 1) * stride]);
            let (seen, dout) = (span.seen(i), dout.part(row, q_column, dim));
            let (lse, delta) = (saved.lse[row * heads.queries + head], dot(dout, out.part(row, q_column, dim)));
            products(q.part(row, q_column, dim), &k_turned, p);
            products(dout, &v_turned, ds);
            let unseen = heads.first_seen(seen);
            for (p, ds) in p[unseen..seen].iter_mut().zip(&mut ds[unseen..seen]) {
                *p = exp(*p * scale - lse);
                *ds = *p * (*ds - delta) * scale;
            }
            for hidden in [0..unseen, seen..stride] {
                p[hidden.clone()].fill(0.0);
                ds[hidden].fill(0.0);
            }
            let at = (row - first) * width + q_column;
            let key = |j: usize| k.part(span.keys[unseen + j] as usize, kv_column, dim);
            add_weighted_rows(&mut dqkv[at..at + dim], seen - unseen, |j| ds[unseen + j], key);
        }
        for (j, key) in span.keys.iter().enumerate() {
            // The queries before this one do not see the key.
            let blind = (j + count).saturating_sub(span.keys.len());
            // Those after the window do neither any more: query `i` sees it while `seen(i) <= j + window`.
            let sighted = heads.window.map_or(count, |window| (j + window + count).saturating_sub(span.keys.len()));
            let queries = sighted.min(count).saturating_sub(blind);
            let at = (*key as usize - first) * width + heads.query_width() + kv_column;
            let query = |i: usize| q.part(span.queries.start + blind + i, q_column, dim);
            add_weighted_rows(&mut dqkv[at..at + dim], queries, |i| ds[(blind + i) * stride + j], query);
            let at = at + heads.key_width();
            let dout = |i: usize| dout.part(span.queries.start + blind + i, q_column, dim);
            add_weighted_rows(&mut dqkv[at..at + dim], queries, |i| p[(blind + i) * stride + j], dout);
        }
    }
}

/// With fewer queries than this the scores are dot products: turning the keys would not pay.
const TRANSPOSE_QUERIES_MIN: usize = 4;

/// Keys are filled up with zeros to whole vectors.
fn padded(keys: usize) -> usize {
    keys.next_multiple_of(LANES)
}

/// One head of the given rows with channels as rows: `[dim, padded(keys)]`.
#[inline(always)]
fn transpose(rows: Rows<'_>, keys: &[u32], column: usize, dim: usize, out: &mut Vec<f32>) {
    let stride = padded(keys.len());
    out.clear();
    out.resize(dim * stride, 0.0);
    for (j, key) in keys.iter().enumerate() {
        for (channel, value) in rows.part(*key as usize, column, dim).iter().enumerate() {
            out[channel * stride + j] = *value;
        }
    }
}

/// The dot products of a vector with every key of a transposed head.
#[inline(always)]
fn products(vector: &[f32], turned: &[f32], out: &mut [f32]) {
    let stride = out.len();
    out.fill(0.0);
    add_weighted_rows(out, vector.len(), |channel| vector[channel], |channel| &turned[channel * stride..][..stride]);
}

fn split(mut values: &mut [f32], lengths: impl Iterator<Item = usize>) -> Vec<&mut [f32]> {
    let mut parts = Vec::new();
    for length in lengths {
        let (part, rest) = values.split_at_mut(length);
        parts.push(part);
        values = rest;
    }
    parts
}
