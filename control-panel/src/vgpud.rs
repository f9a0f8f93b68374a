//! What is known of `vgpud`. It is asked only when somebody wants to know, and at most about once a second for all
//! who do, since it has turns to give.
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{Mutex, Semaphore, watch};
use vgpu_client::client::Client;
use vgpu_client::failure::{Failure, Kind};
use vgpu_sched_api::messages::{Stats, Status};

/// For so long an answer is good. A bit less than the second after which a page asks again.
const FRESH: Duration = Duration::from_millis(900);
/// Questions about what happened that are asked at once.
const QUESTIONS_MAX: usize = 4;
/// Orders that are given at once.
const ORDERS_MAX: usize = 2;

/// `vgpud`, as the panel sees it.
pub struct Vgpud {
    socket: PathBuf,
    last: Mutex<Option<(Instant, Arc<Look>)>>,
    questions: Arc<Semaphore>,
    orders: Arc<Semaphore>,
    /// How many were carried out.
    done: watch::Sender<u64>,
}

/// The outcome of asking for status and statistics.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// What was read last, even if that was before the failure.
    pub known: Option<Arc<Known>>,
    /// Why nothing could be read this time.
    pub failure: Option<Failure>,
}

/// What was read.
#[derive(Debug)]
pub struct Known {
    pub status: Told<Status>,
    pub stats: Told<Stats>,
    /// When.
    pub at: Instant,
}

/// An answer, and its text.
#[derive(Debug)]
pub struct Told<T> {
    pub value: T,
    pub json: String,
    /// Another one if anything but the time since `vgpud` started is different.
    pub version: u64,
    /// When it was read, in milliseconds since 1970.
    pub at_ms: u64,
}

impl<T: Serialize> Told<T> {
    fn new(value: T, at_ms: u64, last: Option<&Self>, same: impl Fn(&T, &T) -> bool) -> Self {
        let version = match last {
            Some(last) if same(&last.value, &value) => last.version,
            Some(last) => last.version + 1,
            None => 1,
        };
        Self {
            json: json(&value),
            value,
            version,
            at_ms,
        }
    }
}

/// As JSON. All keys are strings, so there is nothing that it cannot say.
pub fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("JSON")
}

impl Vgpud {
    pub fn new(socket: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            socket,
            last: Mutex::default(),
            questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
            orders: Arc::new(Semaphore::new(ORDERS_MAX)),
            done: watch::Sender::default(),
        })
    }

    /// How it is, or was less than a second ago.
    pub async fn look(self: &Arc<Self>) -> Arc<Look> {
        let vgpud = self.clone();
        // In a task of its own: it is asked once however many want to know, and however soon they lose interest.
        let look = tokio::spawn(async move {
            let mut last = vgpud.last.lock().await;
            let before = match &*last {
                Some((at, look)) if at.elapsed() < FRESH => return look.clone(),
                Some((_, look)) => look.clone(),
                None => Arc::default(),
            };
            let asking = vgpud.clone();
            let known = before.known.clone();
            let read = tokio::task::spawn_blocking(move || asking.read(known.as_deref()));
            let look = Arc::new(match flat(read.await) {
                Ok(known) => Look {
                    known: Some(Arc::new(known)),
                    failure: None,
                },
                Err(failure) => Look {
                    known: before.known.clone(),
                    failure: Some(failure),
                },
            });
            *last = Some((Instant::now(), look.clone()));
            look
        });
        look.await.unwrap_or_else(|error| {
            Arc::new(Look {
                known: None,
                failure: Some(broken(&error)),
            })
        })
    }

    fn read(&self, last: Option<&Known>) -> Result<Known, Failure> {
        let client = Client::connect(&self.socket)?;
        let (status, status_ms) = (client.status()?, now_ms());
        let (stats, stats_ms) = (client.stats()?, now_ms());
        Ok(Known {
            status: Told::new(status, status_ms, last.map(|last| &last.status), same_status),
            stats: Told::new(stats, stats_ms, last.map(|last| &last.stats), same_stats),
            at: Instant::now(),
        })
    }

    /// Asks about what happened.
    pub async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Client) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.with(&self.questions, ask).await
    }

    /// Has something done. What is known after it is new.
    pub async fn order<T: Send + 'static>(
        &self,
        order: impl FnOnce(&Client) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let done = self.with(&self.orders, order).await;
        if let Some((at, _)) = &mut *self.last.lock().await {
            *at = at.checked_sub(FRESH).unwrap_or(*at);
        }
        self.done.send_modify(|count| *count += 1);
        done
    }

    /// Tells of every order that was carried out.
    pub fn orders_done(&self) -> watch::Receiver<u64> {
        self.done.subscribe()
    }

    async fn with<T: Send + 'static>(
        &self,
        places: &Arc<Semaphore>,
        ask: impl FnOnce(&Client) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let place = places.clone().acquire_owned().await;
        let socket = self.socket.clone();
        let asked = tokio::task::spawn_blocking(move || {
            // Until it is answered, even if nobody waits for that any longer.
            let _place = place;
            ask(&Client::connect(&socket)?)
        });
        flat(asked.await)
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

fn same_status(one: &Status, other: &Status) -> bool {
    let uptime_s = one.uptime_s;
    *one == Status {
        uptime_s,
        ..other.clone()
    }
}

fn same_stats(one: &Stats, other: &Stats) -> bool {
    let uptime_s = one.uptime_s;
    *one == Stats {
        uptime_s,
        ..other.clone()
    }
}

/// The outcome of a task.
fn flat<T>(outcome: Result<Result<T, Failure>, tokio::task::JoinError>) -> Result<T, Failure> {
    outcome.unwrap_or_else(|error| Err(broken(&error)))
}

fn broken(error: &tokio::task::JoinError) -> Failure {
    Failure::new(Kind::Failed, format!("asking vgpud: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgpu_client::fixture;

    /// Time passes all the time: that is nothing new.
    #[test]
    fn only_what_changed_is_another_version() {
        let first = Told::new(fixture::host(), 1, None, same_status);
        let mut later = fixture::host();
        later.uptime_s += 1;
        let second = Told::new(later.clone(), 2, Some(&first), same_status);
        assert_eq!((first.version, second.version), (1, 1));
        later.pools[0].vms[0].queued += 1;
        let third = Told::new(later, 3, Some(&second), same_status);
        assert_eq!(third.version, 2);

        let stats = |uptime_s, waiting| {
            let mut stats = fixture::stats();
            stats.uptime_s = uptime_s;
            stats.gpus[0].waiting = waiting;
            stats
        };
        let first = Told::new(stats(1, 1), 1, None, same_stats);
        assert_eq!(Told::new(stats(2, 1), 2, Some(&first), same_stats).version, 1);
        assert_eq!(Told::new(stats(2, 2), 2, Some(&first), same_stats).version, 2);
    }
}
