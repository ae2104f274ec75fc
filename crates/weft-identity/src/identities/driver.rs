//! The one task that asks for certificates.
//!
//! In: what pods and connections need. Out: new credentials in the entries, events. Ends when the last handle is gone.

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::Instant;
use weft_runtime::Clock;
use weft_types::SpiffeId;

use super::schedule::{Now, Schedule};
use super::{IdentitiesOptions, IdentityEvents, Shared};
use crate::ca::{CaError, CertificateSource};
use crate::credentials::Credentials;
use crate::key::PrivateKey;

pub(super) enum Command {
    /// A pod claimed it, or a former proxy left it.
    Track(SpiffeId),
    /// A connection waits for it.
    Want(SpiffeId),
    /// The last pod is gone.
    Forget(SpiffeId),
    /// Certificates shall live this long.
    Ttl(Duration),
}

pub(super) struct Driver {
    /// Weak: the handles keep the table alive, not we, so that dropping them ends this task.
    shared: Weak<Shared>,
    options: IdentitiesOptions,
    clock: Arc<dyn Clock>,
    source: Arc<dyn CertificateSource>,
    events: Arc<dyn IdentityEvents>,
    schedule: Schedule,
    in_flight: FuturesUnordered<BoxFuture<'static, Outcome>>,
}

struct Outcome {
    identity: SpiffeId,
    took: Duration,
    result: Result<Credentials, CaError>,
}

impl Driver {
    pub(super) fn new(
        shared: &Arc<Shared>,
        source: Arc<dyn CertificateSource>,
        events: Arc<dyn IdentityEvents>,
    ) -> Self {
        Self {
            shared: Arc::downgrade(shared),
            options: shared.options.clone(),
            clock: shared.clock.clone(),
            source,
            events,
            schedule: Schedule::new(shared.options.retry_min, shared.options.retry_max),
            in_flight: FuturesUnordered::new(),
        }
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        loop {
            self.expire();
            self.start_due();
            let sleep = self.sleep();
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                Some(outcome) = self.in_flight.next() => self.finish(outcome),
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Want(identity) => self.schedule.want(&identity),
            Command::Ttl(ttl) => {
                if ttl < self.options.ttl {
                    self.schedule.shorten(ttl, self.now());
                }
                self.options.ttl = ttl;
            }
            // Commands may overtake each other; the table is the truth.
            Command::Track(identity) | Command::Forget(identity) => {
                let entry = self
                    .shared
                    .upgrade()
                    .and_then(|shared| shared.entry(&identity));
                match entry {
                    Some(entry) => {
                        let held = entry.current(self.clock.wall());
                        let held = held.map(|held| (held.not_before(), held.not_after()));
                        self.schedule.track(&identity, held);
                    }
                    None => self.schedule.forget(&identity),
                }
            }
        }
    }

    fn expire(&mut self) {
        for identity in self.schedule.expire(self.now()) {
            if let Some(shared) = self.shared.upgrade() {
                if let Some(entry) = shared.entry(&identity) {
                    entry.expire();
                }
                shared.changed();
            }
            self.events.expired(&identity);
        }
    }

    fn start_due(&mut self) {
        while self.in_flight.len() < self.options.requests_max {
            let Some((identity, priority)) = self.schedule.start(self.now()) else {
                return;
            };
            tracing::debug!(%identity, ?priority, "asking for a certificate");
            let request = fetch(
                self.source.clone(),
                self.clock.clone(),
                identity,
                self.options.clone(),
            );
            self.in_flight.push(Box::pin(request));
        }
    }

    /// With all requests in flight nothing can start, so only their end or the next expiry matters.
    fn sleep(&self) -> Duration {
        let sleep = self.schedule.sleep(self.now());
        if self.in_flight.len() < self.options.requests_max {
            sleep
        } else {
            sleep.max(Duration::from_secs(1))
        }
    }

    fn finish(&mut self, outcome: Outcome) {
        let identity = &outcome.identity;
        let entry = self
            .shared
            .upgrade()
            .and_then(|shared| Some((shared.entry(identity)?, shared)));
        let Some((entry, shared)) = entry else {
            // Its last pod left meanwhile: the new key is dropped, and wiped.
            self.schedule.forget(identity);
            return;
        };
        let now = self.now();
        match outcome.result {
            Ok(credentials) => {
                let credentials = Arc::new(credentials.with_aliases(&self.options.aliases));
                self.schedule
                    .succeeded(identity, now, credentials.not_after());
                entry.store(credentials.clone());
                shared.changed();
                self.events.issued(&credentials, outcome.took);
            }
            Err(error) => {
                let pause = self.schedule.failed(identity, now);
                self.events.failed(identity, &error, pause);
                entry.fail(error);
            }
        }
    }

    fn now(&self) -> Now {
        Now {
            instant: Instant::now(),
            wall: self.clock.wall(),
        }
    }
}

/// One request: a fresh key, a CSR, the answer checked.
async fn fetch(
    source: Arc<dyn CertificateSource>,
    clock: Arc<dyn Clock>,
    identity: SpiffeId,
    options: IdentitiesOptions,
) -> Outcome {
    let started = Instant::now();
    let asked = ask(&*source, &identity, options.ttl);
    let result = match tokio::time::timeout(options.request_timeout, asked).await {
        Ok(Ok((key, chain))) => accept(&identity, key, &chain, clock.wall()),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(CaError::Unavailable(format!(
            "no answer within {} s",
            options.request_timeout.as_secs()
        ))),
    };
    Outcome {
        took: started.elapsed(),
        identity,
        result,
    }
}

async fn ask(
    source: &dyn CertificateSource,
    identity: &SpiffeId,
    ttl: Duration,
) -> Result<(PrivateKey, Vec<String>), CaError> {
    let key = PrivateKey::generate()?;
    let csr = key.request(identity)?;
    let chain = source.sign(identity, csr, ttl).await?;
    Ok((key, chain))
}

fn accept(
    identity: &SpiffeId,
    key: PrivateKey,
    chain: &[String],
    now: SystemTime,
) -> Result<Credentials, CaError> {
    Credentials::from_response(identity.clone(), key, chain, now).map_err(|reason| {
        CaError::Answer {
            identity: identity.clone(),
            reason: Box::new(reason),
        }
    })
}
