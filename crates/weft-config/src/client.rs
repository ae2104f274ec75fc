//! The background task: load from disk, connect, stream, wait, again.
//!
//! ```text
//! load from disk --> connect --> session --(stream ended)--> back off --.
//!                       ^            '--(root file changed)-------.     |
//!                       '-----------------------------------------'-----'
//! ```
//!
//! In: settings and a [`State`] that understands the resources. Out: calls on that state.
//! Not here: what a resource means.

mod ask;
mod channel;
mod error;
mod held;
mod session;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};
use weft_proto::ConvertError;
use weft_proto::wire::discovery::Resource;
use weft_runtime::{Backoff, Shutdown, spawn};

use crate::disk::{self, Disk};
use crate::settings::{ConfigSettings, SettingsError};
use crate::snapshot::Origin;
use crate::status::{Connection, SharedStatus, Termination};

pub(crate) use crate::disk::Image;
pub(crate) use ask::{Asker, questions};

use ask::Questions;
use channel::Files;
use error::SessionError;
use held::Held;
use session::{Ended, Session};

/// First wait after a stream has ended; a restarted controller is met again at once.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// Longest wait: what a fleet of proxies may cost a controller that is down.
const BACKOFF_MAX: Duration = Duration::from_secs(15);
/// How often the root file is looked at; one `stat` each.
const FILES_CHECK: Duration = Duration::from_millis(500);
/// How long types that a server refused are not asked for again on a new stream.
const OPTIONAL_PAUSE: Duration = Duration::from_mins(5);

/// A type of resource that a state takes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// Type URL.
    pub(crate) url: &'static str,
    /// Whether a state without it is incomplete. One that is not may be unknown to the server.
    pub(crate) required: bool,
}

/// Owner of what was received; only the client's task touches it.
pub(crate) trait State: Send + 'static {
    /// What one copy for the disk looks like.
    type Image: Image + Sync;
    /// Name of the file on disk.
    const FILE: &'static str;

    /// The type that readers ask about by name, if they do.
    const ASKED: Option<&'static str>;

    /// What to subscribe to.
    fn kinds(&self) -> &'static [Kind];
    /// Takes one resource. An error leaves what was there before, or puts something stricter in its place.
    fn put(&mut self, url: &str, resource: &Resource) -> Result<(), ConvertError>;
    /// Forgets one resource; unknown names are fine.
    fn remove(&mut self, url: &str, name: &str);
    /// Shows everything taken so far to the readers.
    fn publish(&mut self, origin: Origin);
    /// A cheap copy of what is held.
    fn image(&self) -> Self::Image;
}

/// Starts the task; see [`crate::ProxyConfig::start`]. The result asks it about names.
pub(crate) fn start<S: State>(
    settings: ConfigSettings,
    state: S,
    status: SharedStatus,
    shutdown: &Shutdown,
) -> Result<Asker, SettingsError> {
    settings.endpoint()?;
    let disk = settings
        .state_dir
        .as_deref()
        .map(|dir| Disk::new(dir, S::FILE, &settings));
    // A drain must not wait for this task: it serves what is being drained.
    let own = shutdown.child();
    let (asker, questions) = questions();
    let stop = own.clone();
    spawn(&own, "config", async move {
        let mut held = Held::new(state, status.clone());
        if let Some(disk) = &disk {
            load(disk, &mut held, &status);
        }
        let (images, to_write) = watch::channel(None);
        if let Some(disk) = disk {
            spawn(
                &stop,
                "config-disk",
                disk::write(disk, to_write, status.clone()),
            );
        }
        let client = Client {
            files: Files::new(&settings),
            settings,
            held,
            status,
            images,
            questions,
            optional_refused: None,
        };
        tokio::select! {
            () = client.run() => {}
            () = stop.stopped() => {}
        }
    });
    Ok(asker)
}

fn load<S: State>(disk: &Disk, held: &mut Held<S>, status: &SharedStatus) {
    match disk.read() {
        Ok(Some(saved)) => {
            let count = saved.len();
            for resource in &saved {
                held.restore(resource);
            }
            held.publish(Origin::Disk);
            info!(
                resources = count,
                "serving the last good configuration from disk"
            );
        }
        Ok(None) => {}
        Err(error) => {
            warn!(%error, "the configuration on disk is of no use, waiting for the controller");
            status.update(|status| status.disk_error = Some(error.to_string()));
        }
    }
}

struct Client<S: State> {
    settings: ConfigSettings,
    files: Files,
    held: Held<S>,
    status: SharedStatus,
    images: watch::Sender<Option<Arc<disk::Job<S::Image>>>>,
    questions: Questions,
    optional_refused: Option<tokio::time::Instant>,
}

impl<S: State> Client<S> {
    async fn run(mut self) {
        let mut backoff = Backoff::random(BACKOFF_MIN, BACKOFF_MAX);
        loop {
            let ended = self.stream().await;
            let reason = match &ended {
                Ok(Ended::RootChanged) => Termination::Reconnect,
                Ok(Ended::Lost { error, .. }) | Err(error) => error.termination(),
            };
            self.status.update(|status| {
                status.connection = Connection::Down;
                *status.terminations.entry(reason).or_default() += 1;
            });
            match ended {
                Ok(Ended::RootChanged) => {
                    info!(
                        "the controller's root certificates changed, connecting again with the new ones"
                    );
                    continue;
                }
                Ok(Ended::Lost { heard, error }) => {
                    if heard {
                        backoff.reset();
                    }
                    self.failed(&error);
                }
                Err(error) => self.failed(&error),
            }
            let wait = backoff.next_wait();
            // New files are the usual cure for a refused connection.
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.files.changed() => {}
            }
        }
    }

    async fn stream(&mut self) -> Result<Ended, SessionError> {
        // Before anything can fail: a file that was never looked at would count as changed for ever.
        self.files.look();
        let channel = channel::connect(&mut self.files).await?;
        let token = self.files.token()?;
        let optional = self
            .optional_refused
            .is_none_or(|since| since.elapsed() >= OPTIONAL_PAUSE);
        let mut session = Session {
            settings: &self.settings,
            files: &mut self.files,
            held: &mut self.held,
            status: &self.status,
            images: &self.images,
            questions: &mut self.questions,
            optional,
        };
        let ended = session.run(channel, token).await;
        if let Err(SessionError::OptionalRefused(_)) = &ended {
            self.optional_refused = Some(tokio::time::Instant::now());
        }
        ended
    }

    fn failed(&self, error: &SessionError) {
        let text = error.to_string();
        let news = self.status.update(|status| {
            let before = status.last_error.replace(text.clone());
            before.as_deref() != Some(text.as_str())
        });
        // The same failure again and again is one line, not a full log.
        if news {
            warn!(
                controller = self.settings.controller,
                error = text,
                "no configuration stream, trying again"
            );
        }
    }
}
