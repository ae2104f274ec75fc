//! The protocol between weft-node, weft-agent and weft-proxy.
