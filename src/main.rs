//! The `idtoken-operator` binary.
fn main() {}
