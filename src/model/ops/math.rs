//! Exponential, sigmoid and dot product that the compiler turns into vector instructions.
//!
//! The standard library's `exp` is a call per value, and a float sum may not be reordered by the compiler; so both are
//! written out. They give the same bits on every machine.

/// Values of one vector: 512 bits of f32.
pub const LANES: usize = 16;

/// Runs a function compiled for the widest vectors that this machine has. Only what is inlined into `f` gains by it, and `f`
/// itself must be `#[inline(always)]`.
/// The result is the same on all machines: nothing here is reordered or fused by the width of a vector.
#[inline(always)]
pub fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        // Not `Arch::dispatch`: it leaves AVX2 out unless a feature is set that changes gemm's build as well.
        if let Some(simd) = pulp::x86::V4::try_new() {
            return simd.vectorize(f);
        }
        if let Some(simd) = pulp::x86::V3::try_new() {
            return simd.vectorize(f);
        }
    }
    pulp::Arch::new().dispatch(f)
}

/// `e^x` to about 2 units in the last place, without branches (Cephes' `expf`: split off the power of two, then a
/// polynomial on ±ln 2 / 2). Saturates instead of reaching infinity or a subnormal.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer in two additions.
    const ROUND: f32 = 12_582_912.0;
    // Written so that what is not a number stays so: a fault must not turn into a probability.
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4_f32;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let value = p * r * r + r + 1.0;
    // The integer stands in the low bits of the rounded sum.
    value * f32::from_bits(rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The dot product of two slices of equal length, summed in 16 lanes.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (a_rest, b_rest) = (a_chunks.remainder(), b_chunks.remainder());
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    for (lane, (x, y)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[lane] += x * y;
    }
    sum_lanes(lanes)
}

/// The sum of a slice in 16 lanes.
#[inline(always)]
pub fn sum(a: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = a.chunks_exact(LANES);
    let rest = chunks.remainder();
    for x in chunks {
        for lane in 0..LANES {
            lanes[lane] += x[lane];
        }
    }
    for (lane, x) in rest.iter().enumerate() {
        lanes[lane] += x;
    }
    sum_lanes(lanes)
}

/// `out += Σ_i weight(i) · row(i)` over `count` rows of the width of `out`, each value summed in the order of rows.
#[inline(always)]
pub fn add_weighted_rows<'a>(
    out: &mut [f32],
    count: usize,
    weight: impl Fn(usize) -> f32,
    row: impl Fn(usize) -> &'a [f32],
) {
    let mut done = 0;
    done += add_blocks::<{ 4 * LANES }>(out, done, count, &weight, &row);
    done += add_blocks::<{ 2 * LANES }>(out, done, count, &weight, &row);
    done += add_blocks::<LANES>(out, done, count, &weight, &row);
    add_blocks::<1>(out, done, count, &weight, &row);
}

/// As many blocks of `N` columns as there are from `start` on, their sums held in registers; how many columns.
#[inline(always)]
fn add_blocks<'a, const N: usize>(
    out: &mut [f32],
    start: usize,
    count: usize,
    weight: &impl Fn(usize) -> f32,
    row: &impl Fn(usize) -> &'a [f32],
) -> usize {
    let mut at = start;
    while at + N <= out.len() {
        let mut total = [0f32; N];
        for i in 0..count {
            let (weight, values) = (weight(i), &row(i)[at..at + N]);
            for lane in 0..N {
                total[lane] += weight * values[lane];
            }
        }
        for lane in 0..N {
            out[at + lane] += total[lane];
        }
        at += N;
    }
    at - start
}

/// The largest value; negative infinity for an empty slice.
#[inline(always)]
pub fn max(a: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = a.chunks_exact(LANES);
    let rest = chunks.remainder();
    for x in chunks {
        for lane in 0..LANES {
            lanes[lane] = if x[lane] > lanes[lane] { x[lane] } else { lanes[lane] };
        }
    }
    std::hint::black_box(lanes).iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

#[inline(always)]
fn sum_lanes(lanes: [f32; LANES]) -> f32 {
    // Through memory: where the compiler sees both, it takes the lanes apart in the loop before to suit the sum here,
    // and the loop is four times as slow.
    let mut lanes = std::hint::black_box(lanes);
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}
