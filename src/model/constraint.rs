//! What a sample may say: token by token, from outside.

/// Decides which tokens may follow what a sample has said so far.
///
/// A sample under a constraint is drawn from the policy's distribution over the tokens that may follow, renormalised.
pub trait Constraint: Send + Sync {
    /// Sets the logits of tokens that may not follow to negative infinity.
    ///
    /// # Errors
    /// Nothing can follow; says why. The sample ends.
    fn restrict(&mut self, logits: &mut [f32]) -> std::result::Result<(), String>;

    /// Takes note of a token that was drawn.
    ///
    /// # Errors
    /// It may not follow; says why. The sample ends.
    fn take(&mut self, token: u32) -> std::result::Result<(), String>;
}
