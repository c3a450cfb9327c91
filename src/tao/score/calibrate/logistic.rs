//! Logistic regression over a few numbers, standardised, with a ridge.

use super::Sample;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The ridge on standardised weights: scores are few and often alike, and without it two that are equal have no solution.
const RIDGE: f64 = 1.0;
const STEPS_MAX: usize = 50;
/// A step smaller than this ends the search.
const STEP_MIN: f64 = 1e-10;

/// A weight for each number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Logistic {
    intercept: f64,
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Term {
    name: String,
    /// What a missing number is taken for.
    mean: f64,
    deviation: f64,
    weight: f64,
}

impl Logistic {
    /// Fits samples; nothing where no number varies.
    pub(super) fn fit(samples: &[&Sample]) -> Option<Self> {
        let names: BTreeSet<&String> = samples.iter().flat_map(|s| s.numbers.keys()).collect();
        let terms: Vec<Term> = names.into_iter().filter_map(|name| term(name, samples)).collect();
        if terms.is_empty() {
            return None;
        }
        let mut fitted = Self { intercept: 0.0, terms };
        let rows: Vec<Vec<f64>> = samples.iter().map(|s| fitted.row(&|name| s.numbers.get(name).copied())).collect();
        let labels: Vec<f64> = samples.iter().map(|s| f64::from(u8::from(s.content))).collect();
        let mut weights = vec![0.0; fitted.terms.len() + 1];
        for _ in 0..STEPS_MAX {
            let step = newton(&rows, &labels, &weights)?;
            weights.iter_mut().zip(&step).for_each(|(w, s)| *w += s);
            if step.iter().all(|s| s.abs() < STEP_MIN) {
                break;
            }
        }
        fitted.intercept = weights[0];
        fitted.terms.iter_mut().zip(&weights[1..]).for_each(|(term, w)| term.weight = *w);
        Some(fitted)
    }

    /// The probability.
    #[must_use]
    pub fn apply(&self, number_of: &dyn Fn(&str) -> Option<f64>) -> f64 {
        let row = self.row(number_of);
        let sum: f64 = self.terms.iter().zip(&row[1..]).map(|(term, x)| term.weight * x).sum();
        sigmoid(self.intercept + sum)
    }

    /// 1, then each standardised number.
    fn row(&self, number_of: &dyn Fn(&str) -> Option<f64>) -> Vec<f64> {
        let standard = |t: &Term| (number_of(&t.name).unwrap_or(t.mean) - t.mean) / t.deviation;
        std::iter::once(1.0).chain(self.terms.iter().map(standard)).collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "samples are counted in thousands")]
fn term(name: &str, samples: &[&Sample]) -> Option<Term> {
    let values: Vec<f64> = samples.iter().filter_map(|s| s.numbers.get(name).copied()).collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
    (deviation > 1e-9).then(|| Term { name: name.to_owned(), mean, deviation, weight: 0.0 })
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// One Newton step of the penalised log-likelihood: (XᵀSX + λI)⁻¹ (Xᵀ(y − p) − λw), the intercept unpenalised.
fn newton(rows: &[Vec<f64>], labels: &[f64], weights: &[f64]) -> Option<Vec<f64>> {
    let size = weights.len();
    let mut hessian = vec![vec![0.0; size]; size];
    let mut gradient = vec![0.0; size];
    for (row, label) in rows.iter().zip(labels) {
        let p = sigmoid(row.iter().zip(weights).map(|(x, w)| x * w).sum());
        for i in 0..size {
            gradient[i] += (label - p) * row[i];
            for j in 0..size {
                hessian[i][j] += p * (1.0 - p) * row[i] * row[j];
            }
        }
    }
    for i in 1..size {
        hessian[i][i] += RIDGE;
        gradient[i] -= RIDGE * weights[i];
    }
    hessian[0][0] += 1e-9;
    solve(hessian, gradient)
}

/// Gaussian elimination with pivots; nothing where the matrix is singular.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Option<Vec<f64>> {
    let size = b.len();
    for column in 0..size {
        let pivot = (column..size).max_by(|&i, &j| a[i][column].abs().total_cmp(&a[j][column].abs()))?;
        if a[pivot][column].abs() < 1e-12 {
            return None;
        }
        a.swap(column, pivot);
        b.swap(column, pivot);
        for row in column + 1..size {
            let factor = a[row][column] / a[column][column];
            let above = a[column].clone();
            a[row].iter_mut().zip(&above).for_each(|(x, y)| *x -= factor * y);
            b[row] -= factor * b[column];
        }
    }
    for row in (0..size).rev() {
        let known: f64 = (row + 1..size).map(|j| a[row][j] * b[j]).sum();
        b[row] = (b[row] - known) / a[row][row];
    }
    Some(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_system_is_solved() {
        let x = solve(vec![vec![0.0, 2.0], vec![1.0, 1.0]], vec![4.0, 5.0]).unwrap();
        assert!((x[0] - 3.0).abs() < 1e-12 && (x[1] - 2.0).abs() < 1e-12);
        assert_eq!(solve(vec![vec![1.0, 1.0], vec![1.0, 1.0]], vec![1.0, 2.0]), None);
    }
}
