//! The operations of the decoder, each with its gradient: contiguous f32 rows, rayon over rows, fixed order of sums.
//!
//! Matrix products stay candle's; what stands here is everything between them, where candle is single-threaded and
//! where its fast kernels cut the gradient in silence. No result depends on the number of threads: a row is always
//! summed by one thread, in one order. On another device than the CPU the rows make a round trip through the host.
//!
//! - [`host`]: tensors as slices and back
//! - [`math`]: exponential and dot product that the compiler vectorises
//! - [`rms_norm`], [`rope`], [`head_norm`], [`attention`], [`gated`], [`head`]: one file an operation, forward and backward

pub mod attention;
pub mod gated;
pub mod head;
pub mod head_norm;
pub mod host;
pub mod math;
pub mod rms_norm;
pub mod rope;
