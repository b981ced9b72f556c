//! idtoken-operator.
