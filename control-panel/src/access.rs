//! Who asks, and whether he may: by a token that comes with the request, or by the session that one opened.
use crate::tokens::{self, Hash, Owner, Role, Tokens};
use axum::http::{HeaderMap, StatusCode, header};
use axum_extra::extract::cookie::{Cookie, CookieJar, SameSite};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use vgpu_client::failure::{Failure, Kind};

/// How long a session lasts.
const SESSION_LIMIT: Duration = Duration::from_secs(12 * 3600);
/// Sessions at once; the oldest ends for a new one.
const SESSIONS_MAX: usize = 256;

/// What is needed to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: it tells nothing of the host.
    Anybody,
    Role(Role),
}

/// Why somebody is not answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Denied(pub StatusCode, pub Failure);

/// Who is let in.
pub struct Doors {
    /// Without, everybody who gets here may look, and nobody changes anything.
    tokens: Option<Tokens>,
    /// Browsers reach the panel through TLS only.
    secure: bool,
    /// By the hash of what the browser has.
    sessions: Mutex<HashMap<Hash, Session>>,
}

/// A browser that has shown a token.
struct Session {
    token: Hash,
    since: Instant,
}

/// Somebody who may look, or change things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// `None` where nobody is asked.
    pub name: Option<String>,
    pub role: Role,
}

impl From<Owner> for Who {
    fn from(Owner { name, role }: Owner) -> Self {
        Self {
            name: Some(name),
            role,
        }
    }
}

impl Doors {
    pub fn new(tokens: Option<Tokens>, secure: bool) -> Self {
        Self {
            tokens,
            secure,
            sessions: Mutex::default(),
        }
    }

    /// Who asks, if he may.
    pub fn admit(&self, headers: &HeaderMap, needed: Role) -> Result<Who, Denied> {
        let denied = |status, message: &str, hint: &str| {
            Err(Denied(status, Failure::new(Kind::Failed, message).hint(hint)))
        };
        let Some(tokens) = &self.tokens else {
            return match needed {
                Role::ReadOnly => Ok(Who {
                    name: None,
                    role: Role::ReadOnly,
                }),
                Role::Admin => denied(
                    StatusCode::FORBIDDEN,
                    "this panel only shows, since it does not know who is who",
                    "vgpu-panel --tokens FILE says who may change things; `vgpu-admin` does, too",
                ),
            };
        };
        let Some(shown) = self.shown(headers) else {
            return denied(
                StatusCode::UNAUTHORIZED,
                "expected a token: Authorization: Bearer TOKEN, or a session of the page",
                "`vgpu-panel token` makes one",
            );
        };
        let Some(owner) = listed(tokens)?.get(&shown).cloned() else {
            return denied(
                StatusCode::UNAUTHORIZED,
                "this token, or the session that it opened, is not known: expected one of the panel's tokens",
                "`vgpu-panel token` makes one",
            );
        };
        if owner.role < needed {
            let message = format!(
                "{} may look and change nothing: expected the role admin",
                owner.name
            );
            return denied(StatusCode::FORBIDDEN, &message, "the panel's tokens say who may");
        }
        Ok(owner.into())
    }

    /// The hash of the token that comes with a request, or that its session began with.
    fn shown(&self, headers: &HeaderMap) -> Option<Hash> {
        if let Some(authorization) = headers.get(header::AUTHORIZATION) {
            let (scheme, token) = authorization.to_str().ok()?.split_once(' ')?;
            return scheme
                .eq_ignore_ascii_case("bearer")
                .then(|| tokens::hash(token.trim()));
        }
        let cookie = CookieJar::from_headers(headers)
            .get(self.cookie_name())?
            .value()
            .to_owned();
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let session = sessions.get(&tokens::hash(&cookie))?;
        (session.since.elapsed() < SESSION_LIMIT).then_some(session.token)
    }

    /// Opens a session for a browser that shows a token: who that is, and the cookie that it is to have.
    pub fn log_in(&self, token: &str) -> Result<(Who, Cookie<'static>), Denied> {
        let failed = |status, message: String| Err(Denied(status, Failure::new(Kind::Failed, message)));
        let Some(tokens) = &self.tokens else {
            return failed(
                StatusCode::FORBIDDEN,
                "this panel asks nobody who he is: it was started without --tokens".to_owned(),
            );
        };
        let token = tokens::hash(token.trim());
        let Some(owner) = listed(tokens)?.get(&token).cloned() else {
            return failed(
                StatusCode::UNAUTHORIZED,
                "this token is not known: expected one that `vgpu-panel token` made".to_owned(),
            );
        };
        let id = match tokens::random() {
            Ok(id) => id,
            Err(error) => return failed(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")),
        };
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, session| session.since.elapsed() < SESSION_LIMIT);
        if sessions.len() >= SESSIONS_MAX {
            let oldest = sessions.iter().min_by_key(|(_, session)| session.since);
            let oldest = oldest.map(|(id, _)| *id);
            oldest.and_then(|oldest| sessions.remove(&oldest));
        }
        let since = Instant::now();
        sessions.insert(tokens::hash(&id), Session { token, since });
        log::info!("{} ({:?}) has logged in", owner.name, owner.role);
        Ok((owner.into(), self.cookie(id)))
    }

    /// Ends the session of a browser: the cookie that takes its own away.
    pub fn log_out(&self, headers: &HeaderMap) -> Cookie<'static> {
        if let Some(cookie) = CookieJar::from_headers(headers).get(self.cookie_name()) {
            let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            sessions.remove(&tokens::hash(cookie.value()));
        }
        let mut cookie = self.cookie(String::new());
        cookie.make_removal();
        cookie
    }

    /// It goes with the browser. No script reads it, and no other site's page has it sent.
    fn cookie(&self, value: String) -> Cookie<'static> {
        Cookie::build((self.cookie_name(), value))
            .path("/")
            .http_only(true)
            .same_site(SameSite::Strict)
            .secure(self.secure)
            .build()
    }

    /// Browsers take a cookie of the first name from this host itself, and through TLS, alone.
    fn cookie_name(&self) -> &'static str {
        match self.secure {
            true => "__Host-vgpu-panel",
            false => "vgpu-panel",
        }
    }

    /// Whether it is asked who somebody is.
    pub fn asks(&self) -> bool {
        self.tokens.is_some()
    }
}

/// The tokens, unless the file has become wrong.
fn listed(tokens: &Tokens) -> Result<std::sync::Arc<tokens::Listed>, Denied> {
    tokens.listed().map_err(|error| {
        log::error!("nobody is let in: {error:#}");
        let message = "nobody is let in, since the panel's file of tokens is not as it should be";
        let failure = Failure::new(Kind::Failed, message).hint("the panel's log says what is wrong with it");
        Denied(StatusCode::SERVICE_UNAVAILABLE, failure)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    fn doors(secure: bool) -> (Doors, String, String, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        let anna = tokens::add(&path, Role::Admin, "anna").unwrap();
        let bob = tokens::add(&path, Role::ReadOnly, "bob").unwrap();
        (
            Doors::new(Some(Tokens::open(path).unwrap()), secure),
            anna,
            bob,
            dir,
        )
    }

    fn status<T>(outcome: Result<T, Denied>) -> u16 {
        outcome.map_or_else(|Denied(status, _)| status.as_u16(), |_| 200)
    }

    #[test]
    fn a_token_admits_by_its_role() {
        let (doors, anna, bob, _dir) = doors(false);
        let with = |token: &str, needed| {
            let headers = headers(header::AUTHORIZATION, &format!("Bearer {token}"));
            doors.admit(&headers, needed)
        };
        assert_eq!(with(&anna, Role::Admin).unwrap().name.as_deref(), Some("anna"));
        assert_eq!(with(&bob, Role::ReadOnly).unwrap().role, Role::ReadOnly);
        assert_eq!(status(with(&bob, Role::Admin)), 403);
        for nobody in ["", "x", &anna[1..], &format!("{anna}0")] {
            assert_eq!(status(with(nobody, Role::ReadOnly)), 401, "{nobody}");
        }
        assert_eq!(status(doors.admit(&HeaderMap::new(), Role::ReadOnly)), 401);
        let basic = headers(header::AUTHORIZATION, &format!("Basic {anna}"));
        assert_eq!(status(doors.admit(&basic, Role::ReadOnly)), 401);
    }

    #[test]
    fn a_session_lasts_as_long_as_its_token() {
        let (doors, anna, _, dir) = doors(false);
        assert_eq!(status(doors.log_in("nonsense")), 401);
        let (who, cookie) = doors.log_in(&anna).unwrap();
        assert_eq!((who.name.as_deref(), who.role), (Some("anna"), Role::Admin));
        assert_ne!(cookie.value(), anna);
        let sent = headers(
            header::COOKIE,
            &format!("other=1; {}={}", cookie.name(), cookie.value()),
        );
        assert_eq!(doors.admit(&sent, Role::Admin), Ok(who.clone()));
        // One that is logged out is over, whoever kept the cookie.
        let removal = doors.log_out(&sent);
        assert_eq!(removal.max_age().map(|age| age.whole_seconds()), Some(0));
        assert_eq!(status(doors.admit(&sent, Role::ReadOnly)), 401);
        let (_, cookie) = doors.log_in(&anna).unwrap();
        let sent = headers(header::COOKIE, &cookie.stripped().to_string());
        assert_eq!(doors.admit(&sent, Role::Admin), Ok(who));
        std::fs::write(dir.path().join("tokens"), "").unwrap();
        assert_eq!(status(doors.admit(&sent, Role::ReadOnly)), 401);
        std::fs::write(dir.path().join("tokens"), "nonsense").unwrap();
        assert_eq!(status(doors.admit(&sent, Role::ReadOnly)), 503);
    }

    #[test]
    fn a_cookie_is_this_panels_alone() {
        for secure in [false, true] {
            let (doors, anna, _, _dir) = doors(secure);
            let cookie = doors.log_in(&anna).unwrap().1.to_string();
            for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
                assert!(cookie.contains(part), "{cookie}");
            }
            assert_eq!(cookie.contains("Secure"), secure, "{cookie}");
            assert_eq!(cookie.starts_with("__Host-"), secure, "{cookie}");
            assert!(!cookie.contains("Domain"), "{cookie}");
        }
    }

    #[test]
    fn so_many_sessions_and_no_more() {
        let (doors, anna, _, _dir) = doors(false);
        let sent: Vec<HeaderMap> = (0..=SESSIONS_MAX)
            .map(|_| {
                headers(
                    header::COOKIE,
                    &doors.log_in(&anna).unwrap().1.stripped().to_string(),
                )
            })
            .collect();
        assert_eq!(status(doors.admit(&sent[0], Role::ReadOnly)), 401);
        assert_eq!(status(doors.admit(&sent[1], Role::ReadOnly)), 200);
        assert_eq!(status(doors.admit(&sent[SESSIONS_MAX], Role::ReadOnly)), 200);
    }

    #[test]
    fn without_tokens_everybody_looks_and_nobody_changes() {
        let doors = Doors::new(None, false);
        let who = doors.admit(&HeaderMap::new(), Role::ReadOnly).unwrap();
        assert_eq!((who.name, who.role), (None, Role::ReadOnly));
        assert_eq!(status(doors.admit(&HeaderMap::new(), Role::Admin)), 403);
        assert_eq!(status(doors.log_in("x")), 403);
    }
}
