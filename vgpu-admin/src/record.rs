//! Recording when work came and how much GPU time it needed: a file of JSON lines. The first one says what the file is, each
//! other one is an [`Arrival`].
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};
use vgpu_client::client::{Client, pages};
use vgpu_client::failure::{Failure, Kind};
use vgpu_sched_api::messages::{Arrival, SCHEMA_VERSION};

/// Version of the file.
const VERSION: u32 = 1;
/// How often it is asked what came. `vgpud` remembers some thousands of arrivals.
const INTERVAL: Duration = Duration::from_millis(100);

/// The file's first line.
#[derive(Serialize)]
struct Header {
    vgpu_record: u32,
    /// That of the messages.
    schema_version: u32,
}

/// What was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Recorded {
    pub arrivals: u64,
    /// Those that `vgpud` forgot before it was asked for them.
    pub missed: u64,
}

/// Records what comes from now on to a new file, for so long or until SIGINT or SIGTERM comes.
pub fn record(client: &Client, path: &Path, limit: Option<Duration>) -> Result<Recorded, Failure> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, interrupted.clone())
            .map_err(|error| Failure::new(Kind::Failed, format!("signals: {error}")))?;
    }
    let read = |from| client.arrivals(from);
    let mut from = pages(0, read, |_| Ok(()))?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(|error| cannot_write(path, &error))?;
    let mut recorded = Recorded::default();
    let mut text = lines(&[Header {
        vgpu_record: VERSION,
        schema_version: SCHEMA_VERSION,
    }]);
    let start = Instant::now();
    loop {
        // What came until then is recorded, too.
        let last = interrupted.load(SeqCst) || limit.is_some_and(|limit| start.elapsed() >= limit);
        let mut expected = from;
        let read = pages(from, read, |page| {
            recorded.count(&mut expected, &page);
            text += &lines(&page);
            Ok(())
        });
        // Whole lines at once, so that the file can be read whenever this ends; also what was read before vgpud ended.
        file.write_all(text.as_bytes())
            .map_err(|error| cannot_write(path, &error))?;
        text.clear();
        from = read.map_err(|failure| ended(failure, path, recorded))?;
        if last {
            return Ok(recorded);
        }
        std::thread::sleep(INTERVAL);
    }
}

impl Recorded {
    /// Counts a page that was asked for from number `expected` on, which becomes where the next one begins.
    fn count(&mut self, expected: &mut u64, page: &[Arrival]) {
        for arrival in page {
            self.arrivals += 1;
            self.missed += arrival.number.saturating_sub(*expected);
            *expected = arrival.number.saturating_add(1);
        }
    }
}

/// A line of JSON for each.
fn lines<T: Serialize>(all: &[T]) -> String {
    // All keys are strings, so there is nothing that JSON cannot say.
    let line = |one| serde_json::to_string(one).expect("JSON") + "\n";
    all.iter().map(line).collect()
}

/// Times are since vgpud started, so that a record cannot go on with another one's.
fn ended(failure: Failure, path: &Path, recorded: Recorded) -> Failure {
    let path = path.display();
    let Recorded { arrivals, missed } = recorded;
    let but = match missed {
        0 => String::new(),
        many => format!(", but for {many} that came faster than they could be read"),
    };
    Failure {
        message: format!(
            "{}: the record ends here. {path} is whole: it has what came before, {arrivals} arrivals{but}",
            failure.message
        ),
        hint: Some("the next vgpud's is a record of its own: start `vgpu-admin record` again".to_owned()),
        ..failure
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    let failure = Failure::new(Kind::Failed, format!("{}: {error}", path.display()));
    match error.kind() {
        std::io::ErrorKind::AlreadyExists => Failure {
            kind: Kind::Usage,
            ..failure
        }
        .hint("a record is a file of its own: name one that is not there yet"),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgpu_client::fixture::arrival;

    #[test]
    fn what_was_forgotten_is_counted() {
        let mut recorded = Recorded::default();
        let mut expected = 5;
        recorded.count(&mut expected, &[arrival(5), arrival(6)]);
        recorded.count(&mut expected, &[arrival(9), arrival(10)]);
        assert_eq!((recorded.arrivals, recorded.missed, expected), (4, 2, 11));
        recorded.count(&mut expected, &[arrival(u64::MAX)]);
        assert_eq!(expected, u64::MAX);
    }

    #[test]
    fn a_line_is_an_object_and_the_first_one_says_what_it_is() {
        let header = lines(&[Header {
            vgpu_record: VERSION,
            schema_version: SCHEMA_VERSION,
        }]);
        assert_eq!(header, "{\"vgpu_record\":1,\"schema_version\":3}\n");
        let text = lines(&[arrival(1), arrival(2)]);
        let read: Vec<Arrival> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(read, [arrival(1), arrival(2)]);
    }
}
