//! What an agent takes: the pods of its node.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use weft_proto::convert::enrollment;
use weft_proto::resource::{self, ENROLLMENT};
use weft_proto::wire::discovery::Resource;
use weft_proto::{Any, ConvertError, Problem};
use weft_types::PodUid;

use super::EnrollmentSet;
use crate::client::{Image, Kind, State};
use crate::snapshot::Origin;

const KINDS: [Kind; 1] = [Kind {
    url: ENROLLMENT,
    required: true,
}];

pub(super) struct EnrollmentState {
    next: EnrollmentSet,
    current: Arc<ArcSwap<EnrollmentSet>>,
    publish: watch::Sender<u64>,
}

impl EnrollmentState {
    pub(super) fn new(current: Arc<ArcSwap<EnrollmentSet>>, publish: watch::Sender<u64>) -> Self {
        Self {
            next: EnrollmentSet::default(),
            current,
            publish,
        }
    }
}

impl State for EnrollmentState {
    type Image = EnrollmentSet;
    const FILE: &str = "enrollments.config";
    const ASKED: Option<&'static str> = None;

    fn kinds(&self) -> &'static [Kind] {
        &KINDS
    }

    fn put(&mut self, url: &str, resource: &Resource) -> Result<(), ConvertError> {
        let error = |field: &str, problem| Err(ConvertError::new(&resource.name, field, problem));
        let Some(any) = &resource.resource else {
            return error("resource", Problem::Missing);
        };
        let message = resource::unpack(url, &resource.name, any)?;
        let pod = enrollment::from_wire(&message)?;
        if pod.uid.as_str() != resource.name {
            return error("name", Problem::Name(pod.uid.to_string()));
        }
        self.next.pods.insert(pod.uid.clone(), Arc::new(pod));
        Ok(())
    }

    fn remove(&mut self, _url: &str, name: &str) {
        self.next.pods.remove(&PodUid::from(name));
    }

    fn publish(&mut self, origin: Origin) {
        self.next.origin = origin;
        self.next.revision += 1;
        self.current.store(Arc::new(self.next.clone()));
        self.publish.send_replace(self.next.revision);
    }

    fn image(&self) -> EnrollmentSet {
        self.next.clone()
    }
}

impl Image for EnrollmentSet {
    fn resources(&self) -> Box<dyn Iterator<Item = (&'static str, String, Any)> + '_> {
        Box::new(self.iter().map(|pod| {
            let message = resource::pack(ENROLLMENT, &enrollment::to_wire(pod));
            (ENROLLMENT, pod.uid.to_string(), message)
        }))
    }
}
