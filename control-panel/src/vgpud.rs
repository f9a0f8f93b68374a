//! What is known of `vgpud`. It is asked only when somebody wants to know, and at most about once a second for all
//! who do, since it has turns to give.
use crate::news::News;
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::task::{JoinError, JoinHandle};
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
    /// When it was asked last; `None` if that is too old for whoever asks now.
    asked: Mutex<Option<Instant>>,
    looks: watch::Sender<Arc<Look>>,
    questions: Arc<Semaphore>,
    orders: Arc<Semaphore>,
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
#[derive(Clone, Debug)]
pub struct Known {
    pub status: Arc<Told<Status>>,
    pub stats: Arc<Told<Stats>>,
    /// When.
    pub at: Instant,
}

/// An answer.
#[derive(Debug)]
pub struct Told<T> {
    pub value: T,
    /// When it was read, in milliseconds since 1970.
    pub at_ms: u64,
    pub news: Arc<News>,
}

impl<T: Serialize> Told<T> {
    fn new(value: T, at_ms: u64, last: Option<&Self>) -> Self {
        let news = News::of(tree(&value), at_ms, last.map(|last| &last.news));
        Self { value, at_ms, news }
    }
}

/// As JSON. All keys are strings, so there is nothing that it cannot say.
pub fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("JSON")
}

fn tree(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("JSON")
}

impl Vgpud {
    pub fn new(socket: PathBuf) -> Arc<Self> {
        Arc::new(Self {
            socket,
            asked: Mutex::default(),
            looks: watch::Sender::default(),
            questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
            orders: Arc::new(Semaphore::new(ORDERS_MAX)),
        })
    }

    /// How it is, or was less than a second ago.
    pub async fn look(self: &Arc<Self>) -> Arc<Look> {
        self.looking().await.unwrap_or_else(|error| {
            Arc::new(Look {
                known: None,
                failure: Some(broken(&error)),
            })
        })
    }

    /// All that is seen, by whoever looks.
    pub fn looks(&self) -> watch::Receiver<Arc<Look>> {
        self.looks.subscribe()
    }

    /// In a task of its own: it is asked once however many want to know, and however soon they lose interest.
    fn looking(self: &Arc<Self>) -> JoinHandle<Arc<Look>> {
        let vgpud = self.clone();
        tokio::spawn(async move {
            let mut asked = vgpud.asked.lock().await;
            if asked.is_none_or(|at| at.elapsed() >= FRESH) {
                *asked = Some(Instant::now());
                let asking = vgpud.clone();
                let read = flat(tokio::task::spawn_blocking(move || asking.read()).await);
                if let Err(failure) = read {
                    vgpud.looks.send_modify(|look| {
                        *look = Arc::new(Look {
                            known: look.known.clone(),
                            failure: Some(failure),
                        });
                    });
                }
            }
            vgpud.looks.borrow().clone()
        })
    }

    /// Reads both. The status is seen before the statistics are: somebody may wait for what he has changed.
    fn read(&self) -> Result<(), Failure> {
        let client = Client::connect(&self.socket)?;
        let last = self.looks.borrow().known.clone();
        let last_status = last.as_ref().map(|last| &*last.status);
        let status = Arc::new(Told::new(client.status()?, now_ms(), last_status));
        if let Some(last) = &last {
            self.see(Known {
                status: status.clone(),
                ..Known::clone(last)
            });
        }
        let last_stats = last.as_ref().map(|last| &*last.stats);
        let stats = Arc::new(Told::new(client.stats()?, now_ms(), last_stats));
        self.see(Known {
            status,
            stats,
            at: Instant::now(),
        });
        Ok(())
    }

    fn see(&self, known: Known) {
        self.looks.send_replace(Arc::new(Look {
            known: Some(Arc::new(known)),
            failure: None,
        }));
    }

    /// Asks about what happened.
    pub async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Client) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        self.with(&self.questions, ask).await
    }

    /// Has something done. What is known after it is new, and those who follow are told at once.
    pub async fn order<T: Send + 'static>(
        self: &Arc<Self>,
        order: impl FnOnce(&Client) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let done = self.with(&self.orders, order).await;
        *self.asked.lock().await = None;
        if self.looks.receiver_count() > 0 {
            self.looking();
        }
        done
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

/// The outcome of a task.
fn flat<T>(outcome: Result<Result<T, Failure>, JoinError>) -> Result<T, Failure> {
    outcome.unwrap_or_else(|error| Err(broken(&error)))
}

fn broken(error: &JoinError) -> Failure {
    Failure::new(Kind::Failed, format!("asking vgpud: {error}"))
}
