//! Why there is no stream: by whose fault, and what to check.

use std::path::PathBuf;

use thiserror::Error;

use crate::status::Termination;

/// Why there is no stream.
#[derive(Debug, Error)]
pub(super) enum SessionError {
    /// Ours: the root file.
    #[error("cannot use the root certificates in {}: {reason}: check --root-cert", path.display())]
    Root { path: PathBuf, reason: String },
    /// Ours: the token file.
    #[error("cannot use the token in {}: {reason}: check --token-file", path.display())]
    Token { path: PathBuf, reason: String },
    /// The way to the server, or its certificate.
    #[error(
        "cannot connect: {0}: check that the controller runs and that its certificate is signed by the root file"
    )]
    Connect(String),
    /// The server said why.
    #[error("the controller ended the stream: {} ({:?})", .0.message(), .0.code())]
    Refused(Box<tonic::Status>),
    /// The server does not know the types that are our own.
    #[error("the controller refused a type that is not Istio's ({:?}), going on without", .0.code())]
    OptionalRefused(Box<tonic::Status>),
    /// The server ended the stream without a word.
    #[error("the controller closed the stream")]
    Closed,
    /// The server stopped reading.
    #[error("the controller does not read its requests")]
    Stuck,
}

impl SessionError {
    /// What it counts as: by status codes as Istio's node proxy does, so that a planned end does not look like a fault.
    pub(super) fn termination(&self) -> Termination {
        use tonic::Code::{Cancelled, DeadlineExceeded, Unavailable, Unknown};
        let is_end = |status: &tonic::Status| {
            matches!(
                status.code(),
                Cancelled | DeadlineExceeded | Unavailable | Unknown
            )
        };
        match self {
            Self::Root { .. } | Self::Token { .. } | Self::Connect(_) => {
                Termination::ConnectionError
            }
            Self::Refused(status) if is_end(status) => Termination::Reconnect,
            Self::Refused(_) | Self::OptionalRefused(_) | Self::Stuck => Termination::Error,
            Self::Closed => Termination::Complete,
        }
    }

    /// With everything beneath it: tonic's own text is only "transport error".
    pub(super) fn connect(error: &tonic::transport::Error) -> Self {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        Self::Connect(text)
    }
}
