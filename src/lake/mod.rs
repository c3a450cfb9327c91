//! Batches to Delta commits that carry the Kafka offsets; owns every table.
