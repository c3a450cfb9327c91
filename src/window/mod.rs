//! A named window's SQL and a table version to a training set: freshness, de-duplication, the train and holdout split.
