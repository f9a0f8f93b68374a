//! What can be asked, and the page.
use crate::guard::guard;
use crate::live::follow;
use crate::vgpud::{Known, Vgpud, json};
use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::middleware::from_fn;
use axum::response::sse::Sse;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::Semaphore;
use vgpu_client::failure::{Failure, Kind};
use vgpu_client::statistics::prometheus;
use vgpu_sched_api::messages::SCHEMA_VERSION;

/// Clients that follow what happens, at once.
pub const FOLLOWERS_MAX: usize = 16;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
/// As Prometheus wants it to be called.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is asked of the panel by programs: described in `openapi.json`.
const OPENAPI: &str = include_str!("page/openapi.json");

/// The page: its parts, what they are, and their text.
const PAGE: [(&str, &str, &str); 4] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    (
        "/panel.js",
        "text/javascript; charset=utf-8",
        include_str!("page/panel.js"),
    ),
    (
        "/panel.css",
        "text/css; charset=utf-8",
        include_str!("page/panel.css"),
    ),
    ("/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
];

#[derive(Clone)]
struct Panel {
    vgpud: Arc<Vgpud>,
    followers: Arc<Semaphore>,
}

/// What programs may ask.
fn api() -> [(&'static str, MethodRouter<Panel>); 7] {
    [
        ("/api/v1/status", get(status)),
        ("/api/v1/stats", get(stats)),
        ("/api/v1/events", get(events)),
        ("/api/v1/live", get(live)),
        (
            "/api/v1/openapi.json",
            get(async || text(JSON, OPENAPI.to_owned())),
        ),
        ("/metrics", get(metrics)),
        // Of the panel itself, whatever vgpud does.
        ("/healthz", get(async || text(TEXT, "ok\n".to_owned()))),
    ]
}

/// Everything that is answered.
pub fn router(vgpud: Arc<Vgpud>) -> Router {
    let mut router = Router::new();
    for (path, route) in api() {
        router = router.route(path, route);
    }
    for (path, kind, body) in PAGE {
        router = router.route(path, get(async move || text(kind, body.to_owned())));
    }
    router.fallback(nothing).layer(from_fn(guard)).with_state(Panel {
        vgpud,
        followers: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
    })
}

/// What failed, as programs are told.
#[derive(Serialize)]
pub struct Error<'a> {
    schema_version: u32,
    error: &'a Failure,
}

impl<'a> Error<'a> {
    pub fn new(error: &'a Failure) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            error,
        }
    }
}

fn text(kind: &'static str, body: String) -> Response {
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}

/// An answer that says why there is no other.
pub fn refused(status: StatusCode, failure: &Failure) -> Response {
    (status, text(JSON, json(&Error::new(failure)))).into_response()
}

/// `vgpud` did not answer, or answered something else.
fn failed(failure: &Failure) -> Response {
    let status = match failure.kind {
        Kind::Unreachable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Failed | Kind::Usage | Kind::NotFound | Kind::Conflict => StatusCode::BAD_GATEWAY,
    };
    refused(status, failure)
}

impl Panel {
    /// Answers with what is known now.
    async fn now(&self, answer: impl FnOnce(&Known) -> Response) -> Response {
        let look = self.vgpud.look().await;
        match (&look.failure, &look.known) {
            (Some(failure), _) => failed(failure),
            (None, Some(known)) => answer(known),
            // One of both is always there.
            (None, None) => failed(&Failure::new(Kind::Failed, "nothing is known of vgpud yet")),
        }
    }
}

async fn status(State(panel): State<Panel>) -> Response {
    panel.now(|known| text(JSON, known.status.json.clone())).await
}

async fn stats(State(panel): State<Panel>) -> Response {
    panel.now(|known| text(JSON, known.stats.json.clone())).await
}

async fn metrics(State(panel): State<Panel>) -> Response {
    let answer = |known: &Known| match prometheus(&known.stats.value) {
        Ok(metrics) => text(PROMETHEUS, metrics),
        Err(error) => failed(&Failure::new(Kind::Failed, format!("the statistics: {error}"))),
    };
    panel.now(answer).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default)]
    from: u64,
    vm: Option<u32>,
}

async fn events(State(panel): State<Panel>, wanted: Result<Query<Wanted>, QueryRejection>) -> Response {
    let Query(Wanted { from, vm }) = match wanted {
        Ok(wanted) => wanted,
        Err(error) => {
            let message = format!(
                "the query: expected from=NUMBER, vm=NUMBER, both or neither: {}",
                error.body_text()
            );
            return refused(StatusCode::BAD_REQUEST, &Failure::new(Kind::Usage, message));
        }
    };
    match panel.vgpud.events(from, vm).await {
        Ok(events) => text(JSON, json(&events)),
        Err(failure) => failed(&failure),
    }
}

async fn live(State(panel): State<Panel>) -> Response {
    match panel.followers.try_acquire_owned() {
        Ok(place) => Sse::new(follow(panel.vgpud, place)).into_response(),
        Err(_) => {
            let message = format!("{FOLLOWERS_MAX} clients follow what happens already: expected fewer");
            refused(
                StatusCode::SERVICE_UNAVAILABLE,
                &Failure::new(Kind::Failed, message).hint("close a page, or ask for /api/v1/status"),
            )
        }
    }
}

async fn nothing() -> Response {
    let failure = Failure::new(
        Kind::NotFound,
        "there is nothing here: expected a path of /api/v1/openapi.json",
    );
    refused(StatusCode::NOT_FOUND, &failure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::collections::BTreeSet;
    use vgpu_client::fixture;

    fn document() -> Value {
        serde_json::from_str(OPENAPI).unwrap()
    }

    /// What of the value is not as the schema has it. A schema that knows of more than the value has is wrong, too.
    fn differences(document: &Value, schema: &Value, value: &Value, place: &str, found: &mut Vec<String>) {
        if let Some(name) = schema["$ref"].as_str() {
            let schema = document.pointer(name.trim_start_matches('#')).unwrap();
            return differences(document, schema, value, place, found);
        }
        if let Some(choices) = schema["oneOf"].as_array() {
            let choice = choices
                .iter()
                .find(|choice| (choice["type"] == "null") == value.is_null());
            return differences(document, choice.unwrap(), value, place, found);
        }
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let kinds = schema["type"].as_array().cloned();
        if !kinds
            .unwrap_or_else(|| vec![schema["type"].clone()])
            .contains(&json!(kind))
        {
            found.push(format!("{place} is {kind}"));
        }
        if schema["enum"].as_array().is_some_and(|all| !all.contains(value)) {
            found.push(format!("{place} is {value}"));
        }
        for (at, item) in value.as_array().into_iter().flatten().enumerate() {
            differences(document, &schema["items"], item, &format!("{place}/{at}"), found);
        }
        if let Some(object) = value.as_object() {
            let known = schema["properties"].as_object().unwrap();
            let required = schema["required"].as_array().unwrap();
            for (key, value) in object {
                match known.get(key) {
                    Some(schema) => differences(document, schema, value, &format!("{place}/{key}"), found),
                    None => found.push(format!("{place}/{key} is not told of")),
                }
            }
            for key in required.iter().filter_map(Value::as_str) {
                if !object.contains_key(key) {
                    found.push(format!("{place}/{key} is not there"));
                }
            }
        }
    }

    #[track_caller]
    fn is_a(name: &str, value: &Value) {
        let document = document();
        let mut found = Vec::new();
        let schema = &document["components"]["schemas"][name];
        differences(&document, schema, value, name, &mut found);
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn the_document_has_every_route_and_no_other() {
        let document = document();
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
        let told: BTreeSet<&str> = document["paths"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let routes: BTreeSet<&str> = api().iter().map(|(path, _)| *path).collect();
        assert_eq!(told, routes);
        for path in document["paths"].as_object().unwrap().values() {
            // Nothing but reading is offered.
            assert_eq!(
                path.as_object().unwrap().keys().collect::<Vec<_>>(),
                ["get"],
                "{path}"
            );
        }
    }

    #[test]
    fn answers_are_as_the_document_says() {
        is_a("Status", &serde_json::to_value(fixture::host()).unwrap());
        let mut free = fixture::host();
        free.pools[0].vms[0].quarantine = None;
        is_a("Status", &serde_json::to_value(free).unwrap());
        is_a("Stats", &serde_json::to_value(fixture::stats()).unwrap());
        let events = json!({"schema_version": 3, "events": [fixture::event(1)], "next": 2});
        is_a("Events", &events);
        let failure = Failure::new(Kind::Unreachable, "it is gone").hint("start it");
        is_a("Error", &serde_json::to_value(Error::new(&failure)).unwrap());
        // And the test sees what is not.
        let mut found = Vec::new();
        let wrong = json!({"schema_version": "3", "events": [], "more": 1});
        let document = document();
        differences(
            &document,
            &document["components"]["schemas"]["Events"],
            &wrong,
            "",
            &mut found,
        );
        assert_eq!(
            found,
            [
                "/more is not told of",
                "/schema_version is string",
                "/next is not there"
            ]
        );
    }

    /// The page makes no HTML of texts, loads nothing from elsewhere, and asks only for what is there.
    #[test]
    fn the_page_shows_text_as_text_and_is_whole() {
        let (mut named, mut there) = (BTreeSet::new(), BTreeSet::new());
        for (path, kind, body) in PAGE {
            there.insert(path);
            for sink in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "Function(",
                "srcdoc",
                "setHTML",
                "createContextualFragment",
                "DOMParser",
                "javascript:",
                " style=",
                "onclick",
                "onload",
            ] {
                assert!(!body.contains(sink), "{path}: {sink}");
            }
            // An XML name space is no address to load from.
            let body = body.replace("http://www.w3.org/2000/svg", "");
            for address in ["http:", "https:", "url(", "@import", "\"//"] {
                assert!(!body.contains(address), "{path}: {address}");
            }
            if kind.starts_with("text/html") {
                for mark in ["href=\"/", "src=\"/"] {
                    let rest = body.split(mark).skip(1);
                    named.extend(rest.map(|rest| format!("/{}", rest.split('"').next().unwrap())));
                }
            }
        }
        there.extend(api().iter().map(|(path, _)| *path));
        assert!(named.contains("/panel.js"), "{named:?}");
        for path in &named {
            assert!(there.contains(path.as_str()), "{path}");
        }
    }
}
