//! Validation of the `Host` header (RFC 9112, 3.2), with the answers of Go's server.

use axum::body::Body;
use axum::http::{HeaderMap, Response, StatusCode, Version, header};
use hyper::ext::ReasonPhrase;

/// Returns the response that refuses a missing, repeated or malformed `Host`; `None` if it is
/// valid.
pub(super) fn refuse(version: Version, headers: &HeaderMap) -> Option<Response<Body>> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let text = match (hosts.next(), hosts.next()) {
        (None, _) if version >= Version::HTTP_11 => "400 Bad Request: missing required Host header",
        (Some(_), Some(_)) => "400 Bad Request",
        (Some(host), None) if !host.as_bytes().iter().all(|b| is_of_a_host(*b)) => {
            "400 Bad Request: malformed Host header"
        }
        (None | Some(_), _) => return None,
    };
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response.extensions_mut().insert(ReasonPhrase::from_static(text.split_at("400 ".len()).1.as_bytes()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    Some(response)
}

/// The rule of Go's `httpguts.ValidHostHeader`, which allows more than valid host names.
fn is_of_a_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=[]_~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_valid_host_header_is_required() {
        let refused = |version, hosts: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(header::HOST, header::HeaderValue::from_static(host));
            }
            refuse(version, &headers).is_some()
        };
        for sound in [&["x"][..], &[""], &["127.0.0.1:4151"], &["[::1]:80"]] {
            assert!(!refused(Version::HTTP_11, sound), "{sound:?}");
        }
        for wrong in [&[][..], &["a", "a"], &["a b"], &["a/b"]] {
            assert!(refused(Version::HTTP_11, wrong), "{wrong:?}");
        }
        assert!(!refused(Version::HTTP_10, &[]));
    }
}
