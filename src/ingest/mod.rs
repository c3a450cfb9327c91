//! Kafka to batches of decoded rows; owns the consumer.
