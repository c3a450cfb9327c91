//! Rotary position embedding: its base frequency, and how a family stretches it for longer contexts.

use serde::Deserialize;

/// Base frequency and stretching.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// The base of the frequencies.
    pub theta: f64,
    /// How they are stretched.
    pub scaling: RopeScaling,
}

/// How the frequencies are stretched for contexts longer than those of pre-training.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All are divided by the same factor (Hugging Face `rope_type: linear`).
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// By Llama 3's rule.
    Llama3(Llama3Rope),
    /// Each by its own divisor, `head_dim / 2` of them: how GGUF writes Llama 3's rule.
    Divisors(Vec<f64>),
}

/// Llama 3's frequency-dependent stretching of RoPE (Hugging Face `rope_type: llama3`).
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Llama3Rope {
    /// By how much low frequencies are divided.
    pub factor: f64,
    /// Wavelengths above `original / low_freq_factor` are stretched in full.
    pub low_freq_factor: f64,
    /// Wavelengths below `original / high_freq_factor` stay as they are.
    pub high_freq_factor: f64,
    /// Context in tokens of the model before it was stretched.
    pub original_max_position_embeddings: f64,
}

impl Rope {
    /// Plain RoPE.
    #[must_use]
    pub fn plain(theta: f64) -> Self {
        Self { theta, scaling: RopeScaling::None }
    }

    /// The angle per position of each pair of channels: `head_dim / 2` values.
    #[must_use]
    pub fn inverse_frequencies(&self, head_dim: usize) -> Vec<f32> {
        (0..head_dim / 2)
            .map(|i| (i, 1.0 / self.theta.powf((2 * i) as f64 / head_dim as f64)))
            .map(|(i, frequency)| match &self.scaling {
                RopeScaling::None => frequency,
                RopeScaling::Divisors(divisors) => frequency / divisors.get(i).copied().unwrap_or(1.0),
                RopeScaling::Linear { factor } => frequency / factor,
                RopeScaling::Llama3(llama3) => llama3.stretch(frequency),
            } as f32)
            .collect()
    }
}

impl Llama3Rope {
    fn stretch(&self, frequency: f64) -> f64 {
        let wavelength = 2.0 * std::f64::consts::PI / frequency;
        let turns = self.original_max_position_embeddings / wavelength;
        if turns < self.low_freq_factor {
            frequency / self.factor
        } else if turns > self.high_freq_factor {
            frequency
        } else {
            let smooth = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor);
            (1.0 - smooth) * frequency / self.factor + smooth * frequency
        }
    }
}
