//! How connections end: every order of FIN and RST, whoever sends, whatever the size, wherever the server is.
//!
//! Method: both applications are plain sockets of the test, inside their pods, so that it decides what happens when. One
//! test runs all combinations and names those that went wrong.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use weft_testkit::leak::canary_payload;
use weft_testkit::load;
use weft_testkit::netns::Netns;
use weft_tests::lab::TestLab;

use super::{addresses, three_pods};

/// Bound of one step: a hundred times what it takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);
/// Nothing, what fits into every buffer on the way, and what fits into none of the windows between.
const SIZES: [usize; 3] = [0, 16 << 10, 6 << 20];
/// Connections of a test that looks at each of many.
const ROUNDS: usize = 100;
/// What is said by the side that ends last, to show that its direction still works.
const LAST_WORD: &[u8] = b"~last word~";

/// Who sends the bytes of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// How the connection of a cell ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    ClientFirst,
    ServerFirst,
    AtOnce,
    /// The sender resets once its bytes have arrived.
    Reset,
}

/// A listening socket of an application.
struct Listener(TcpListener);

impl Listener {
    fn open(netns: &Netns, at: SocketAddr) -> Self {
        let socket = netns.enter(|| {
            let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
            socket.bind(&at.into())?;
            socket.listen(128)?;
            socket.set_read_timeout(Some(LIMIT))?;
            Ok(socket)
        });
        Self(socket.unwrap().into())
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// The next connection; errors when none comes within the limit.
    fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _) = self.0.accept()?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(stream)
    }
}

#[test]
fn every_order_of_ends_arrives_as_it_was_sent() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = three_pods();
    let mut wrong = Vec::new();
    let mut cells = 0;
    for pod in ["b", "c"] {
        for address in addresses(&lab, pod) {
            let listener = Listener::open(&lab.netns(pod), SocketAddr::new(address, 0));
            for (sender, order, size) in combinations() {
                cells += 1;
                if let Err(error) = cell(&lab, &listener, sender, order, size) {
                    let place = if pod == "b" {
                        "cross-node"
                    } else {
                        "same-node"
                    };
                    let family = if address.is_ipv4() { "v4" } else { "v6" };
                    wrong.push(format!(
                        "{sender:?} sends {size} bytes, {order:?}, {place}, {family}: {error}"
                    ));
                }
            }
        }
    }
    assert!(cells >= 2 * 4 * SIZES.len() * 2);
    assert!(
        wrong.is_empty(),
        "{} of {cells} cells: {wrong:#?}",
        wrong.len()
    );
}

fn combinations() -> impl Iterator<Item = (Side, Order, usize)> {
    let orders = [
        Order::ClientFirst,
        Order::ServerFirst,
        Order::AtOnce,
        Order::Reset,
    ];
    [Side::Client, Side::Server]
        .into_iter()
        .flat_map(move |side| orders.map(|order| (side, order)))
        .flat_map(|(side, order)| SIZES.map(|size| (side, order, size)))
}

fn cell(
    lab: &TestLab,
    listener: &Listener,
    side: Side,
    order: Order,
    size: usize,
) -> io::Result<()> {
    let client = load::connect(&lab.netns("a"), listener.address())?;
    let server = listener.accept()?;
    let (sender, receiver) = match side {
        Side::Client => (client, server),
        Side::Server => (server, client),
    };
    let payload = canary_payload(size);
    match (order, side) {
        (Order::ClientFirst, Side::Client) | (Order::ServerFirst, Side::Server) => {
            sender_ends_first(sender, receiver, &payload)
        }
        (Order::ClientFirst, Side::Server) | (Order::ServerFirst, Side::Client) => {
            receiver_ends_first(sender, receiver, &payload)
        }
        (Order::AtOnce, _) => both_end(sender, receiver, &payload),
        (Order::Reset, _) => sender_resets(sender, receiver, &payload),
    }
}

fn sender_ends_first(sender: TcpStream, mut receiver: TcpStream, payload: &[u8]) -> io::Result<()> {
    std::thread::scope(|scope| {
        let mut sender = sender;
        let sending = scope.spawn(move || {
            sender.write_all(payload)?;
            sender.shutdown(Shutdown::Write)?;
            // Its other direction is still open.
            expect_end(&mut sender, LAST_WORD)
        });
        expect_end(&mut receiver, payload)?;
        receiver.write_all(LAST_WORD)?;
        receiver.shutdown(Shutdown::Write)?;
        sending.join().expect("no panic")
    })
}

fn receiver_ends_first(
    mut sender: TcpStream,
    mut receiver: TcpStream,
    payload: &[u8],
) -> io::Result<()> {
    receiver.shutdown(Shutdown::Write)?;
    expect_end(&mut sender, b"")?;
    std::thread::scope(|scope| {
        let sending = scope.spawn(move || {
            sender.write_all(payload)?;
            sender.shutdown(Shutdown::Write)
        });
        expect_end(&mut receiver, payload)?;
        sending.join().expect("no panic")
    })
}

fn both_end(mut sender: TcpStream, mut receiver: TcpStream, payload: &[u8]) -> io::Result<()> {
    std::thread::scope(|scope| {
        let sending = scope.spawn(move || {
            sender.write_all(payload)?;
            sender.shutdown(Shutdown::Write)?;
            expect_end(&mut sender, b"")
        });
        receiver.shutdown(Shutdown::Write)?;
        expect_end(&mut receiver, payload)?;
        sending.join().expect("no panic")
    })
}

fn sender_resets(sender: TcpStream, mut receiver: TcpStream, payload: &[u8]) -> io::Result<()> {
    let mut received = vec![0; payload.len()];
    std::thread::scope(|scope| {
        let mut writer = sender.try_clone()?;
        let sending = scope.spawn(move || writer.write_all(payload));
        receiver.read_exact(&mut received)?;
        sending.join().expect("no panic")
    })?;
    if received != payload {
        return Err(io::Error::other("other bytes arrived"));
    }
    SockRef::from(&sender).set_linger(Some(Duration::ZERO))?;
    drop(sender);
    match receiver.read(&mut [0; 1]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error),
        Ok(count) => Err(io::Error::other(format!(
            "{count} bytes instead of a reset"
        ))),
    }
}

/// Reads to a clean end and compares.
fn expect_end(stream: &mut TcpStream, want: &[u8]) -> io::Result<()> {
    let mut got = Vec::new();
    stream.read_to_end(&mut got)?;
    if got == want {
        return Ok(());
    }
    let (got, want) = (got.len(), want.len());
    Err(io::Error::other(format!(
        "{got} bytes before the end, not the {want} sent"
    )))
}

#[test]
fn a_reset_after_the_end_of_a_side_arrives_although_nobody_sends() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = three_pods();
    for pod in ["b", "c"] {
        for address in addresses(&lab, pod) {
            let listener = Listener::open(&lab.netns(pod), SocketAddr::new(address, 0));
            for side in [Side::Client, Side::Server] {
                let client = load::connect(&lab.netns("a"), listener.address()).unwrap();
                let server = listener.accept().unwrap();
                let (first, mut second) = match side {
                    Side::Client => (client, server),
                    Side::Server => (server, client),
                };
                first.shutdown(Shutdown::Write).unwrap();
                expect_end(&mut second, b"").unwrap();
                SockRef::from(&first)
                    .set_linger(Some(Duration::ZERO))
                    .unwrap();
                drop(first);
                // An end of stream has been read: what shows is that the socket has failed.
                let timeout = rustix::event::Timespec::try_from(LIMIT).unwrap();
                let mut fds = [rustix::event::PollFd::new(
                    &second,
                    rustix::event::PollFlags::empty(),
                )];
                let ready = rustix::event::poll(&mut fds, Some(&timeout)).unwrap();
                let failed = fds[0].revents().contains(rustix::event::PollFlags::ERR);
                assert!(
                    ready == 1 && failed,
                    "{side:?} to {address}: {:?}",
                    fds[0].revents()
                );
            }
        }
    }
}

#[test]
fn an_accept_that_waits_tells_the_client_before_any_byte() {
    if !weft_tests::is_root() {
        return;
    }
    let lab = three_pods();
    for pod in ["b", "c"] {
        for address in addresses(&lab, pod) {
            let listener = Listener::open(&lab.netns(pod), SocketAddr::new(address, 0));
            let to = listener.address();
            std::thread::scope(|scope| {
                // It waits in accept when the proxy connects, and so returns no later than the proxy's connect does.
                let accepting = scope.spawn(|| {
                    (0..ROUNDS)
                        .map(|_| {
                            let (stream, peer) = listener.0.accept().unwrap();
                            let asked = stream.peer_addr().unwrap();
                            (peer, asked, stream.local_addr().unwrap(), stream)
                        })
                        .collect::<Vec<_>>()
                });
                let clients: Vec<_> = (0..ROUNDS)
                    .map(|_| load::connect(&lab.netns("a"), to).unwrap())
                    .collect();
                let mut own: Vec<_> = clients.iter().map(|c| c.local_addr().unwrap()).collect();
                let mut seen = Vec::new();
                for (peer, asked, local, _open) in accepting.join().unwrap() {
                    assert_eq!(peer, asked, "accept and getpeername");
                    assert_eq!(local, to, "getsockname");
                    seen.push(peer);
                }
                own.sort_unstable();
                seen.sort_unstable();
                assert_eq!(seen, own, "to {to}");
            });
        }
    }
}
