//! Responses to methods that a path does not support, as by nsqd's router (`httprouter`): HEAD is
//! never supported, OPTIONS always is.

use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Middleware that answers unsupported methods and OPTIONS.
pub(super) async fn answer(mut request: Request, next: Next) -> Response {
    let method = request.method().clone();
    if method == Method::HEAD {
        // axum would handle HEAD as GET
        *request.method_mut() = Method::TRACE;
    }
    let mut response = next.run(request).await;
    if response.status() != StatusCode::METHOD_NOT_ALLOWED {
        return response;
    }
    let allowed = allowed(response.headers().get(header::ALLOW));
    if method == Method::OPTIONS {
        return [(header::ALLOW, allowed)].into_response();
    }
    response.headers_mut().insert(header::ALLOW, allowed);
    response
}

/// The value of the `Allow` header: without HEAD, with OPTIONS, sorted.
fn allowed(by_axum: Option<&HeaderValue>) -> HeaderValue {
    let methods = by_axum.and_then(|methods| methods.to_str().ok()).unwrap_or_default();
    let mut methods: Vec<&str> = methods.split(',').filter(|method| !["", "HEAD"].contains(method)).collect();
    methods.push("OPTIONS");
    methods.sort_unstable();
    HeaderValue::from_str(&methods.join(", ")).expect("methods are words")
}
