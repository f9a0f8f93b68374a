//! Server-sent events: a new status and new statistics whenever they changed, and whether `vgpud` answers. It is looked at
//! once a second, and after each order that is given through the panel.
use crate::routes::Error;
use crate::vgpud::{Look, Told, Vgpud, json};
use axum::response::sse::Event;
use futures_util::stream::{Stream, unfold};
use serde::Serialize;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Interval, MissedTickBehavior, interval};
use vgpu_client::failure::Failure;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// So many looks after which at least that is said that there is nothing new.
const SILENT_MAX: u32 = 15;
/// So many looks after which the stream ends; a page comes back.
const LOOKS_MAX: u32 = 600;
/// How long a browser waits before it does.
const COME_BACK: Duration = Duration::from_secs(1);

/// A client, and what it was told.
struct Follower {
    vgpud: Arc<Vgpud>,
    interval: Interval,
    /// Orders, which are looked after at once.
    orders: watch::Receiver<u64>,
    looks: u32,
    said: Said,
    pending: VecDeque<Event>,
    /// Its place among those who follow.
    _place: OwnedSemaphorePermit,
}

#[derive(Default)]
struct Said {
    status: u64,
    stats: u64,
    /// The failure, if `vgpud` did not answer; `None` at the beginning.
    failure: Option<Option<Failure>>,
    /// Looks since something was said.
    silent: u32,
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
    let follower = Follower {
        orders: vgpud.orders_done(),
        vgpud,
        interval,
        looks: 0,
        said: Said::default(),
        pending: VecDeque::new(),
        _place: place,
    };
    unfold(follower, |mut follower| async move {
        loop {
            if let Some(event) = follower.pending.pop_front() {
                return Some((Ok(event), follower));
            }
            if follower.looks == LOOKS_MAX {
                return None;
            }
            follower.looks += 1;
            tokio::select! {
                _ = follower.interval.tick() => {}
                Ok(()) = follower.orders.changed() => {}
            }
            let look = follower.vgpud.look().await;
            follower.pending = follower.said.news(&look).into();
        }
    })
}

impl Said {
    /// What is new, and is said with this.
    fn news(&mut self, look: &Look) -> Vec<Event> {
        let mut news = Vec::new();
        if let Some(known) = &look.known {
            news.extend(changed("status", &known.status, &mut self.status));
            news.extend(changed("stats", &known.stats, &mut self.stats));
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
        self.silent += 1;
        if news.is_empty() && self.silent >= SILENT_MAX {
            news.push(Event::default().event("alive").data("{}"));
        }
        if !news.is_empty() {
            self.silent = 0;
        }
        news.into_iter().map(|event| event.retry(COME_BACK)).collect()
    }
}

/// An event, if it is another version than the one that was said.
fn changed<T>(name: &str, told: &Told<T>, said: &mut u64) -> Option<Event> {
    let new = told.version != *said;
    *said = told.version;
    new.then(|| {
        Event::default()
            .event(name)
            .id(told.at_ms.to_string())
            .data(&told.json)
    })
}
