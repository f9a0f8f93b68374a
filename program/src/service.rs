//! What a service tells the service manager that started it, as sd_notify(3) says. Without one nothing is told to anybody.
use sd_notify::NotifyState;
use std::time::Duration;

/// How often a manager that watches over nothing is told what the service does.
const STATUS_PERIOD: Duration = Duration::from_secs(10);

/// Tells a service manager again and again that the service is alive, and what it does.
#[derive(Debug)]
pub struct Heartbeat {
    period: Duration,
    is_watched: bool,
    told: String,
}

/// The service serves. From now on its [`Heartbeat`] is to beat, from where it stops if the service hangs; `None` if no manager
/// listens.
pub fn ready(status: &str) -> Option<Heartbeat> {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    std::env::var_os("NOTIFY_SOCKET")?;
    let allowed = sd_notify::watchdog_enabled();
    Some(Heartbeat {
        // As sd_watchdog_enabled(3) recommends.
        period: allowed.map_or(STATUS_PERIOD, |allowed| allowed / 2),
        is_watched: allowed.is_some(),
        told: status.to_owned(),
    })
}

/// The service is about to end.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

impl Heartbeat {
    /// How long it may be from one beat to the next.
    pub fn period(&self) -> Duration {
        self.period
    }

    /// Tells of being alive, and what the service does if that is news.
    pub fn beat(&mut self, status: String) {
        let mut news = Vec::new();
        if self.is_watched {
            news.push(NotifyState::Watchdog);
        }
        if status != self.told {
            news.push(NotifyState::Status(&status));
        }
        if !news.is_empty() {
            tell(&news);
        }
        self.told = status;
    }
}

fn tell(news: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(news) {
        log::warn!("the service manager is not told: {error}");
    }
}
