//! Hugging Face folders to a differentiable decoder with LoRA, and generation.
