//! Tasks, shutdown, retry, clock and seeds: the only place that spawns, reads signals or tells the time.
