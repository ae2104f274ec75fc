//! A mesh of any size as YAML: namespaces, nodes, pods, services and policies, about a thousand objects in each file.

use std::ops::Range;
use std::path::Path;

/// Objects of one file.
const FILE_OBJECTS: usize = 1000;
/// Pods of one node.
const NODE_PODS: usize = 100;
/// Namespaces; pods and services are spread over them.
const NAMESPACES: usize = 50;

/// How large.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) pods: usize,
    pub(crate) services: usize,
    pub(crate) policies: usize,
}

impl Size {
    /// Everything but pods.
    fn surroundings(self) -> Vec<String> {
        let mut objects = Vec::new();
        for index in 0..NAMESPACES {
            objects.push(format!(
                "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: ns{index}\n  labels:\n    weft.dev/dataplane-mode: ambient\n"
            ));
        }
        for index in 0..self.pods.div_ceil(NODE_PODS) {
            objects.push(format!(
                "apiVersion: v1\nkind: Node\nmetadata:\n  name: node{index}\n  labels:\n    topology.kubernetes.io/region: r1\n    topology.kubernetes.io/zone: z{}\n",
                index % 3
            ));
        }
        for index in 0..self.services {
            objects.push(service(index));
        }
        for index in 0..self.policies {
            objects.push(policy(index, "DENY"));
        }
        objects
    }

    /// The text of a file of pods; one of them may have moved to another address.
    pub(crate) fn pod_file(self, file: usize, moved: Option<usize>) -> String {
        let pods = self.pods_of(file);
        let pods = pods.map(|index| self.pod(index, moved == Some(index)));
        pods.collect::<Vec<_>>().join("---\n")
    }

    /// The pods of a file, by number.
    pub(crate) fn pods_of(self, file: usize) -> Range<usize> {
        let first = file * FILE_OBJECTS;
        first..(first + FILE_OBJECTS).min(self.pods)
    }

    fn pod(self, index: usize, moved: bool) -> String {
        let second = if moved { 128 } else { 0 } + (index >> 16);
        let (third, fourth) = ((index >> 8) & 255, index & 255);
        let (service, namespace) = (index % self.services, index % self.services % NAMESPACES);
        let node = index / NODE_PODS;
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: app{service}-7d9c5b8f6-p{index}\n  namespace: ns{namespace}\n  uid: 00000000-0000-4000-8000-{index:012}\n  labels:\n    app: app{service}\n    version: v1\n    pod-template-hash: 7d9c5b8f6\n  ownerReferences:\n  - apiVersion: apps/v1\n    kind: ReplicaSet\n    name: app{service}-7d9c5b8f6\n    uid: 00000000-0000-4000-9000-{service:012}\n    controller: true\nspec:\n  nodeName: node{node}\n  serviceAccountName: sa{service}\n  containers:\n  - name: app\n    image: example.org/app:1\n    ports:\n    - containerPort: 8080\n      name: http\nstatus:\n  phase: Running\n  podIP: 10.{second}.{third}.{fourth}\n  podIPs:\n  - ip: 10.{second}.{third}.{fourth}\n  conditions:\n  - type: Ready\n    status: 'True'\n"
        )
    }

    pub(crate) fn pod_uid(self, index: usize) -> String {
        let (service, namespace) = (index % self.services, index % self.services % NAMESPACES);
        format!("Kubernetes//Pod/ns{namespace}/app{service}-7d9c5b8f6-p{index}")
    }

    pub(crate) fn pod_files(self) -> usize {
        self.pods.div_ceil(FILE_OBJECTS)
    }

    /// Resources that a wildcard subscriber gets.
    pub(crate) fn addresses(self) -> usize {
        self.pods + self.services
    }

    /// Writes the whole mesh.
    pub(crate) fn write(self, folder: &Path) {
        for (file, objects) in self.surroundings().chunks(FILE_OBJECTS).enumerate() {
            let path = folder.join(format!("base-{file}.yaml"));
            std::fs::write(path, objects.join("---\n")).unwrap();
        }
        for file in 0..self.pod_files() {
            std::fs::write(folder.join(pod_file(file)), self.pod_file(file, None)).unwrap();
        }
    }
}

/// The name of a file of pods.
pub(crate) fn pod_file(file: usize) -> String {
    format!("pods-{file}.yaml")
}

/// A service over the pods of its number.
pub(crate) fn service(index: usize) -> String {
    let namespace = index % NAMESPACES;
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: app{index}\n  namespace: ns{namespace}\nspec:\n  selector:\n    app: app{index}\n  ports:\n  - name: http\n    port: 80\n    targetPort: http\n"
    )
}

/// A policy about the pods of one service.
pub(crate) fn policy(index: usize, action: &str) -> String {
    let namespace = index % NAMESPACES;
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: policy{index}\n  namespace: ns{namespace}\nspec:\n  selector:\n    matchLabels:\n      app: app{index}\n  action: {action}\n  rules:\n  - from:\n    - source:\n        namespaces: [evil]\n"
    )
}
