//! An application and its client, which know nothing of a mesh, and what they do to each other.

use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use weft_runtime::{Shutdown, spawn};

/// Enough to fill every window on the way several times.
pub(crate) const BULK: usize = 10 << 20;

/// Ten times what the slowest exchange takes on a busy machine.
const LIMIT: Duration = Duration::from_mins(1);

/// Reads one byte that says what to do, then echoes, or answers only after the end of what it was sent.
pub(crate) struct Application {
    address: SocketAddr,
    shutdown: Shutdown,
}

const ECHO: u8 = b'e';
const AFTER_END: u8 = b'a';
const SPEAK_FIRST: u8 = b's';

impl Application {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let inner = shutdown.clone();
        spawn(&shutdown, "application", async move {
            loop {
                let (stream, _) = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap(),
                    () = inner.stopped() => return,
                };
                // A client that is cut off is no failure of the application.
                spawn(
                    &inner,
                    "connection",
                    async move { drop(serve(stream).await) },
                );
            }
        });
        Self { address, shutdown }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.shutdown.stop();
    }
}

async fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    match stream.read_u8().await? {
        ECHO => {
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await?;
            write.shutdown().await
        }
        AFTER_END => {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await?;
            all.reverse();
            stream.write_all(&all).await?;
            stream.shutdown().await
        }
        SPEAK_FIRST => {
            let length = stream.read_u32().await? as usize;
            stream.write_all(&pattern(length)).await?;
            stream.shutdown().await?;
            tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
            Ok(())
        }
        other => panic!("an application was told {other}"),
    }
}

/// Bulk both ways at once, and bulk that is answered only after its end.
pub(crate) async fn exercise<F: Future<Output = TcpStream>>(dial: impl Fn() -> F) {
    tokio::time::timeout(LIMIT, async {
        echo(dial().await).await;
        client_ends_first(dial().await).await;
    })
    .await
    .expect("all of it within the limit");
}

async fn echo(mut stream: TcpStream) {
    let sent = pattern(BULK);
    stream.write_u8(ECHO).await.unwrap();
    let (mut read, mut write) = stream.split();
    let mut received = Vec::new();
    let (wrote, got) = tokio::join!(
        async {
            write.write_all(&sent).await?;
            write.shutdown().await
        },
        read.read_to_end(&mut received)
    );
    wrote.unwrap();
    got.unwrap();
    assert!(
        sent == received,
        "{} of {} bytes came back",
        received.len(),
        sent.len()
    );
}

async fn client_ends_first(mut stream: TcpStream) {
    let mut sent = pattern(BULK);
    stream.write_u8(AFTER_END).await.unwrap();
    stream.write_all(&sent).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await.unwrap();
    sent.reverse();
    assert!(
        sent == received,
        "{} of {} bytes came back",
        received.len(),
        sent.len()
    );
}

/// The server speaks and ends its side while the client's is still open: all of it is heard, and a clean end.
pub(crate) async fn server_ends_first(mut stream: TcpStream, length: usize) -> TcpStream {
    ask_to_speak(&mut stream, length).await;
    is_heard(stream, length).await
}

/// Tells the server to speak and to end its side.
pub(crate) async fn ask_to_speak(stream: &mut TcpStream, length: usize) {
    stream.write_u8(SPEAK_FIRST).await.unwrap();
    stream.write_u32(length as u32).await.unwrap();
}

/// All of it is heard, and a clean end.
pub(crate) async fn is_heard(mut stream: TcpStream, length: usize) -> TcpStream {
    let mut received = Vec::new();
    let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut received)).await;
    read.expect("it ends").unwrap();
    assert!(pattern(length) == received, "{} bytes came", received.len());
    stream
}

/// The side that is still open carries bulk to its end.
pub(crate) async fn goes_on(mut stream: TcpStream) {
    stream.write_all(&pattern(BULK)).await.unwrap();
    stream.shutdown().await.unwrap();
}

pub(crate) async fn dial(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

/// No byte comes, and the connection ends soon.
pub(crate) async fn is_cut_off(mut stream: TcpStream) {
    drop(stream.write_u8(ECHO).await);
    let read = tokio::time::timeout(LIMIT, stream.read(&mut [0; 1])).await;
    let read = read.expect("it ends");
    assert!(!matches!(read, Ok(1)), "{read:?}");
}

/// The connection ends, and not as if all were well.
pub(crate) async fn is_reset(mut stream: TcpStream) {
    let read = tokio::time::timeout(LIMIT, stream.read(&mut [0; 1])).await;
    let error = read
        .expect("it ends")
        .expect_err("a reset is no end of stream");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

/// An address on which nobody listens (any more).
pub(crate) async fn closed_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// Bytes that repeat with no power of two, so that a misplaced block shows.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}
