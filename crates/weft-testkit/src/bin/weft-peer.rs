//! A server for the pods of a lab: `weft-peer http --port 8080 --name web-1`.
//!
//! In: a behaviour and a port. Out: answers, until it is ended. What each behaviour does is in
//! `weft_testkit::peer`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use clap::{Parser, ValueEnum};
use weft_testkit::netns::has_ipv6;
use weft_testkit::peer::{Behaviour, serve_forever};

/// A server that knows nothing of the mesh.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// What it does with each connection
    behaviour: Kind,
    /// Port on every address
    #[arg(long)]
    port: u16,
    /// What it calls itself in its answers
    #[arg(long, default_value = "weft-peer")]
    name: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// Answers HTTP/1.1 requests with its name and the client's address
    Http,
    /// Sends back what comes in
    Echo,
    /// Speaks first, then echoes
    Greet,
    /// Reads to the end, then says how many bytes there were
    Count,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let behaviour = match cli.behaviour {
        Kind::Http => Behaviour::Http(cli.name),
        Kind::Echo => Behaviour::Echo,
        Kind::Greet => Behaviour::Greet(format!("{} ready\n", cli.name)),
        Kind::Count => Behaviour::Count,
    };
    let any: IpAddr = if has_ipv6() {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    serve_forever(SocketAddr::new(any, cli.port), &behaviour)
}
