//! The `CONNECT` request and its answer, as words instead of headers.
//!
//! In: what the proxy knows about a connection; or headers of a peer. Out: the other of the two.
//! Deliberately not here: frames, and whether the request may be served.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};

use crate::{Authority, BaggageHeader, Forwarded, OpenError, TraceParent};

const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What the client asks for, and what it says about itself.
#[derive(Clone, Debug)]
pub struct ConnectRequest {
    /// The destination.
    pub authority: Authority,
    /// The client workload's names.
    pub baggage: BaggageHeader,
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
    pub baggage: BaggageHeader,
    /// Every other header.
    pub headers: HeaderMap,
}

impl ConnectRequest {
    /// A request with a destination and nothing else.
    pub fn new(authority: impl Into<Authority>) -> Self {
        Self {
            authority: authority.into(),
            baggage: BaggageHeader::default(),
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
        if let Some(baggage) = self.baggage.value() {
            headers.insert(BAGGAGE, baggage.clone());
        }
        put_once(headers, http::header::FORWARDED, self.forwarded.encode())?;
        if let Some(traceparent) = self.traceparent {
            put_once(headers, TRACEPARENT, traceparent.to_string())?;
        }
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
        let baggage = BaggageHeader::received(headers.remove(&BAGGAGE));
        let forwarded = take(&mut headers, &http::header::FORWARDED, |value| {
            Forwarded::parse(value).ok()
        });
        let traceparent = take(&mut headers, &TRACEPARENT, |value| {
            std::str::from_utf8(value).ok()?.parse().ok()
        });
        Ok(Self {
            authority,
            baggage,
            forwarded: forwarded.unwrap_or_default(),
            traceparent,
            headers,
        })
    }
}

impl ConnectResponse {
    /// An answer that carries the destination's names alone.
    pub fn new(baggage: impl Into<BaggageHeader>) -> Self {
        Self {
            baggage: baggage.into(),
            headers: HeaderMap::new(),
        }
    }

    pub(crate) fn to_http(&self) -> Response<()> {
        let mut response = Response::new(());
        let headers = response.headers_mut();
        headers.clone_from(&self.headers);
        if let Some(baggage) = self.baggage.value() {
            headers.insert(BAGGAGE, baggage.clone());
        }
        response
    }

    pub(crate) fn from_http(mut headers: HeaderMap) -> Self {
        let baggage = BaggageHeader::received(headers.remove(&BAGGAGE));
        Self { baggage, headers }
    }
}

/// Adds a header whose value never comes again. As "sensitive" it stays out of the compression tables of both sides,
/// where it would only push out what does come again.
fn put_once(headers: &mut HeaderMap, name: HeaderName, value: String) -> Result<(), OpenError> {
    if !value.is_empty() {
        let mut value = HeaderValue::try_from(value).map_err(|_| OpenError::Invalid)?;
        value.set_sensitive(true);
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
