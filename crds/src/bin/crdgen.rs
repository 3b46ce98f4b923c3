//! Writes the generated YAML of the resources.

fn main() {}
