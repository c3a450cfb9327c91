//! One typed event gives one log line and one metric.
