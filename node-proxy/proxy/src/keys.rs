//! Keys for the next proxy: a sealed memory file that the holder keeps.
//!
//! In: every change of the identities. Out: a memfd with what `weft-identity` exports; and back at start.
//! Sealed, so that nobody who holds the descriptor can change it; the holder gives it to the next proxy alone.

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use weft_identity::Identities;
use weft_node_api::ProxyClient;
use zeroize::Zeroizing;

/// Changes that come together are handed over together: a node that starts gets a certificate for each identity.
const SETTLE: Duration = Duration::from_millis(100);
/// Most bytes taken over: 16 384 identities of some 4 KB.
const IMPORT_MAX: u64 = 64 << 20;

/// Hands the keys over whenever they change, for ever.
pub(crate) async fn export_on_change(identities: Identities, client: ProxyClient) {
    let mut changes = identities.changes();
    while changes.changed().await.is_ok() {
        tokio::time::sleep(SETTLE).await;
        changes.mark_unchanged();
        let stored = seal(&identities.export())
            .map_err(|error| error.to_string())
            .and_then(|memfd| client.store_keys(memfd).map_err(|busy| busy.to_string()));
        if let Err(error) = stored {
            tracing::warn!(
                error,
                "keys were not handed over; the next proxy will have to ask for certificates"
            );
        }
    }
}

/// Takes the keys of the proxy before over. A failure costs a round of certificate requests, nothing else.
pub(crate) fn import(identities: &Identities, memfd: &Arc<OwnedFd>) {
    let imported = read(memfd)
        .map_err(|error| error.to_string())
        .and_then(|bytes| identities.import(&bytes).map_err(|error| error.to_string()));
    match imported {
        Ok(count) => tracing::info!(count, "identities taken over from the proxy before"),
        Err(error) => tracing::warn!(
            error,
            "keys of the proxy before are unusable; asking for certificates anew"
        ),
    }
}

fn seal(bytes: &[u8]) -> std::io::Result<OwnedFd> {
    let memfd = memfd_create("weft-keys", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = std::fs::File::from(memfd);
    file.write_all(bytes)?;
    let memfd = OwnedFd::from(file);
    fcntl_add_seals(
        &memfd,
        SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    Ok(memfd)
}

fn read(memfd: &Arc<OwnedFd>) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut file = std::fs::File::from(memfd.try_clone()?);
    let size = file.metadata()?.len();
    if size > IMPORT_MAX {
        return Err(std::io::Error::other(format!("{size} bytes of keys")));
    }
    file.seek(SeekFrom::Start(0))?;
    // Sized beforehand: growing would leave copies of keys in freed memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(size as usize + 1));
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use super::{read, seal};

    #[test]
    fn what_was_sealed_is_read_back_and_cannot_be_changed() {
        let memfd = Arc::new(seal(b"secret").unwrap());
        assert_eq!(read(&memfd).unwrap().as_slice(), b"secret");
        assert_eq!(read(&memfd).unwrap().as_slice(), b"secret");
        let mut file = std::fs::File::from(memfd.try_clone().unwrap());
        assert!(file.write_all(b"x").is_err());
        assert!(file.set_len(0).is_err());
    }
}
