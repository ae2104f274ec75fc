//! Watch, index, translate, publish; certificate authority.

fn main() {}
