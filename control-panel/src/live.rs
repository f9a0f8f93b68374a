//! Server-sent events: a status and statistics, what of them changed since, and whether `vgpud` answers. It is looked at once a
//! second, and at once after each order that is given through the panel.
use crate::news::News;
use crate::routes::Error;
use crate::vgpud::{Look, Vgpud, json};
use axum::response::sse::Event;
use futures_util::stream::{Stream, unfold};
use serde::Serialize;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use vgpu_client::failure::Failure;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// After so long at least that is said that there is nothing new.
const SILENT_MAX: Duration = Duration::from_secs(15);
/// After so long the stream ends; a page comes back.
const STREAM_MAX: Duration = Duration::from_secs(600);
/// How long a browser waits before it does.
const COME_BACK: Duration = Duration::from_secs(1);

/// A client, and what it was told.
struct Follower {
    vgpud: Arc<Vgpud>,
    interval: Interval,
    looks: watch::Receiver<Arc<Look>>,
    until: Instant,
    said: Said,
    pending: VecDeque<Event>,
    /// Its place among those who follow.
    _place: OwnedSemaphorePermit,
}

struct Said {
    /// Versions; 0 at the beginning.
    status: u64,
    stats: u64,
    /// The failure, if `vgpud` did not answer; `None` at the beginning.
    failure: Option<Option<Failure>>,
    /// When something was said last.
    at: Instant,
}

/// `vgpud` does not answer.
#[derive(Serialize)]
struct Down<'a> {
    #[serde(flatten)]
    error: Error<'a>,
    /// Seconds since it did; `None` if it never has.
    last_known_age_s: Option<u64>,
}

/// The events for one client.
pub fn follow(
    vgpud: Arc<Vgpud>,
    place: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let mut interval = interval(INTERVAL);
    // A client that does not read gets no more for it.
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let now = Instant::now();
    let follower = Follower {
        looks: vgpud.looks(),
        vgpud,
        interval,
        until: now + STREAM_MAX,
        said: Said {
            status: 0,
            stats: 0,
            failure: None,
            at: now,
        },
        pending: VecDeque::new(),
        _place: place,
    };
    unfold(follower, |mut follower| async move {
        loop {
            if let Some(event) = follower.pending.pop_front() {
                return Some((Ok(event), follower));
            }
            if Instant::now() >= follower.until {
                return None;
            }
            follower.see().await;
        }
    })
}

impl Follower {
    /// Waits until somebody has looked, and looks if nobody has for a while.
    async fn see(&mut self) {
        let look = async {
            self.interval.tick().await;
            self.vgpud.look().await;
        };
        tokio::select! {
            () = look => {}
            // Part of what is looked at may be there already.
            Ok(()) = self.looks.changed() => {}
        }
        let look = self.looks.borrow_and_update().clone();
        self.pending = self.said.news(&look).into();
    }
}

impl Said {
    /// What is new, and is said with this.
    fn news(&mut self, look: &Look) -> Vec<Event> {
        let mut news = Vec::new();
        if let Some(known) = &look.known {
            news.extend(changed("status", &known.status.news, &mut self.status));
            news.extend(changed("stats", &known.stats.news, &mut self.stats));
        }
        if self.failure.as_ref() != Some(&look.failure) {
            news.push(match &look.failure {
                None => Event::default().event("up").data("{}"),
                Some(failure) => Event::default().event("down").data(json(&Down {
                    error: Error::new(failure),
                    last_known_age_s: look.known.as_ref().map(|known| known.at.elapsed().as_secs()),
                })),
            });
            self.failure = Some(look.failure.clone());
        }
        if news.is_empty() && self.at.elapsed() >= SILENT_MAX {
            news.push(Event::default().event("alive").data("{}"));
        }
        if !news.is_empty() {
            self.at = Instant::now();
        }
        news.into_iter().map(|event| event.retry(COME_BACK)).collect()
    }
}

/// What is new since the version that was said: what changed, or all of it to whom that is not enough.
fn changed(name: &str, news: &News, said: &mut u64) -> Option<Event> {
    let before = std::mem::replace(said, news.version);
    if news.version == before {
        return None;
    }
    let event = match &news.patch {
        Some(patch) if news.version == before + 1 => {
            Event::default().event(format!("{name}_patch")).data(patch)
        }
        _ => Event::default().event(name).data(news.tree.to_string()),
    };
    Some(event.id(news.at_ms.to_string()))
}
