//! Security of a whole mesh: who can reach what, be taken for whom, and read which key.
//!
//! Method: the real programs on two nodes, attacked from pods, neighbours and nodes with what each of them has. Every oracle is
//! shown to see: the mesh, or what the oracle believes to be true, is broken on purpose, and the same check must object.
//! Elsewhere: forged certificates and frames by the hundred (`weft-identity`, `weft-hbone`), the requests of the certificate
//! service (controller), peers that lie or flood (`bad_input`), privileges of the programs (`node`).

#![allow(clippy::unwrap_used, reason = "a panic is how a test reports")]

#[path = "security/mesh.rs"]
mod mesh;
#[path = "security/record.rs"]
mod record;

#[path = "security/forgery.rs"]
mod forgery;
#[path = "security/identity.rs"]
mod identity;
#[path = "security/keys.rs"]
mod keys;
#[path = "security/leaving.rs"]
mod leaving;
#[path = "security/link_local.rs"]
mod link_local;
#[path = "security/node_owner.rs"]
mod node_owner;
#[path = "security/ports.rs"]
mod ports;
#[path = "security/recursion.rs"]
mod recursion;
#[path = "security/reuse.rs"]
mod reuse;
#[path = "security/wrong_certificate.rs"]
mod wrong_certificate;
