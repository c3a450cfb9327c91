//! The composition root: builds, wires, supervises and drains every stage.
