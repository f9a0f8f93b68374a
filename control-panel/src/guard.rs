//! What is refused before anything is looked at, and what every answer says to the browser.
use crate::routes::refused;
use axum::extract::Request;
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use std::net::IpAddr;
use vgpu_client::failure::{Failure, Kind};

/// A page may load from where it came from, and nothing else; its script cannot make HTML of text.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

/// What every answer says.
const HEADERS: [(HeaderName, &str); 8] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), geolocation=(), microphone=()",
    ),
];

/// Lets a request through that may be answered.
pub async fn guard(request: Request, next: Next) -> Response {
    let mut response = match check(&request) {
        Ok(()) => next.run(request).await,
        Err((status, failure)) => {
            let mut response = refused(status, &failure);
            let headers = response.headers_mut();
            if status == StatusCode::METHOD_NOT_ALLOWED {
                headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            }
            // What else it sends is not read.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            response
        }
    };
    for (name, value) in HEADERS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

fn check(request: &Request) -> Result<(), (StatusCode, Failure)> {
    let refuse = |status, message: String| Err((status, Failure::new(Kind::Usage, message)));
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let message = format!(
            "{}: expected GET, since this panel changes nothing",
            request.method()
        );
        return refuse(StatusCode::METHOD_NOT_ALLOWED, message);
    }
    let headers = request.headers();
    if !names_us(headers) || request.uri().authority().is_some_and(|named| !is_ours(named)) {
        // A page elsewhere whose name was made to mean this host would be told everything.
        let message =
            "the Host header: expected localhost or a loopback address, as in http://localhost:8460/";
        return refuse(StatusCode::MISDIRECTED_REQUEST, message.to_owned());
    }
    if from_elsewhere(headers) {
        let message = "another site's page may link to this panel, and not load from it";
        return refuse(StatusCode::FORBIDDEN, message.to_owned());
    }
    let empty = |length: &HeaderValue| length.as_bytes() == b"0";
    if headers.contains_key(header::TRANSFER_ENCODING)
        || headers
            .get_all(header::CONTENT_LENGTH)
            .iter()
            .any(|length| !empty(length))
    {
        return refuse(
            StatusCode::BAD_REQUEST,
            "the request has a body: expected one without, since this panel only answers questions"
                .to_owned(),
        );
    }
    Ok(())
}

/// Whether there is one Host header, and it is this host's. The port may be that of a tunnel.
fn names_us(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    Authority::try_from(host.as_bytes()).is_ok_and(|host| is_ours(&host))
}

fn is_ours(authority: &Authority) -> bool {
    let host = authority.host();
    let address = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>();
    let loopback = address.is_ok_and(|address| address.is_loopback());
    !authority.as_str().contains('@') && (loopback || host.eq_ignore_ascii_case("localhost"))
}

/// Whether a browser says that a page of another site asks, and not to go here.
fn from_elsewhere(headers: &HeaderMap) -> bool {
    let says = |name| headers.get(name).map(HeaderValue::as_bytes);
    let site = says("sec-fetch-site");
    site.is_some_and(|site| site != b"same-origin" && site != b"none")
        && (says("sec-fetch-mode"), says("sec-fetch-dest"))
            != (Some(b"navigate".as_slice()), Some(b"document".as_slice()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn status(uri: &str, headers: &[(&str, &str)]) -> Option<u16> {
        let mut request = Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        check(&request).err().map(|(status, _)| status.as_u16())
    }

    #[test]
    fn only_names_of_this_host_are_answered_to() {
        for host in [
            "localhost",
            "LOCALHOST:8460",
            "127.0.0.1:8460",
            "127.0.0.1:9000",
            "[::1]:8460",
            "[::1]",
        ] {
            assert_eq!(status("/", &[("host", host)]), None, "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:8460",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "localhost@evil.example",
            "evil.example@localhost",
            "0.0.0.0:8460",
            "192.0.2.1:8460",
            "[::]:8460",
            "local host",
            "2130706433",
        ] {
            assert_eq!(status("/", &[("host", host)]), Some(421), "{host}");
        }
        assert_eq!(status("/", &[]), Some(421));
        assert_eq!(
            status("/", &[("host", "localhost"), ("host", "evil.example")]),
            Some(421)
        );
        assert_eq!(
            status("http://evil.example/", &[("host", "localhost")]),
            Some(421)
        );
        assert_eq!(status("http://localhost/", &[("host", "localhost")]), None);
    }

    #[test]
    fn other_sites_load_nothing() {
        let from = |site, mode, destination| {
            status(
                "/api/v1/live",
                &[
                    ("host", "localhost"),
                    ("sec-fetch-site", site),
                    ("sec-fetch-mode", mode),
                    ("sec-fetch-dest", destination),
                ],
            )
        };
        assert_eq!(from("same-origin", "cors", "empty"), None);
        assert_eq!(from("none", "navigate", "document"), None);
        assert_eq!(from("cross-site", "navigate", "document"), None);
        assert_eq!(from("cross-site", "navigate", "iframe"), Some(403));
        assert_eq!(from("cross-site", "no-cors", "script"), Some(403));
        // Another port of this host is another site's, too.
        assert_eq!(from("same-site", "cors", "empty"), Some(403));
    }

    #[test]
    fn bodies_are_not_taken() {
        let with = |name, value| status("/", &[("host", "localhost"), (name, value)]);
        assert_eq!(with("content-length", "0"), None);
        assert_eq!(with("content-length", "1"), Some(400));
        assert_eq!(with("transfer-encoding", "chunked"), Some(400));
    }
}
