//! Tensors as f32 slices and back: without a copy on the CPU, by a copy elsewhere.

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, Device, Result, Storage, Tensor};

/// The values of a tensor in row-major order, borrowed from it where possible.
pub enum Slice<'a> {
    /// A contiguous tensor on the CPU.
    Borrowed(Box<dyn Deref<Target = Storage> + 'a>, Range<usize>),
    /// Anything else.
    Copied(Vec<f32>),
}

impl<'a> Slice<'a> {
    /// The values of an f32 tensor of any rank.
    ///
    /// # Errors
    /// Another type than f32, or a failed copy from a device.
    pub fn of(tensor: &'a Tensor) -> Result<Self> {
        {
            let (storage, layout) = tensor.storage_and_layout();
            if let (Storage::Cpu(CpuStorage::F32(_)), Some((start, end))) = (&*storage, layout.contiguous_offsets()) {
                return Ok(Self::Borrowed(Box::new(storage), start..end));
            }
        }
        Ok(Self::Copied(tensor.flatten_all()?.to_vec1::<f32>()?))
    }
}

impl Deref for Slice<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Borrowed(storage, range) => match &***storage {
                Storage::Cpu(CpuStorage::F32(values)) => &values[range.clone()],
                _ => unreachable!("of() borrows only f32 on the CPU, and a storage never changes its kind"),
            },
            Self::Copied(values) => values,
        }
    }
}

/// A `[rows, width]` tensor that owns `values`.
///
/// # Errors
/// A length that is not `rows * width`, or a failed copy to the device.
pub fn matrix(values: Vec<f32>, width: usize, device: &Device) -> Result<Tensor> {
    let rows = values.len() / width.max(1);
    Tensor::from_vec(values, (rows, width), device)
}
