//! What can be asked, and the page.
use crate::access::{Access, Denied, Doors, Who};
use crate::guard::{Names, guard};
use crate::history::History;
use crate::live::follow;
use crate::openapi;
use crate::tokens::Role;
use crate::vgpud::{Known, Vgpud, json, now_ms};
use axum::body::{Body, to_bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::Sse;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Router};
use axum_extra::extract::cookie::{Cookie, CookieJar};
use futures_util::StreamExt;
use futures_util::stream::{once, unfold};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use vgpu_client::client::{Client, last};
use vgpu_client::failure::{Failure, Kind};
use vgpu_client::statistics::prometheus;
use vgpu_client::usage::{self as bill, Billed, When};
use vgpu_sched_api::messages::{
    Change, ChangeRecord, Changed, EventRecord, GpuUsageRecord, Period, SCHEMA_VERSION, UsageRecord, Wanted,
    WantedUsage,
};

/// Clients that follow what happens, at once.
pub const FOLLOWERS_MAX: usize = 16;
/// Events that are read at once at most, where the last ones are asked for.
const LAST_MAX: usize = 1000;
/// Bytes of what is sent at most; `vgpud` takes less.
const BODY_LEN_MAX: usize = 64 * 1024;
/// How long a client may take to send it.
const BODY_LIMIT: Duration = Duration::from_secs(10);

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const CSV: &str = "text/csv; charset=utf-8; header=present";
/// As Prometheus wants it to be called.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The page: its parts, what they are, and their text.
const PAGE: [(&str, &str, &str); 6] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    (
        "/panel.js",
        "text/javascript; charset=utf-8",
        include_str!("page/panel.js"),
    ),
    (
        "/change.js",
        "text/javascript; charset=utf-8",
        include_str!("page/change.js"),
    ),
    (
        "/usage.js",
        "text/javascript; charset=utf-8",
        include_str!("page/usage.js"),
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
    doors: Arc<Doors>,
    history: Arc<History>,
    followers: Arc<Semaphore>,
}

/// What programs may ask.
struct Route {
    path: &'static str,
    access: Access,
    handler: MethodRouter<Panel>,
}

/// All of it.
fn api() -> [Route; 16] {
    let route = |access| {
        move |path, handler| Route {
            path,
            access,
            handler,
        }
    };
    let open = route(Access::Anybody);
    let read = route(Access::Role(Role::ReadOnly));
    let change = route(Access::Role(Role::Admin));
    [
        read("/api/v1/status", get(status)),
        read("/api/v1/stats", get(stats)),
        read("/api/v1/events", get(events)),
        read("/api/v1/usage", get(usage)),
        read("/api/v1/usage/gpus", get(gpu_usage)),
        read("/api/v1/live", get(live)),
        read("/api/v1/history", get(history)),
        read("/api/v1/changes", get(changes)),
        change("/api/v1/changes", post(change_something)),
        change("/api/v1/scan", post(scan)),
        read("/api/v1/me", get(me)),
        open("/api/v1/login", post(log_in)),
        open("/api/v1/logout", post(log_out)),
        open("/api/v1/openapi.json", get(async || text(JSON, openapi::text()))),
        read("/metrics", get(metrics)),
        // Of the panel itself, whatever vgpud does.
        open("/healthz", get(async || text(TEXT, "ok\n"))),
    ]
}

/// Everything that is answered.
pub fn router(vgpud: Arc<Vgpud>, history: Arc<History>, doors: Doors, names: Names) -> Router {
    let panel = Panel {
        vgpud,
        history,
        doors: Arc::new(doors),
        followers: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
    };
    let mut router = Router::new();
    for route in api() {
        let handler = match route.access {
            Access::Anybody => route.handler,
            Access::Role(needed) => route
                .handler
                .layer(from_fn_with_state((panel.doors.clone(), needed), admit)),
        };
        router = router.route(route.path, handler);
    }
    for (path, kind, body) in PAGE {
        router = router.route(path, get(async move || text(kind, body)));
    }
    router
        .fallback(nothing)
        .method_not_allowed_fallback(not_so)
        .layer(from_fn_with_state(Arc::new(names), guard))
        .with_state(panel)
}

/// Lets those through who may; what they ask for knows who they are.
async fn admit(
    State((doors, needed)): State<(Arc<Doors>, Role)>,
    mut request: Request,
    next: Next,
) -> Result<Response, Denied> {
    let who = doors.admit(request.headers(), needed)?;
    request.extensions_mut().insert(who);
    Ok(next.run(request).await)
}

/// What failed, as programs are told.
#[derive(Serialize, JsonSchema)]
pub struct Error<'a> {
    /// Version of this object; another one when a key goes or means something else.
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

// An answer with the version of its keys. What it is, is said by what it tells.
#[derive(Serialize, JsonSchema)]
pub struct Versioned<T> {
    /// Version of this object; another one when a key goes or means something else.
    schema_version: u32,
    #[serde(flatten)]
    told: T,
}

fn told(told: impl Serialize) -> Response {
    let versioned = Versioned {
        schema_version: SCHEMA_VERSION,
        told,
    };
    text(JSON, json(&versioned))
}

fn text(kind: &'static str, body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, kind)], body.into()).into_response()
}

/// An answer that says why there is no other.
pub fn refused(status: StatusCode, failure: &Failure) -> Response {
    (status, text(JSON, json(&Error::new(failure)))).into_response()
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        let Self(status, failure) = self;
        let response = refused(status, &failure);
        match status {
            StatusCode::UNAUTHORIZED => (
                [(header::WWW_AUTHENTICATE, "Bearer realm=\"vgpu-panel\"")],
                response,
            )
                .into_response(),
            _ => response,
        }
    }
}

/// `vgpud` did not do it, or did not answer.
fn failed(failure: &Failure) -> Response {
    let status = match failure.kind {
        Kind::Usage => StatusCode::BAD_REQUEST,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::Unreachable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Failed => StatusCode::BAD_GATEWAY,
    };
    refused(status, failure)
}

fn told_or_failed(outcome: Result<impl Serialize, Failure>) -> Response {
    match outcome {
        Ok(done) => told(done),
        Err(failure) => failed(&failure),
    }
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
    panel.now(|known| text(JSON, json(&known.status.value))).await
}

async fn stats(State(panel): State<Panel>) -> Response {
    panel.now(|known| text(JSON, json(&known.stats.value))).await
}

async fn history(State(panel): State<Panel>) -> Response {
    told(panel.history.shares())
}

async fn metrics(State(panel): State<Panel>) -> Response {
    let answer = |known: &Known| match prometheus(&known.status.value, &known.stats.value) {
        Ok(metrics) => text(PROMETHEUS, metrics),
        Err(error) => failed(&Failure::new(Kind::Failed, format!("the statistics: {error}"))),
    };
    panel.now(answer).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    #[serde(default)]
    from: u64,
    vm: Option<Whose>,
    last: Option<usize>,
}

/// To whom something happened.
#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
enum Whose {
    Vm(u32),
    /// To GPUs, or to `vgpud`.
    NoVm,
}

impl TryFrom<String> for Whose {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.as_str() {
            "none" => Ok(Self::NoVm),
            number => number.parse().map(Self::Vm),
        }
    }
}

/// A query, or what was expected of it.
fn query<T>(query: Result<Query<T>, QueryRejection>, expected: &str) -> Result<T, Denied> {
    query.map(|Query(query)| query).map_err(|error| {
        let message = format!("the query: expected {expected}: {}", error.body_text());
        Denied(StatusCode::BAD_REQUEST, Failure::new(Kind::Usage, message))
    })
}

/// A page of what happened.
#[derive(Serialize, JsonSchema)]
pub struct Events {
    events: Vec<EventRecord>,
    /// The number that the next page begins with.
    next: u64,
}

async fn events(
    State(panel): State<Panel>,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Response, Denied> {
    let expected = format!("from=NUMBER, vm=NUMBER or none, last=1 to {LAST_MAX}, some of them or none");
    let Page {
        from,
        vm,
        last: count,
    } = query(page, &expected)?;
    if count.is_some_and(|count| !(1..=LAST_MAX).contains(&count)) {
        let failure = Failure::new(Kind::Usage, format!("the query: expected {expected}"));
        return Ok(failed(&failure));
    }
    let number = match vm {
        Some(Whose::Vm(number)) => Some(number),
        Some(Whose::NoVm) | None => None,
    };
    let read = move |vgpud: &Client| {
        let part = |from| {
            let (mut events, next) = vgpud.events(from, number)?;
            events.retain(|event| vm != Some(Whose::NoVm) || event.vm.is_none());
            Ok((events, next))
        };
        match count {
            Some(count) => last(count, |next| part(from.max(next))),
            None => part(from),
        }
    };
    let events = panel.vgpud.ask(read).await;
    Ok(told_or_failed(
        events.map(|(events, next)| Events { events, next }),
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UsageQuery {
    vms: Option<String>,
    pool: Option<String>,
    from: Option<String>,
    to: Option<String>,
    #[serde(default)]
    by: Period,
    next: Option<String>,
    format: Option<Format>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Format {
    Json,
    Csv,
}

impl UsageQuery {
    /// As `vgpud` is asked.
    fn wanted(self) -> Result<WantedUsage, Failure> {
        let when = |key: &str, text: Option<String>| {
            let when = text.map(|text| text.parse::<When>()).transpose();
            when.map_err(|error| Failure::new(Kind::Usage, format!("{key}: {error}")))
        };
        let query = bill::Query {
            vms: self.vms,
            pool: self.pool,
            from: when("from", self.from)?,
            to: when("to", self.to)?,
            by: self.by,
        };
        Ok(WantedUsage {
            next: self.next,
            ..query.at(now_ms() / 1000)?
        })
    }
}

/// A page of what VMs used.
#[derive(Serialize, JsonSchema)]
pub struct Usage {
    by: Period,
    /// Of which time, in seconds since 1970.
    from_s: u64,
    to_s: u64,
    usage: Vec<UsageRecord>,
    /// What the next page is asked for with, beside what this one was; null if this is the last one. A page may be empty.
    next: Option<String>,
}

/// A page of how long GPUs were in use.
#[derive(Serialize, JsonSchema)]
pub struct GpuUsage {
    by: Period,
    /// Of which time, in seconds since 1970.
    from_s: u64,
    to_s: u64,
    gpus: Vec<GpuUsageRecord>,
    /// What the next page is asked for with, beside what this one was; null if this is the last one. A page may be empty.
    next: Option<String>,
}

async fn usage(
    State(panel): State<Panel>,
    headers: HeaderMap,
    asked: Result<Query<UsageQuery>, QueryRejection>,
) -> Result<Response, Denied> {
    let tell = |wanted: WantedUsage, usage, next| Usage {
        by: wanted.by,
        from_s: wanted.from_s,
        to_s: wanted.to_s,
        usage,
        next,
    };
    used(&panel, &headers, asked, Client::usage, tell).await
}

async fn gpu_usage(
    State(panel): State<Panel>,
    headers: HeaderMap,
    asked: Result<Query<UsageQuery>, QueryRejection>,
) -> Result<Response, Denied> {
    let tell = |wanted: WantedUsage, gpus, next| GpuUsage {
        by: wanted.by,
        from_s: wanted.from_s,
        to_s: wanted.to_s,
        gpus,
        next,
    };
    used(&panel, &headers, asked, Client::gpu_usage, tell).await
}

/// A part of what was used, and what the next one is asked for with.
type UsagePart<R> = Result<(Vec<R>, Option<String>), Failure>;
/// How `vgpud` is asked for it.
type ReadUsage<R> = fn(&Client, &WantedUsage) -> UsagePart<R>;

async fn used<R: Billed + Send, T: Serialize>(
    panel: &Panel,
    headers: &HeaderMap,
    asked: Result<Query<UsageQuery>, QueryRejection>,
    read: ReadUsage<R>,
    tell: impl FnOnce(WantedUsage, Vec<R>, Option<String>) -> T,
) -> Result<Response, Denied> {
    let expected =
        "some of vms=1-7, pool=NAME, from=WHEN, to=WHEN, by=hour or day, next=TEXT, format=json or csv";
    let asked = query(asked, expected)?;
    let is_csv = asked
        .format
        .map_or_else(|| accepts_csv(headers), |format| format == Format::Csv);
    let wanted = match asked.wanted() {
        Ok(wanted) => wanted,
        Err(failure) => return Ok(failed(&failure)),
    };
    if is_csv {
        return Ok(all_usage(panel.vgpud.clone(), wanted, read).await);
    }
    let part = part_of_usage(&panel.vgpud, &wanted, read).await;
    Ok(told_or_failed(part.map(|(part, next)| tell(wanted, part, next))))
}

/// Whether a client asks for comma-separated values.
fn accepts_csv(headers: &HeaderMap) -> bool {
    let accepted = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut kinds = accepted.flat_map(|value| value.split(','));
    kinds.any(|kind| {
        kind.split(';')
            .next()
            .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/csv"))
    })
}

async fn part_of_usage<R: Send + 'static>(
    vgpud: &Vgpud,
    wanted: &WantedUsage,
    read: ReadUsage<R>,
) -> UsagePart<R> {
    let wanted = wanted.clone();
    vgpud.ask(move |vgpud| read(vgpud, &wanted)).await
}

/// All parts, one after the other as they are read. If one cannot be read the answer breaks off, which clients see.
async fn all_usage<R: Billed + Send>(vgpud: Arc<Vgpud>, wanted: WantedUsage, read: ReadUsage<R>) -> Response {
    let name = bill_name(R::BILL, &wanted);
    // What can be told as a failure is: that of the first part.
    let (first, next) = match part_of_usage(&vgpud, &wanted, read).await {
        Ok(part) => part,
        Err(failure) => return failed(&failure),
    };
    let rest = unfold((wanted, next), move |(wanted, next)| {
        let vgpud = vgpud.clone();
        async move {
            // One that says the same again never gets on.
            let next = next.filter(|next| wanted.next.as_ref() != Some(next))?;
            let wanted = WantedUsage {
                next: Some(next),
                ..wanted
            };
            Some(match part_of_usage(&vgpud, &wanted, read).await {
                Ok((part, next)) => (Ok(bill::csv(&part, false)), (wanted, next)),
                Err(failure) => (Err(std::io::Error::other(failure.message)), (wanted, None)),
            })
        }
    });
    let first = bill::csv(&first, true);
    let all = once(std::future::ready(Ok(first))).chain(rest);
    let headers = [
        (header::CONTENT_TYPE, CSV.to_owned()),
        (
            header::CONTENT_DISPOSITION,
            format!("attachment; filename=\"{name}\""),
        ),
    ];
    (headers, Body::from_stream(all)).into_response()
}

/// What a bill's file is called: whose it is, and of which time.
fn bill_name(what: &str, wanted: &WantedUsage) -> String {
    let whose = match (&wanted.vms, &wanted.pool) {
        (None, None) => "all".to_owned(),
        (vms, pool) => {
            let vms = vms.iter().map(|vms| format!("vm-{vms}"));
            let pool = pool.iter().map(|pool| format!("pool-{pool}"));
            let name: Vec<String> = vms.chain(pool).collect();
            // Some characters mean something in headers or in paths.
            let fits = |char: char| char.is_ascii_alphanumeric() || "-_.".contains(char);
            name.join("-").replace(|char| !fits(char), "_")
        }
    };
    let moment = |s| bill::moment(s).replace(':', "");
    let (from, to) = (moment(wanted.from_s), moment(wanted.to_s));
    format!("{what}-{whose}-{from}-{to}-by-{}.csv", wanted.by)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct From {
    #[serde(default)]
    from: u64,
}

/// A page of who changed what.
#[derive(Serialize, JsonSchema)]
pub struct Changes {
    changes: Vec<ChangeRecord>,
    /// The number that the next page begins with.
    next: u64,
}

async fn changes(
    State(panel): State<Panel>,
    page: Result<Query<From>, QueryRejection>,
) -> Result<Response, Denied> {
    let From { from } = query(page, "from=NUMBER, or nothing")?;
    let changes = panel.vgpud.ask(move |vgpud| vgpud.changes(from)).await;
    Ok(told_or_failed(
        changes.map(|(changes, next)| Changes { changes, next }),
    ))
}

/// A change that is wanted. Who wants it is known from his token.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Order {
    change: Change,
    /// Nothing is changed; the answer says what would be.
    #[serde(default)]
    dry_run: bool,
    /// `map_version` of the status or the preview that was looked at: it is refused with 409 if the pool map's file is another one by now.
    #[serde(default)]
    seen: Option<String>,
}

/// What was changed, or would be.
#[derive(Serialize, JsonSchema)]
pub struct Outcome {
    dry_run: bool,
    #[serde(flatten)]
    changed: Changed,
}

async fn change_something(
    State(panel): State<Panel>,
    Extension(who): Extension<Who>,
    request: Request,
) -> Result<Response, Denied> {
    let Order {
        change,
        dry_run,
        seen,
    } = sent(request.into_body()).await?;
    let wanted = Wanted {
        change,
        dry_run,
        seen,
        user: who.name,
    };
    let changed = panel.vgpud.order(move |vgpud| vgpud.change(wanted)).await;
    Ok(told_or_failed(
        changed.map(|changed| Outcome { dry_run, changed }),
    ))
}

/// What takes no more than the header says.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

async fn scan(State(panel): State<Panel>, request: Request) -> Result<Response, Denied> {
    let Nothing {} = sent(request.into_body()).await?;
    Ok(told_or_failed(panel.vgpud.order(Client::scan).await))
}

/// Who asks.
#[derive(Serialize, JsonSchema)]
pub struct Me {
    /// Null where nobody is asked who he is.
    user: Option<String>,
    role: Role,
    /// Whether the panel asks who somebody is.
    asks: bool,
}

impl Panel {
    fn me(&self, Who { name, role }: Who) -> Me {
        Me {
            user: name,
            role,
            asks: self.doors.asks(),
        }
    }
}

async fn me(State(panel): State<Panel>, Extension(who): Extension<Who>) -> Response {
    told(panel.me(who))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogIn {
    token: String,
}

async fn log_in(State(panel): State<Panel>, request: Request) -> Result<Response, Denied> {
    let LogIn { token } = sent(request.into_body()).await?;
    let (who, cookie) = panel.doors.log_in(&token)?;
    Ok(with_cookie(cookie, told(panel.me(who))))
}

async fn log_out(State(panel): State<Panel>, headers: HeaderMap) -> Response {
    with_cookie(panel.doors.log_out(&headers), told(()))
}

fn with_cookie(cookie: Cookie<'static>, response: Response) -> Response {
    (CookieJar::new().add(cookie), response).into_response()
}

/// The object that a request brings.
async fn sent<T: DeserializeOwned>(body: Body) -> Result<T, Denied> {
    let wrong = |status, message: String| Err(Denied(status, Failure::new(Kind::Usage, message)));
    let bytes = match tokio::time::timeout(BODY_LIMIT, to_bytes(body, BODY_LEN_MAX)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => {
            let message = format!("expected an object of at most {BODY_LEN_MAX} bytes");
            return wrong(StatusCode::PAYLOAD_TOO_LARGE, message);
        }
        Err(_) => {
            let message = format!("expected an object within {} s", BODY_LIMIT.as_secs());
            return wrong(StatusCode::REQUEST_TIMEOUT, message);
        }
    };
    serde_json::from_slice(&bytes).or_else(|error| {
        let message = format!("{error}; /api/v1/openapi.json says what is expected");
        wrong(StatusCode::BAD_REQUEST, message)
    })
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

async fn nothing(asked: Uri) -> Response {
    let mut paths = api().map(|route| route.path).to_vec();
    // Some answer to two methods.
    paths.dedup();
    let message = format!(
        "there is nothing at {}: expected / or one of {}",
        asked.path(),
        paths.join(", ")
    );
    let failure = Failure::new(Kind::NotFound, message).hint("/api/v1/openapi.json tells of each");
    refused(StatusCode::NOT_FOUND, &failure)
}

async fn not_so(method: Method) -> Response {
    let expected = match method {
        Method::POST => "GET",
        _ => "POST",
    };
    let message = format!("{method}: expected {expected}, since it only shows, or only does something");
    refused(
        StatusCode::METHOD_NOT_ALLOWED,
        &Failure::new(Kind::Usage, message),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openapi::document;
    use serde_json::{Value, json};
    use std::collections::BTreeSet;
    use vgpu_client::fixture;

    /// What of the value is not as the schema has it. A schema that knows of more than the value has is wrong, too.
    fn differences(document: &Value, schema: &Value, value: &Value, place: &str, found: &mut Vec<String>) {
        if let Some(name) = schema["$ref"].as_str() {
            let schema = document.pointer(name.trim_start_matches('#')).unwrap();
            return differences(document, schema, value, place, found);
        }
        if let Some(choices) = schema["oneOf"].as_array().or(schema["anyOf"].as_array()) {
            let fits = |choice: &Value| {
                let mut found = Vec::new();
                differences(document, choice, value, place, &mut found);
                found.is_empty()
            };
            if !choices.iter().any(fits) {
                found.push(format!("{place} is none of what it may be"));
            }
            return;
        }
        if schema.get("const").is_some_and(|only| only != value) {
            found.push(format!("{place} is {value}"));
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
            let required = schema["required"].as_array().cloned().unwrap_or_default();
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
        differences(document, schema, value, name, &mut found);
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
        let routes: BTreeSet<&str> = api().iter().map(|route| route.path).collect();
        assert_eq!(told, routes);
        // And what it refers to is there.
        let text = document.to_string();
        let named = text.split("\"$ref\":\"#").skip(1);
        for name in named.map(|rest| rest.split('"').next().unwrap()) {
            assert!(document.pointer(name).is_some(), "{name}");
        }
    }

    #[test]
    fn answers_are_as_the_document_says() {
        is_a("Status", &serde_json::to_value(fixture::host()).unwrap());
        let mut free = fixture::host();
        free.pools[0].vms[0].quarantine = None;
        free.map_differs = None;
        is_a("Status", &serde_json::to_value(free).unwrap());
        is_a("Stats", &serde_json::to_value(fixture::stats()).unwrap());
        let events = json!({"schema_version": 3, "events": [fixture::event(1)], "next": 2});
        is_a("Events", &events);
        let changes = json!({"schema_version": 3, "changes": [fixture::change(1)], "next": 2});
        is_a("Changes", &changes);
        let usage = Usage {
            by: Period::Day,
            from_s: 1,
            to_s: 2,
            usage: vec![fixture::usage(3)],
            next: None,
        };
        let usage = Versioned {
            schema_version: 3,
            told: usage,
        };
        is_a("Usage", &serde_json::to_value(usage).unwrap());
        let usage = GpuUsage {
            by: Period::Day,
            from_s: 1,
            to_s: 2,
            gpus: vec![fixture::gpu_usage("GPU-0")],
            next: None,
        };
        let usage = Versioned {
            schema_version: 3,
            told: usage,
        };
        is_a("GpuUsage", &serde_json::to_value(usage).unwrap());
        let changed = Outcome {
            dry_run: true,
            changed: Changed::default(),
        };
        let versioned = Versioned {
            schema_version: 3,
            told: changed,
        };
        is_a("Outcome", &serde_json::to_value(versioned).unwrap());
        for order in [
            json!({"change": {"verb": "release", "vms": "1-7"}, "dry_run": true, "seen": "0f"}),
            json!({"change": {"verb": "quarantine", "vms": "1", "why": "loud"}}),
            json!({"change": {"verb": "edit", "edits": [
                {"edit": "register_vms", "vms": "1-7", "pool": "A", "settings": {"priority": "high", "limits": {"call_rate": 0}}},
                {"edit": "assign_gpu", "gpu": "0", "pool": "A"},
            ]}}),
        ] {
            is_a("Order", &order);
            assert!(serde_json::from_value::<Order>(order).is_ok());
        }
        let failure = Failure::new(Kind::Unreachable, "it is gone").hint("start it");
        is_a("Error", &serde_json::to_value(Error::new(&failure)).unwrap());
        // And the test sees what is not.
        let mut found = Vec::new();
        let wrong = json!({"schema_version": "3", "events": [], "more": 1});
        let document = document();
        differences(
            document,
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

    #[test]
    fn a_bills_file_is_called_what_it_is() {
        let name = |vms: Option<&str>, pool: Option<&str>, by| {
            bill_name(
                "vgpu-usage",
                &WantedUsage {
                    vms: vms.map(str::to_owned),
                    pool: pool.map(str::to_owned),
                    from_s: 1_700_000_000,
                    to_s: 1_700_003_600,
                    by,
                    next: None,
                },
            )
        };
        assert_eq!(
            name(None, None, Period::Hour),
            "vgpu-usage-all-2023-11-14T221320Z-2023-11-14T231320Z-by-hour.csv"
        );
        assert_eq!(
            name(Some("1-7"), Some("A/\"ü\r"), Period::Day),
            "vgpu-usage-vm-1-7-pool-A____-2023-11-14T221320Z-2023-11-14T231320Z-by-day.csv"
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
        there.extend(api().iter().map(|route| route.path));
        assert!(named.contains("/panel.js"), "{named:?}");
        for path in &named {
            assert!(there.contains(path.as_str()), "{path}");
        }
    }
}
