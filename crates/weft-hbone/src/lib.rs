//! CONNECT tunnels over HTTP/2, generic over an I/O stream.
