//! The folder of YAML from which a lab's controller reads its world.
//!
//! In: the plan, the uids of its pods, settings, the user's resources. Out: files in the source
//! folder, each replaced in one step and only when its content changed. Not here: what the
//! objects mean, which the controller alone knows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};

use crate::lab::place::write_atomically;
use crate::lab::plan::{Plan, PlannedPod, pod_ranges};
use crate::netns::Netns;

/// Label that says whether a pod is in the mesh.
const MODE_LABEL: &str = "weft.dev/dataplane-mode";
/// Annotation with the path of a pod's network namespace.
const NETNS_ANNOTATION: &str = "weft.dev/netns";
/// The file with the settings.
pub(crate) const SETTINGS_FILE: &str = "lab-0-settings.yaml";
/// Namespace and name of the ConfigMap with the mesh settings.
const SETTINGS_NAME: (&str, &str) = ("weft-system", "weft");

/// The user's resources: where each came from, and its text.
#[derive(Clone, Debug, Default, Hash)]
pub struct Resources {
    files: Vec<(PathBuf, String)>,
    /// `kind namespace/name` of everything in them.
    objects: BTreeSet<(String, String, String)>,
}

// === impl Resources ===

impl Resources {
    /// Reads files and folders, relative ones below `base`.
    pub fn read(base: &Path, paths: &[String]) -> Result<Self> {
        let mut this = Self::default();
        for path in paths {
            let path = base.join(path);
            if path.is_dir() {
                for file in yaml_files(&path)? {
                    this.read_file(file)?;
                }
            } else {
                this.read_file(path)?;
            }
        }
        Ok(this)
    }

    /// Adds YAML that stands in no file.
    pub fn add(&mut self, name: &str, text: &str) -> Result<()> {
        self.add_file(PathBuf::from(name), text.to_owned())
    }

    /// `namespace` and `name` of every object of a kind.
    pub fn of_kind(&self, kind: &str) -> Vec<(String, String)> {
        self.objects
            .iter()
            .filter(|(other, _, _)| other == kind)
            .map(|(_, namespace, name)| (namespace.clone(), name.clone()))
            .collect()
    }

    /// Whether exactly these files stand in a source folder.
    pub fn are_in(&self, folder: &Path) -> bool {
        let present = fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("resource-"))
            .count();
        present == self.files.len()
            && self.named().all(|(name, text)| {
                fs::read_to_string(folder.join(name)).is_ok_and(|present| present == *text)
            })
    }

    /// The names of the copies in the source folder, with the files.
    pub(crate) fn originals(&self) -> BTreeMap<String, PathBuf> {
        let paths = self.files.iter().map(|(path, _)| path.clone());
        self.named().map(|(name, _)| name).zip(paths).collect()
    }

    /// The files under the names that they have in the source folder.
    fn named(&self) -> impl Iterator<Item = (String, &String)> {
        self.files.iter().enumerate().map(|(index, (path, text))| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let name = name.trim_end_matches(".yaml").trim_end_matches(".yml");
            (format!("resource-{index}-{name}.yaml"), text)
        })
    }

    fn read_file(&mut self, path: PathBuf) -> Result<()> {
        let text = fs::read_to_string(&path)
            .with_context(|| format!("cannot read resource {}", path.display()))?;
        self.add_file(path, text)
    }

    fn add_file(&mut self, path: PathBuf, text: String) -> Result<()> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text)
            .with_context(|| format!("{} is no YAML", path.display()))?;
        for document in documents.iter().filter(|document| !document.is_null()) {
            let word = |pointer: &str| {
                document
                    .pointer(pointer)
                    .and_then(Value::as_str)
                    .map(ToOwned::to_owned)
            };
            let (Some(kind), Some(name)) = (word("/kind"), word("/metadata/name")) else {
                bail!(
                    "{}: an object has no kind or no metadata.name",
                    path.display()
                );
            };
            if kind == "Gateway" {
                bail!(
                    "{}: Gateway {name}: gateways and waypoints are not part of this version; remove it from the resources",
                    path.display()
                );
            }
            let namespace = word("/metadata/namespace").unwrap_or_else(|| "default".to_owned());
            self.objects.insert((kind, namespace, name));
        }
        self.files.push((path, text));
        Ok(())
    }
}

/// Writes the source folder: the lab's own objects, then the user's files; what is no longer
/// wanted is removed.
pub fn write(
    folder: &Path,
    plan: &Plan,
    uids: &BTreeMap<String, String>,
    settings: &Map<String, Value>,
    resources: &Resources,
) -> Result<()> {
    let mut files = BTreeMap::new();
    files.insert(SETTINGS_FILE.to_owned(), settings_yaml(settings, plan)?);
    files.insert(
        "lab-1-namespaces.yaml".to_owned(),
        namespaces_yaml(plan, resources)?,
    );
    files.insert("lab-2-nodes.yaml".to_owned(), nodes_yaml(plan)?);
    files.insert("lab-3-pods.yaml".to_owned(), pods_yaml(plan, uids)?);
    // An empty file would keep its last good objects: only a file that is gone takes them along.
    files.retain(|_, text| !text.is_empty());
    for (name, text) in resources.named() {
        files.insert(name, text.clone());
    }
    for (name, text) in &files {
        let path = folder.join(name);
        if fs::read_to_string(&path).is_ok_and(|present| present == *text) {
            continue;
        }
        write_atomically(&path, text.as_bytes(), 0o644)?;
    }
    let present =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in present.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !files.contains_key(&name) {
            fs::remove_file(entry.path())
                .with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

/// Every YAML file of a folder, by name, folders below it not included.
fn yaml_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .with_context(|| format!("cannot read folder {}", folder.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml" || extension == "yml")
        })
        .collect();
    files.sort();
    Ok(files)
}

/// The user's settings; the ranges of the pods, which the lab knows, unless the user names them.
fn settings_yaml(settings: &Map<String, Value>, plan: &Plan) -> Result<String> {
    let mut settings = settings.clone();
    settings
        .entry("podCidrs")
        .or_insert_with(|| json!(pod_ranges(&plan.pods)));
    let mesh =
        serde_saphyr::to_string(&Value::Object(settings)).context("settings are plain data")?;
    let (namespace, name) = SETTINGS_NAME;
    documents(&[json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": {"mesh": mesh},
    })])
}

fn namespaces_yaml(plan: &Plan, resources: &Resources) -> Result<String> {
    let given: BTreeSet<String> = resources
        .of_kind("Namespace")
        .into_iter()
        .map(|(_, name)| name)
        .collect();
    let accounts_given: BTreeSet<(String, String)> =
        resources.of_kind("ServiceAccount").into_iter().collect();
    let mut namespaces: BTreeSet<&str> = plan
        .pods
        .iter()
        .map(|pod| pod.entry.namespace.as_str())
        .collect();
    namespaces.insert("default");
    let accounts: BTreeSet<(&str, &str)> = plan
        .pods
        .iter()
        .map(|pod| {
            (
                pod.entry.namespace.as_str(),
                pod.entry.service_account.as_str(),
            )
        })
        .collect();
    let mut objects: Vec<Value> = namespaces
        .into_iter()
        .filter(|name| !given.contains(*name))
        .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
        .collect();
    objects.extend(
        accounts
            .into_iter()
            .filter(|(namespace, name)| {
                !accounts_given.contains(&((*namespace).to_owned(), (*name).to_owned()))
            })
            .map(|(namespace, name)| {
                json!({
                    "apiVersion": "v1",
                    "kind": "ServiceAccount",
                    "metadata": {"name": name, "namespace": namespace},
                })
            }),
    );
    documents(&objects)
}

fn nodes_yaml(plan: &Plan) -> Result<String> {
    let objects: Vec<Value> = plan
        .nodes
        .iter()
        .map(|node| {
            let addresses: Vec<Value> = node
                .addresses
                .iter()
                .map(|address| json!({"type": "InternalIP", "address": address}))
                .collect();
            json!({
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": node.name},
                "status": {"addresses": addresses},
            })
        })
        .collect();
    documents(&objects)
}

fn pods_yaml(plan: &Plan, uids: &BTreeMap<String, String>) -> Result<String> {
    let objects: Vec<Value> = plan.pods.iter().map(|pod| pod_object(pod, uids)).collect();
    documents(&objects)
}

fn pod_object(pod: &PlannedPod, uids: &BTreeMap<String, String>) -> Value {
    let entry = &pod.entry;
    let mut labels = entry.labels.clone();
    let mode = if entry.mesh { "ambient" } else { "none" };
    labels.insert(MODE_LABEL.to_owned(), mode.to_owned());
    let addresses: Vec<Value> = pod
        .addresses
        .iter()
        .map(|address| json!({"ip": address}))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": entry.name,
            "namespace": entry.namespace,
            "uid": uids.get(&entry.key()),
            "labels": labels,
            "annotations": {NETNS_ANNOTATION: Netns::named(pod.netns.clone()).path()},
        },
        "spec": {
            "nodeName": entry.node,
            "serviceAccountName": entry.service_account,
            "containers": [{"name": "app", "image": "none"}],
        },
        "status": {
            "phase": "Running",
            "podIP": pod.addresses.first(),
            "podIPs": addresses,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

fn documents(objects: &[Value]) -> Result<String> {
    let mut text = String::new();
    for object in objects {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(object).context("an object is plain data")?);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::file::PodEntry;

    fn sample() -> (Plan, BTreeMap<String, String>) {
        let mut entry = PodEntry::new("a", "n1");
        entry
            .labels
            .insert(MODE_LABEL.to_owned(), "none".to_owned());
        let pod = PlannedPod {
            entry,
            netns: "x".to_owned(),
            adopted: false,
            addresses: vec!["10.77.1.1".parse().unwrap()],
        };
        let plan = Plan {
            nodes: Vec::new(),
            pods: vec![pod],
        };
        (
            plan,
            BTreeMap::from([("default/a".to_owned(), "u1".to_owned())]),
        )
    }

    #[test]
    fn the_mesh_field_wins_over_the_label() {
        let (plan, uids) = sample();
        let yaml = pods_yaml(&plan, &uids).unwrap();
        let pods: Vec<Value> = serde_saphyr::from_multiple(&yaml).unwrap();
        assert_eq!(pods[0]["metadata"]["labels"][MODE_LABEL], "ambient");
        assert_eq!(pods[0]["metadata"]["uid"], "u1");
    }

    #[test]
    fn a_namespace_that_the_user_gives_is_not_made_twice() {
        let (plan, _) = sample();
        let mut resources = Resources::default();
        resources
            .add(
                "x.yaml",
                "apiVersion: v1\nkind: Namespace\nmetadata: {name: default}\n",
            )
            .unwrap();
        let yaml = namespaces_yaml(&plan, &resources).unwrap();
        assert!(!yaml.contains("Namespace"), "{yaml}");
        assert!(yaml.contains("ServiceAccount"), "{yaml}");
    }

    #[test]
    fn the_last_pod_takes_its_file_along() {
        let folder = tempfile::tempdir().unwrap();
        let (mut plan, uids) = sample();
        let none = Resources::default();
        write(folder.path(), &plan, &uids, &Map::new(), &none).unwrap();
        assert!(folder.path().join("lab-3-pods.yaml").exists());
        plan.pods.clear();
        write(folder.path(), &plan, &uids, &Map::new(), &none).unwrap();
        assert!(!folder.path().join("lab-3-pods.yaml").exists());
    }

    #[test]
    fn a_gateway_is_refused_by_name() {
        let error = Resources::default()
            .add("gw.yaml", "kind: Gateway\nmetadata: {name: front}\n")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("gw.yaml") && error.contains("front"),
            "{error}"
        );
    }

    #[test]
    fn files_that_are_no_longer_wanted_go() {
        let folder = tempfile::tempdir().unwrap();
        let (plan, uids) = sample();
        let mut resources = Resources::default();
        resources
            .add("svc.yaml", "kind: Service\nmetadata: {name: s}\n")
            .unwrap();
        write(folder.path(), &plan, &uids, &Map::new(), &resources).unwrap();
        assert!(folder.path().join("resource-0-svc.yaml").exists());
        write(
            folder.path(),
            &plan,
            &uids,
            &Map::new(),
            &Resources::default(),
        )
        .unwrap();
        assert!(!folder.path().join("resource-0-svc.yaml").exists());
    }
}
