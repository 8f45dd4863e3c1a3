//! The page: one HTML document with its script and style, compressed once, and the headers that let
//! a browser run these and nothing else.

use std::io::{self, Write};
use std::sync::OnceLock;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use ring::digest::{SHA256, digest};

const DOCUMENT: &str = include_str!("page/index.html");
const STYLES: [&str; 2] = [include_str!("page/uplot.min.css"), include_str!("page/page.css")];
const SCRIPTS: [&str; 2] = [include_str!("page/uplot.min.js"), include_str!("page/page.js")];

/// The document as it is sent.
#[derive(Debug)]
struct PageAssets {
    plain: Bytes,
    compressed: Bytes,
    policy: HeaderValue,
}

/// Returns the response with the page.
pub(super) fn page(headers: &HeaderMap) -> Response {
    static PAGE: OnceLock<PageAssets> = OnceLock::new();
    let page = PAGE.get_or_init(PageAssets::new);
    let takes_gzip = takes_gzip(headers);
    let body = if takes_gzip { page.compressed.clone() } else { page.plain.clone() };
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_SECURITY_POLICY, page.policy.clone());
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    if takes_gzip {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// Returns true if a browser takes gzip.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let takes = |coding: &str| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, "q=1"));
        let weight: f32 = weight.trim().strip_prefix("q=").and_then(|weight| weight.parse().ok()).unwrap_or(0.0);
        name.trim().eq_ignore_ascii_case("gzip") && weight > 0.0
    };
    values.flat_map(|value| value.split(',')).any(takes)
}

/// Adds the headers of every response: nothing is kept, guessed, or shown inside other pages.
pub(super) fn protect(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let nothing = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(nothing);
    response
}

impl PageAssets {
    fn new() -> Self {
        let text = document();
        let compressed = compress(text.as_bytes()).expect("memory takes all that is written");
        let policy = HeaderValue::from_str(&policy()).expect("printable ASCII");
        Self { plain: text.into(), compressed: compressed.into(), policy }
    }
}

/// Puts the document together.
fn document() -> String {
    let all = |tag: &str, parts: [&str; 2]| parts.map(|part| format!("<{tag}>{part}</{tag}>")).concat();
    let document = DOCUMENT.replacen("<!--styles-->", &all("style", STYLES), 1);
    document.replacen("<!--scripts-->", &all("script", SCRIPTS), 1)
}

fn compress(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// The Content-Security-Policy: only these scripts and styles, and requests to this server. Trusted
/// types make the browser refuse to parse text as markup.
fn policy() -> String {
    let hashes = |parts: [&str; 2]| {
        let hash = |part: &str| format!("'sha256-{}'", STANDARD.encode(digest(&SHA256, part.as_bytes())));
        parts.map(hash).join(" ")
    };
    format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        hashes(SCRIPTS),
        hashes(STYLES)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_in_one_piece() {
        let text = document();
        let compressed = compress(text.as_bytes()).unwrap().len();
        assert!(compressed <= 80_000, "{compressed} bytes");
        assert_eq!((text.matches("<script>").count(), text.matches("<style>").count()), (2, 2));
        assert!(!text.contains("<!--"), "a part is missing");
        for part in SCRIPTS.iter().chain(&STYLES) {
            assert!(text.contains(part) && !part.contains("</script") && !part.contains("</style"));
        }
        // namespaces of SVG are names, and no addresses
        let elsewhere = text.replace("http://www.w3.org/", "");
        for word in ["http://", "https://", "src=", "@import", "url(", "innerHTML", "document.write", "eval("] {
            let own = [DOCUMENT, STYLES[1], SCRIPTS[1]];
            assert!(own.iter().all(|part| !part.replace("http://www.w3.org/", "").contains(word)), "{word}");
        }
        assert!(!elsewhere.contains("src=\"http") && !DOCUMENT.contains(" style=") && !DOCUMENT.contains(" onclick="));
    }

    #[test]
    fn the_policy_allows_exactly_the_scripts_and_styles_of_the_page() {
        let (text, policy) = (document(), policy());
        for tag in ["script", "style"] {
            let begin = format!("<{tag}>");
            let inside = text.split(&begin).skip(1).map(|rest| rest.split("</").next().unwrap());
            let hash = |part: &str| format!("'sha256-{}'", STANDARD.encode(digest(&SHA256, part.as_bytes())));
            let hashes: Vec<String> = inside.map(hash).collect();
            assert!(policy.contains(&format!("; {tag}-src {};", hashes.join(" "))), "{tag}: {policy}");
        }
        assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
    }

    #[test]
    fn the_page_is_compressed_for_a_browser_that_takes_it() {
        for (accepts, encoded) in [
            (Some("gzip, br"), true),
            (Some("br, GZIP;q=0.5"), true),
            (Some("br"), false),
            (Some("gzip;q=0"), false),
            (None, false),
        ] {
            let mut headers = HeaderMap::new();
            accepts.map(|value| headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(value)));
            let response = protect(page(&headers));
            let headers = response.headers();
            assert_eq!(headers.contains_key(header::CONTENT_ENCODING), encoded, "{accepts:?}");
            let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
            assert!(policy.contains("'sha256-") && headers["x-frame-options"] == "DENY", "{policy}");
        }
    }
}
