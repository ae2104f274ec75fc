//! Keys, CSRs, certificate rotation, rustls configurations, SPIFFE verification. The only home of rustls.
//!
//! In: identities that pods need, a certificate authority to ask, byte streams to secure.
//! Out: [`Credentials`], mutually authenticated [`TlsStream`]s whose peer is a [`SpiffeId`], and (for the controller)
//! an [`Authority`] that signs exactly the identity that was authorised.
//! Not here: who may have which identity (controller), who may talk to whom (`weft-policy`), HTTP/2 (`weft-hbone`).
//!
//! [`SpiffeId`]: weft_types::SpiffeId

#![forbid(unsafe_code)]

pub mod authority;
pub mod ca;
pub mod credentials;
pub mod handover;
pub mod identities;
pub mod key;
pub mod san;
pub mod tls;
pub mod verify;

#[cfg(test)]
mod testing;

pub use authority::{Authority, AuthorityError, AuthorityOptions, IssueError, ServerCertificate};
pub use ca::{CaClient, CaError, CaOptions, CertificateSource};
pub use credentials::{Credentials, CredentialsError};
pub use handover::HandoverError;
pub use identities::{
    FetchPriority, Identities, IdentitiesOptions, IdentityEvents, IdentityState, IdentityStatus,
    Lease, Unready,
};
pub use key::{KeyError, PrivateKey};
pub use san::CertificateError;
pub use tls::{TlsError, TlsStream, accept, connect};
