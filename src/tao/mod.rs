//! Training set to adapter: explore, score, optimize.
