//! What is refused before anything is looked at, and what every answer says to the browser.
use crate::routes::refused;
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::Response;
use std::net::IpAddr;
use std::sync::Arc;
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

/// Under which names the panel is asked for.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Besides those of the loopback.
    pub others: Vec<String>,
    /// A proxy stands before it, whose port is not ours.
    pub behind_proxy: bool,
}

/// Lets a request through that may be answered.
pub async fn guard(State(names): State<Arc<Names>>, request: Request, next: Next) -> Response {
    let mut response = match names.check(&request) {
        Ok(()) => next.run(request).await,
        Err((status, failure)) => {
            let mut response = refused(status, &failure);
            let headers = response.headers_mut();
            if status == StatusCode::METHOD_NOT_ALLOWED {
                headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST"));
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

impl Names {
    fn check(&self, request: &Request) -> Result<(), (StatusCode, Failure)> {
        let refuse = |status, message: String| Err((status, Failure::new(Kind::Usage, message)));
        let changes = *request.method() == Method::POST;
        if !changes && ![Method::GET, Method::HEAD].contains(request.method()) {
            let message = format!("{}: expected GET or POST", request.method());
            return refuse(StatusCode::METHOD_NOT_ALLOWED, message);
        }
        let headers = request.headers();
        let Some(host) = self.named(headers).filter(|_| {
            let named = request.uri().authority();
            named.is_none_or(|named| self.is_ours(named))
        }) else {
            // A page elsewhere whose name was made to mean this host would be told everything.
            let message = "the Host header: expected localhost or a loopback address, as in http://localhost:8460/, or a \
                           name that --host gives";
            return refuse(StatusCode::MISDIRECTED_REQUEST, message.to_owned());
        };
        if from_elsewhere(headers, changes) || !self.is_own_origin(headers, &host) {
            let message = "another site's page may link to this panel, and not load from it nor send to it";
            return refuse(StatusCode::FORBIDDEN, message.to_owned());
        }
        if changes {
            // Which no page elsewhere can send without being asked whether it may.
            let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
            let kind = kind.and_then(|kind| kind.split(|byte| *byte == b';').next());
            if kind.map(<[u8]>::trim_ascii) != Some(b"application/json") {
                let message = "expected an object of JSON, with the header Content-Type: application/json";
                return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, message.to_owned());
            }
            return Ok(());
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
                "the request has a body: expected one without, since it only asks".to_owned(),
            );
        }
        Ok(())
    }

    /// What the one Host header says, if that is this panel. The port may be that of a tunnel.
    fn named(&self, headers: &HeaderMap) -> Option<Authority> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return None;
        };
        let host = Authority::try_from(host.as_bytes()).ok()?;
        self.is_ours(&host).then_some(host)
    }

    fn is_ours(&self, authority: &Authority) -> bool {
        let host = bare(authority.host());
        let loopback = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        let mut names = self.others.iter().map(String::as_str).chain(["localhost"]);
        !authority.as_str().contains('@')
            && (loopback || names.any(|name| host.eq_ignore_ascii_case(bare(name))))
    }

    /// Whether a browser that says which page asks says that it is this panel's.
    fn is_own_origin(&self, headers: &HeaderMap, host: &Authority) -> bool {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let Some(origin) = origins.next() else {
            return true;
        };
        let origin = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
        let Some(authority) = origin.as_ref().and_then(Uri::authority) else {
            return false;
        };
        let ours = match self.behind_proxy {
            true => self.is_ours(authority),
            false => authority == host,
        };
        ours && origins.next().is_none()
    }
}

/// An address of version 6 without its brackets.
fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Whether a browser says that a page of another site asks, and not to go here.
fn from_elsewhere(headers: &HeaderMap, changes: bool) -> bool {
    let says = |name| headers.get(name).map(HeaderValue::as_bytes);
    let site = says("sec-fetch-site");
    let goes = !changes
        && (says("sec-fetch-mode"), says("sec-fetch-dest"))
            == (Some(b"navigate".as_slice()), Some(b"document".as_slice()));
    site.is_some_and(|site| site != b"same-origin" && site != b"none") && !goes
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn refused_by(names: &Names, method: Method, uri: &str, headers: &[(&str, &str)]) -> Option<u16> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        names.check(&request).err().map(|(status, _)| status.as_u16())
    }

    fn status(uri: &str, headers: &[(&str, &str)]) -> Option<u16> {
        refused_by(&Names::default(), Method::GET, uri, headers)
    }

    #[test]
    fn a_change_comes_from_the_panels_own_page_or_from_a_program() {
        let post = |behind_proxy, host, more: &[(&str, &str)]| {
            let names = Names {
                others: vec!["panel.example".to_owned(), "2001:db8::1".to_owned()],
                behind_proxy,
            };
            let mut headers = vec![
                ("host", host),
                ("content-type", "application/json; charset=utf-8"),
            ];
            headers.extend(more);
            refused_by(&names, Method::POST, "/api/v1/changes", &headers)
        };
        let here = |more: &[(&str, &str)]| post(false, "localhost:8460", more);
        assert_eq!(here(&[]), None);
        assert_eq!(
            here(&[
                ("origin", "http://localhost:8460"),
                ("sec-fetch-site", "same-origin")
            ]),
            None
        );
        // Not even by a form that goes here, nor from another port of this host.
        let goes = [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ];
        assert_eq!(here(&goes), Some(403));
        for origin in [
            "http://localhost:3000",
            "http://evil.example",
            "null",
            "",
            "http://localhost",
        ] {
            assert_eq!(here(&[("origin", origin)]), Some(403), "{origin}");
        }
        assert_eq!(here(&[("sec-fetch-site", "same-site")]), Some(403));
        // What a page elsewhere may send without being asked is not taken.
        for kind in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data",
            "",
            "text/application/json",
        ] {
            let headers = [("host", "localhost"), ("content-type", kind)];
            assert_eq!(
                refused_by(&Names::default(), Method::POST, "/", &headers),
                Some(415),
                "{kind}"
            );
        }
        assert_eq!(post(false, "evil.example", &[]), Some(421));
        for name in ["panel.example", "PANEL.example:8460", "[2001:db8::1]:8460"] {
            assert_eq!(post(false, name, &[]), None, "{name}");
        }
        assert_eq!(post(false, "panel.example.evil.example", &[]), Some(421));
        // A proxy may say another port than the browser's, or its own name for this host.
        let origin = [("origin", "https://panel.example")];
        assert_eq!(post(true, "127.0.0.1:8460", &origin), None);
        assert_eq!(post(false, "127.0.0.1:8460", &origin), Some(403));
        assert_eq!(
            post(true, "127.0.0.1:8460", &[("origin", "https://evil.example")]),
            Some(403)
        );
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
