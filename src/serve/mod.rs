//! An OpenAI-compatible server on `model`, for one machine and for the demo.
