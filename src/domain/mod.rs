//! Plain values that cross stage boundaries: identifiers, rows, windows, candidates, versions. No I/O, no async, no serde, no Arrow, no candle.
