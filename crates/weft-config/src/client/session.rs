//! One stream: subscribe, take responses, answer each.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request};
use tracing::{debug, info};
use weft_proto::resource::NONCE_MORE;
use weft_proto::wire::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_proto::wire::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Status};
use weft_proto::{Message, Struct, Value, value};

use super::ask::{Names, Questions};
use super::channel::Files;
use super::error::SessionError;
use super::held::Held;
use super::{FILES_CHECK, Kind, State};
use crate::disk;
use crate::settings::ConfigSettings;
use crate::snapshot::Origin;
use crate::status::{Connection, SharedStatus};

/// Largest response; istiod sends its first as one message, and its own client uses the same limit.
const RESPONSE_MAX: usize = 200 * 1024 * 1024;
/// Requests that the server has not read yet: one for each type and one for each response under way.
/// A server that lets more pile up has stopped reading.
const REQUESTS_MAX: usize = 64;
/// How long types that the server may not know are waited for before what is there counts as complete.
const OPTIONAL_GRACE: Duration = Duration::from_secs(2);

/// One stream on behalf of the client.
pub(super) struct Session<'a, S: State> {
    pub(super) settings: &'a ConfigSettings,
    pub(super) files: &'a mut Files,
    pub(super) held: &'a mut Held<S>,
    pub(super) status: &'a SharedStatus,
    pub(super) images: &'a watch::Sender<Option<Arc<disk::Job<S::Image>>>>,
    pub(super) questions: &'a mut Questions,
    /// Whether to ask for types that the server may not know.
    pub(super) optional: bool,
}

/// Why a stream that was open ended.
pub(super) enum Ended {
    /// The roots on disk are others now.
    RootChanged,
    /// The server or the way to it.
    Lost {
        /// Something had been received.
        heard: bool,
        /// What happened.
        error: SessionError,
    },
}

/// Which types have been answered on this stream.
struct Progress {
    asked: Vec<&'static Kind>,
    answered: Vec<&'static str>,
    grace_over: bool,
}

impl Progress {
    fn required_done(&self) -> bool {
        self.done(|kind| kind.required)
    }

    fn complete(&self) -> bool {
        self.done(|_| true) || (self.grace_over && self.required_done())
    }

    fn done(&self, of: impl Fn(&Kind) -> bool) -> bool {
        let mut kinds = self.asked.iter().filter(|kind| of(kind));
        kinds.all(|kind| self.answered.contains(&kind.url))
    }

    fn optional_pending(&self) -> bool {
        !self.done(|kind| !kind.required)
    }
}

impl<S: State> Session<'_, S> {
    /// Runs until the stream ends. Cancelling it drops the stream; what was taken stays.
    pub(super) async fn run(
        &mut self,
        channel: Channel,
        token: MetadataValue<Ascii>,
    ) -> Result<Ended, SessionError> {
        let (requests, queue) = mpsc::channel(REQUESTS_MAX);
        let mut progress = self.subscribe(&requests)?;
        let mut request = Request::new(ReceiverStream::new(queue));
        request.metadata_mut().insert("authorization", token);
        let cluster = self.settings.cluster.parse();
        if let Ok(cluster) = cluster {
            request.metadata_mut().insert("clusterid", cluster);
        }
        let mut responses = AggregatedDiscoveryServiceClient::new(channel)
            .max_decoding_message_size(RESPONSE_MAX)
            .max_encoding_message_size(RESPONSE_MAX)
            .delta_aggregated_resources(request)
            .await
            .map_err(|status| refused(status, &progress))?
            .into_inner();
        self.status.update(|status| {
            status.streams += 1;
            status.connection = Connection::Syncing;
        });

        let grace = tokio::time::sleep(OPTIONAL_GRACE);
        tokio::pin!(grace);
        let mut look = tokio::time::interval(FILES_CHECK);
        let mut heard = false;
        loop {
            tokio::select! {
                response = responses.message() => {
                    let response = match response {
                        Ok(Some(response)) => response,
                        Ok(None) => return Ok(Ended::Lost { heard, error: SessionError::Closed }),
                        Err(status) => {
                            return match refused(status, &progress) {
                                error @ SessionError::OptionalRefused(_) => Err(error),
                                error => Ok(Ended::Lost { heard, error }),
                            };
                        }
                    };
                    heard = true;
                    self.take(response, &mut progress, &requests).await?;
                }
                // Before its first answer, a subscription to names would take the place of the one to everything.
                names = self.questions.next(), if may_ask::<S>(&progress) => ask::<S>(&requests, names),
                () = &mut grace, if !progress.grace_over => {
                    let waiting = !progress.complete();
                    progress.grace_over = true;
                    if waiting {
                        self.show(&progress);
                    }
                }
                _ = look.tick() => {
                    if self.files.root_differs() {
                        return Ok(Ended::RootChanged);
                    }
                }
            }
        }
    }

    fn subscribe(
        &self,
        requests: &mpsc::Sender<DeltaDiscoveryRequest>,
    ) -> Result<Progress, SessionError> {
        let kinds = self.held.state().kinds();
        let asked: Vec<_> = kinds
            .iter()
            .filter(|kind| kind.required || self.optional)
            .collect();
        for kind in &asked {
            let versions = self.held.versions(kind.url);
            let request = DeltaDiscoveryRequest {
                node: Some(self.node()),
                type_url: kind.url.to_owned(),
                initial_resource_versions: versions
                    .iter()
                    .map(|(name, version)| (name.to_string(), version.to_string()))
                    .collect(),
                ..DeltaDiscoveryRequest::default()
            };
            send(requests, request)?;
        }
        Ok(Progress {
            asked,
            answered: Vec::new(),
            grace_over: false,
        })
    }

    async fn take(
        &mut self,
        response: DeltaDiscoveryResponse,
        progress: &mut Progress,
        requests: &mpsc::Sender<DeltaDiscoveryRequest>,
    ) -> Result<(), SessionError> {
        let kind = progress
            .asked
            .iter()
            .find(|kind| kind.url == response.type_url)
            .copied();
        let bytes = response.encoded_len() as u64;
        let more = response.nonce.ends_with(NONCE_MORE);
        let asked = S::ASKED == Some(response.type_url.as_str());
        let first = asked && !may_ask::<S>(progress);
        if asked {
            self.questions.heard(&response);
        }
        let nack = match kind {
            Some(kind) => {
                let url = kind.url;
                let nack = self.held.apply(&response).await;
                if !more && !progress.answered.contains(&url) {
                    progress.answered.push(url);
                }
                nack
            }
            None => Some(format!("type {:?} was not asked for", response.type_url)),
        };
        debug!(
            r#type = response.type_url,
            resources = response.resources.len(),
            removed = response.removed_resources.len(),
            nack,
            "configuration response"
        );
        self.status.update(|status| {
            status.responses += 1;
            // By types asked for alone, so that a server cannot make up more of them.
            if let Some(kind) = kind {
                let r#type = status.types.entry(kind.url).or_default();
                r#type.responses += 1;
                r#type.bytes += bytes;
            }
            status.resources += response.resources.len() as u64;
            status.removals += response.removed_resources.len() as u64;
            status.nacks += u64::from(nack.is_some());
        });
        send(
            requests,
            DeltaDiscoveryRequest {
                type_url: response.type_url,
                response_nonce: response.nonce,
                error_detail: nack.map(|message| Status {
                    code: Code::InvalidArgument.into(),
                    message,
                    details: Vec::new(),
                }),
                ..DeltaDiscoveryRequest::default()
            },
        )?;
        self.show(progress);
        if first && !more {
            self.questions.all_shown();
        } else if asked && !more {
            self.questions.shown();
        }
        Ok(())
    }

    /// Publishes what is held, as live once everything asked for has been answered.
    fn show(&mut self, progress: &Progress) {
        let before = self.held.origin();
        let origin = if progress.complete() {
            Origin::Live
        } else {
            before
        };
        self.held.publish(origin);
        if origin == Origin::Empty {
            return;
        }
        if before != Origin::Live && origin == Origin::Live {
            let missing = progress.optional_pending() || !self.optional;
            info!(
                settings_defaulted = missing,
                "the configuration is complete"
            );
        }
        if progress.complete() {
            self.status.update(|status| {
                status.connection = Connection::Synced;
                status.last_error = None;
            });
            self.images.send_replace(Some(self.held.job()));
        }
    }

    fn node(&self) -> Node {
        let settings = self.settings;
        let text = |text: &str| Value {
            kind: Some(value::Kind::StringValue(text.to_owned())),
        };
        let fields = [
            ("NAME", settings.instance.as_str()),
            ("NAMESPACE", &settings.namespace),
            ("INSTANCE_IPS", &settings.address.to_string()),
            ("NODE_NAME", settings.node.as_str()),
            ("CLUSTER_ID", &settings.cluster),
        ];
        Node {
            id: settings.node_id(),
            cluster: settings.cluster.clone(),
            metadata: Some(Struct {
                fields: fields
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), text(value)))
                    .collect(),
            }),
        }
    }
}

/// A server that does not know a type says so by ending the stream; anything else is about us or about it.
fn refused(status: tonic::Status, progress: &Progress) -> SessionError {
    let about_type = matches!(status.code(), Code::Unimplemented | Code::InvalidArgument);
    let asked_optional = progress.asked.iter().any(|kind| !kind.required);
    if about_type && asked_optional && progress.optional_pending() {
        SessionError::OptionalRefused(Box::new(status))
    } else {
        SessionError::Refused(Box::new(status))
    }
}

/// Whether the type that readers ask about has been answered as a whole.
fn may_ask<S: State>(progress: &Progress) -> bool {
    S::ASKED.is_some_and(|url| progress.answered.contains(&url))
}

/// Tells the controller what readers want to know. Left out when many requests wait already: the readers wait for its push.
fn ask<S: State>(requests: &mpsc::Sender<DeltaDiscoveryRequest>, names: Names) {
    let request = DeltaDiscoveryRequest {
        type_url: S::ASKED.unwrap_or_default().to_owned(),
        resource_names_subscribe: names.subscribe,
        resource_names_unsubscribe: names.unsubscribe,
        ..DeltaDiscoveryRequest::default()
    };
    if requests.try_send(request).is_err() {
        debug!("too many requests wait for the controller to ask it about an address");
    }
}

fn send(
    requests: &mpsc::Sender<DeltaDiscoveryRequest>,
    request: DeltaDiscoveryRequest,
) -> Result<(), SessionError> {
    requests.try_send(request).map_err(|_| SessionError::Stuck)
}
