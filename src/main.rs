//! The `dunmore` program.

fn main() {}
