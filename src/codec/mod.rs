//! Bytes to and from domain values: everything that crosses Kafka. Embeds `schemas/`.
