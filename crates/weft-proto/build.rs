//! Compiles `proto/*.proto` into Rust: no protoc on the building machine, no generated code in the repository.

use std::path::Path;

const FILES: [&str; 6] = [
    "discovery.proto",
    "workload.proto",
    "authorization.proto",
    "ca.proto",
    "node.proto",
    "mesh.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new("proto");
    println!("cargo:rerun-if-changed={}", folder.display());
    let descriptors = protox::compile(FILES, [folder])?;
    tonic_prost_build::configure()
        // Ordered maps: equal messages encode to equal bytes, which the content versions rest on.
        .btree_map(".")
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    Ok(())
}
