//! Named weights: safetensors in and out, fresh ones for pre-training, and the hash that identifies a base model.
//!
//! Weights are held as f32 whatever the file's type; names are Hugging Face's. Nothing is loaded lazily: after
//! [`Weights::read`] every tensor that the configuration implies is there and has the right shape.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use sha2::{Digest, Sha256};

use super::config::ModelConfig;
use super::error::{Error, Result};

/// Tensors by name, in the order of names, so that everything made from them is deterministic.
pub type Tensors = BTreeMap<String, Tensor>;

const SINGLE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";
const CONFIG_FILE: &str = "config.json";

/// All weights of one model.
#[derive(Debug, Clone)]
pub struct Weights {
    /// The tensors, f32, by their Hugging Face names.
    pub tensors: Tensors,
    source: PathBuf,
}

/// The type that floats have in a written file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// 16-bit half precision.
    F16,
    /// 32-bit single precision.
    F32,
}

impl Weights {
    /// Reads `model.safetensors` or the shards of `model.safetensors.index.json` and checks every shape.
    ///
    /// # Errors
    /// A missing or damaged file, a missing tensor, a wrong shape or type: each names the file and the tensor.
    pub fn read(folder: &Path, config: &ModelConfig, device: &Device) -> Result<Self> {
        Self::new(read_folder(folder, device)?, config, folder)
    }

    /// Takes tensors as a model's weights; `source` is named in errors.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] and [`Error::Shape`]. Tensors that the configuration does not know are dropped.
    pub fn new(mut tensors: Tensors, config: &ModelConfig, source: &Path) -> Result<Self> {
        let mut kept = Tensors::new();
        for (name, expected) in config.weight_shapes() {
            let path = source.to_owned();
            let Some(tensor) = tensors.remove(&name) else {
                return Err(Error::MissingTensor { path, name, expected });
            };
            if tensor.dims() != expected {
                return Err(Error::Shape { path, name, found: tensor.dims().to_vec(), expected });
            }
            kept.insert(name, tensor);
        }
        Ok(Self { tensors: kept, source: source.to_owned() })
    }

    /// Fresh weights for pre-training: normal with deviation 0.02, the layers that write into the residual stream
    /// narrower by `sqrt(2 · layers)` (as GPT-2), norms at one. The same seed gives the same weights.
    ///
    /// # Errors
    /// Only a failing device.
    pub fn random(config: &ModelConfig, seed: u64, device: &Device) -> Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut tensors = Tensors::new();
        for (name, shape) in config.weight_shapes() {
            let count = shape.iter().product();
            let narrow = name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
            let deviation = if narrow { 0.02 / (2.0 * config.layers.len() as f32).sqrt() } else { 0.02 };
            let values: Vec<f32> = match shape.len() {
                // A norm that multiplies by one more than its weight begins at zero, as a bias does.
                1 if name.ends_with(".bias") || config.options.norm_offset => vec![0.0; count],
                1 => vec![1.0; count],
                _ => (0..count).map(|_| standard_normal(&mut rng) * deviation).collect(),
            };
            tensors.insert(name, Tensor::from_vec(values, shape, device)?);
        }
        Self::new(tensors, config, Path::new("(fresh weights)"))
    }

    /// Writes `model.safetensors` into a folder.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write(&self, folder: &Path, precision: Precision) -> Result<()> {
        write_safetensors(&folder.join(SINGLE_FILE), &self.tensors, precision)
    }

    /// One tensor, with the shape that it must have already checked.
    pub(super) fn get(&self, name: &str) -> Result<Tensor> {
        self.tensors.get(name).cloned().ok_or_else(|| Error::MissingTensor {
            path: self.source.clone(),
            name: name.to_owned(),
            expected: Vec::new(),
        })
    }
}

/// SHA-256 over `config.json` and the weight files, in hexadecimal: what an adapter belongs to.
///
/// # Errors
/// [`Error::Read`] and [`Error::MissingWeights`].
pub fn content_hash(folder: &Path) -> Result<String> {
    hash_of(std::iter::once(folder.join(CONFIG_FILE)).chain(weight_files(folder)?))
}

/// The same over a single file that holds everything.
///
/// # Errors
/// [`Error::Read`].
pub(super) fn file_hash(file: &Path) -> Result<String> {
    hash_of(std::iter::once(file.to_owned()))
}

fn hash_of(files: impl Iterator<Item = PathBuf>) -> Result<String> {
    let mut hash = Sha256::new();
    for path in files {
        let bytes = read(&path)?;
        // The length separates the files: no two sets of files give the same stream.
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(&bytes);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// All tensors of one safetensors file as f32.
///
/// # Errors
/// [`Error::Read`], [`Error::Safetensors`], [`Error::Dtype`].
pub fn read_safetensors(path: &Path, device: &Device) -> Result<Tensors> {
    parse_safetensors(path, &read(path)?, device)
}

fn parse_safetensors(path: &Path, bytes: &[u8], device: &Device) -> Result<Tensors> {
    let invalid = |source| Error::Safetensors { path: path.to_owned(), source };
    let file = SafeTensors::deserialize(bytes).map_err(invalid)?;
    let mut tensors = Tensors::new();
    for (name, view) in file.iter() {
        let values = floats(&view).ok_or_else(|| Error::Dtype {
            path: path.to_owned(),
            name: name.to_owned(),
            found: format!("{:?}", view.dtype()),
        })?;
        tensors.insert(name.to_owned(), Tensor::from_vec(values, view.shape(), device)?);
    }
    Ok(tensors)
}

/// Writes tensors; the same tensors give the same bytes.
///
/// # Errors
/// [`Error::Write`].
pub fn write_safetensors(path: &Path, tensors: &Tensors, precision: Precision) -> Result<()> {
    let bytes = safetensors_bytes(path, tensors, precision, [("format".to_owned(), "pt".to_owned())].into())?;
    fs::write(path, bytes).map_err(|source| Error::Write { path: path.to_owned(), source })
}

/// Tensors as the bytes of a safetensors file with metadata, exact in f32; what [`tensors_from_bytes`] reads.
///
/// # Errors
/// A failing device.
pub fn tensors_to_bytes(tensors: &Tensors, metadata: HashMap<String, String>) -> Result<Vec<u8>> {
    safetensors_bytes(Path::new(IN_MEMORY), tensors, Precision::F32, metadata)
}

/// Tensors and metadata of [`tensors_to_bytes`].
///
/// # Errors
/// [`Error::Safetensors`] where the bytes are damaged.
pub fn tensors_from_bytes(bytes: &[u8], device: &Device) -> Result<(Tensors, HashMap<String, String>)> {
    let invalid = |source| Error::Safetensors { path: IN_MEMORY.into(), source };
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(invalid)?;
    let tensors = parse_safetensors(Path::new(IN_MEMORY), bytes, device)?;
    Ok((tensors, metadata.metadata().clone().unwrap_or_default()))
}

/// What errors name where there is no file.
const IN_MEMORY: &str = "(bytes in memory)";

fn safetensors_bytes(
    path: &Path,
    tensors: &Tensors,
    precision: Precision,
    metadata: HashMap<String, String>,
) -> Result<Vec<u8>> {
    let mut buffers = Vec::new();
    for (name, tensor) in tensors {
        let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let bytes: Vec<u8> = match precision {
            Precision::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Precision::F16 => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
        };
        buffers.push((name, tensor.dims().to_vec(), bytes));
    }
    let dtype = if precision == Precision::F32 { Dtype::F32 } else { Dtype::F16 };
    let invalid = |source| Error::Safetensors { path: path.to_owned(), source };
    let mut views = Vec::new();
    for (name, shape, bytes) in &buffers {
        views.push((name.as_str(), TensorView::new(dtype, shape.clone(), bytes).map_err(invalid)?));
    }
    safetensors::serialize(views, Some(metadata)).map_err(invalid)
}

/// One draw of the standard normal distribution (Box and Muller 1958).
fn standard_normal(rng: &mut ChaCha8Rng) -> f32 {
    // 1 - u is in (0, 1], where the logarithm is finite.
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    (radius * (2.0 * std::f64::consts::PI * rng.random::<f64>()).cos()) as f32
}

fn floats(view: &TensorView<'_>) -> Option<Vec<f32>> {
    let pairs = || view.data().chunks_exact(2).map(|b| [b[0], b[1]]);
    match view.dtype() {
        Dtype::F32 => Some(view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()),
        Dtype::F16 => Some(pairs().map(|b| half::f16::from_le_bytes(b).to_f32()).collect()),
        Dtype::BF16 => Some(pairs().map(|b| half::bf16::from_le_bytes(b).to_f32()).collect()),
        _ => None,
    }
}

/// All tensors of a folder's weight files.
pub(super) fn read_folder(folder: &Path, device: &Device) -> Result<Tensors> {
    let mut tensors = Tensors::new();
    for path in weight_files(folder)? {
        tensors.extend(read_safetensors(&path, device)?);
    }
    Ok(tensors)
}

/// The files that hold the weights, in the order of their names.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let single = folder.join(SINGLE_FILE);
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = folder.join(INDEX_FILE);
    if !index.is_file() {
        return Err(Error::MissingWeights { folder: folder.to_owned() });
    }
    let json = |source| Error::Json { path: index.clone(), source };
    let parsed: Index = serde_json::from_slice(&read(&index)?).map_err(json)?;
    let names: std::collections::BTreeSet<String> = parsed.weight_map.into_values().collect();
    names.into_iter().map(|name| shard(folder, &index, name)).collect()
}

/// A shard's path; an index that points out of its folder is refused.
fn shard(folder: &Path, index: &Path, name: String) -> Result<PathBuf> {
    if Path::new(&name).components().eq([std::path::Component::Normal(name.as_ref())]) {
        return Ok(folder.join(name));
    }
    let expected = "file names without folders".to_owned();
    Err(Error::Field { path: index.to_owned(), field: "weight_map", found: name, expected })
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}
