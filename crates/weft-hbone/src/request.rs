//! The `CONNECT` request and its answer, as words instead of headers.
//!
//! In: what the proxy knows about a connection; or headers of a peer. Out: the other of the two.
//! Deliberately not here: frames, and whether the request may be served.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};

use crate::{Authority, Baggage, Forwarded, OpenError, TraceParent};

const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What the client asks for, and what it says about itself.
#[derive(Clone, Debug)]
pub struct ConnectRequest {
    /// The destination.
    pub authority: Authority,
    /// The client workload's names.
    pub baggage: Baggage,
    /// The client's address and the host that it dialled.
    pub forwarded: Forwarded,
    /// Joins the records of both proxies.
    pub traceparent: Option<TraceParent>,
    /// Every other header, as it came or is to be sent.
    pub headers: HeaderMap,
}

/// What the server says about the workload that it connected to.
#[derive(Clone, Debug, Default)]
pub struct ConnectResponse {
    /// The destination workload's names.
    pub baggage: Baggage,
    /// Every other header.
    pub headers: HeaderMap,
}

impl ConnectRequest {
    /// A request with a destination and nothing else.
    pub fn new(authority: impl Into<Authority>) -> Self {
        Self {
            authority: authority.into(),
            baggage: Baggage::default(),
            forwarded: Forwarded::default(),
            traceparent: None,
            headers: HeaderMap::new(),
        }
    }

    pub(crate) fn to_http(&self) -> Result<Request<()>, OpenError> {
        let uri: Uri = self
            .authority
            .to_string()
            .parse()
            .map_err(|_| OpenError::Invalid)?;
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.clone_from(&self.headers);
        put(headers, BAGGAGE, self.baggage.encode())?;
        put(headers, http::header::FORWARDED, self.forwarded.encode())?;
        let traceparent = self
            .traceparent
            .map(|id| id.to_string())
            .unwrap_or_default();
        put(headers, TRACEPARENT, traceparent)?;
        Ok(request)
    }

    /// Status 400 says what a peer has to mend: the method or the authority.
    pub(crate) fn from_http(head: http::request::Parts) -> Result<Self, StatusCode> {
        if head.method != Method::CONNECT {
            return Err(StatusCode::BAD_REQUEST);
        }
        // Extended CONNECT (RFC 8441) carries :protocol, and with it a scheme and a path.
        if head.uri.scheme().is_some() || head.extensions.get::<h2::ext::Protocol>().is_some() {
            return Err(StatusCode::BAD_REQUEST);
        }
        let authority = head.uri.authority().ok_or(StatusCode::BAD_REQUEST)?;
        let authority = authority
            .as_str()
            .parse()
            .map_err(|_| StatusCode::BAD_REQUEST)?;
        let mut headers = head.headers;
        let baggage = take(&mut headers, &BAGGAGE, |value| Baggage::parse(value).ok());
        let forwarded = take(&mut headers, &http::header::FORWARDED, |value| {
            Forwarded::parse(value).ok()
        });
        let traceparent = take(&mut headers, &TRACEPARENT, |value| {
            std::str::from_utf8(value).ok()?.parse().ok()
        });
        Ok(Self {
            authority,
            baggage: baggage.unwrap_or_default(),
            forwarded: forwarded.unwrap_or_default(),
            traceparent,
            headers,
        })
    }
}

impl ConnectResponse {
    /// An answer that carries the destination's names alone.
    pub fn new(baggage: Baggage) -> Self {
        Self {
            baggage,
            headers: HeaderMap::new(),
        }
    }

    /// Names that are no valid header value are left out: the tunnel matters more than its metrics.
    pub(crate) fn to_http(&self) -> Response<()> {
        let mut response = Response::new(());
        let headers = response.headers_mut();
        headers.clone_from(&self.headers);
        if let Err(error) = put(headers, BAGGAGE, self.baggage.encode()) {
            tracing::debug!(%error, "baggage of the destination left out");
        }
        response
    }

    pub(crate) fn from_http(mut headers: HeaderMap) -> Self {
        let baggage = take(&mut headers, &BAGGAGE, |value| Baggage::parse(value).ok());
        Self {
            baggage: baggage.unwrap_or_default(),
            headers,
        }
    }
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: String) -> Result<(), OpenError> {
    if !value.is_empty() {
        let value = HeaderValue::try_from(value).map_err(|_| OpenError::Invalid)?;
        headers.insert(name, value);
    }
    Ok(())
}

/// Removes every value of a header and reads the first.
fn take<T>(
    headers: &mut HeaderMap,
    name: &HeaderName,
    read: impl Fn(&[u8]) -> Option<T>,
) -> Option<T> {
    headers
        .remove(name)
        .and_then(|value| read(value.as_bytes()))
}
