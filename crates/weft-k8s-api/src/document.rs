//! One file's text: YAML documents to objects.
//!
//! A file with any error gives no object at all, as the last good state of its objects is worth more than half of a new one.
//! Documents of kinds that the mesh does not read are set aside with a reason, and do not spoil the others.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::decode::{FieldError, decode};
use crate::error::ParseError;
use crate::node::{Node, Value};
use crate::object::{Kind, Object, ObjectKey};
use crate::validate::{self, Problem};
use crate::yaml::read;

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// Its objects, in the order of the text.
    pub documents: Vec<Document>,
    /// Documents that are set aside, and why.
    pub refused: Vec<ParseError>,
}

/// One object and where it starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Line, from 1.
    pub line: u64,
    /// The object; name and namespace are filled in and valid.
    pub object: Object,
}

/// What is wrong with a file, and what is not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Broken {
    /// Everything that is wrong.
    pub errors: Vec<ParseError>,
    /// Objects with which nothing is wrong: they are not in use all the same, and their authors must be told.
    pub neighbours: Vec<Document>,
}

/// Parses a file, or says everything that is wrong with it.
pub fn parse(text: &str) -> Result<Parsed, Vec<ParseError>> {
    parse_all(text).map_err(|broken| broken.errors)
}

/// The same, and what stands beside the errors.
pub fn parse_all(text: &str) -> Result<Parsed, Broken> {
    let mut parsed = Parsed::default();
    let mut errors = Vec::new();
    let not_yaml = |error| Broken {
        errors: vec![error],
        neighbours: Vec::new(),
    };
    for node in read(text).map_err(not_yaml)? {
        for node in unfold(node) {
            match object(&node) {
                Ok(object) => parsed.documents.push(Document {
                    line: node.line,
                    object,
                }),
                Err(Failure::Refused(error)) => parsed.refused.push(error),
                Err(Failure::Broken(problems)) => errors.extend(problems),
            }
        }
    }
    if errors.is_empty() {
        return Ok(parsed);
    }
    Err(Broken {
        errors,
        neighbours: parsed.documents,
    })
}

enum Failure {
    /// Not read by the mesh.
    Refused(ParseError),
    /// Read, but wrong.
    Broken(Vec<ParseError>),
}

/// `kind: List`, which `kubectl get -o yaml` writes, is its items.
fn unfold(node: Node) -> Vec<Node> {
    if node.text("kind") != Some("List") || node.text("apiVersion") != Some("v1") {
        return vec![node];
    }
    match node.field("items").map(|items| &items.value) {
        Some(Value::List(items)) => items.clone(),
        _ => Vec::new(),
    }
}

fn object(node: &Node) -> Result<Object, Failure> {
    let key = |kind: Kind| {
        let metadata = node.field("metadata");
        let text = |field| metadata.and_then(|metadata| metadata.text(field));
        let namespace = text("namespace").unwrap_or(default_namespace(kind));
        ObjectKey::new(kind, namespace, text("name").unwrap_or_default())
    };
    let broken = |line, field: &str, message: &str| {
        Failure::Broken(vec![ParseError {
            line,
            object: None,
            field: field.to_owned(),
            message: message.to_owned(),
        }])
    };
    if !matches!(node.value, Value::Map(_)) {
        return Err(broken(node.line, "", "a document must be an object"));
    }
    let Some(api_version) = node.text("apiVersion") else {
        return Err(broken(node.line, "apiVersion", "missing"));
    };
    let Some(kind_text) = node.text("kind") else {
        return Err(broken(node.line, "kind", "missing"));
    };
    let kind = match recognise(api_version, kind_text) {
        Recognised::Kind(kind) => kind,
        Recognised::Refused(kind, reason) => {
            return Err(Failure::Refused(ParseError {
                line: node.line,
                object: Some(key(kind)),
                field: "kind".to_owned(),
                message: format!("{api_version} {kind_text}: {reason}"),
            }));
        }
    };
    let key = key(kind);
    let located = |problems: Vec<FieldError>| {
        let locate = |problem: FieldError| ParseError {
            line: problem.line,
            object: Some(key.clone()),
            field: problem.field,
            message: problem.message,
        };
        Failure::Broken(problems.into_iter().map(locate).collect())
    };
    let (mut object, mut problems) = decode_kind(kind, node).map_err(located)?;
    if kind.is_namespaced() {
        let namespace = &mut object.metadata_mut().namespace;
        namespace.get_or_insert_with(|| default_namespace(kind).to_owned());
    }
    problems.extend(validate::check(&object));
    if problems.is_empty() {
        return Ok(object);
    }
    let with_line = |(field, message): (String, String)| FieldError {
        line: node.line_of(&field),
        field,
        message,
    };
    Err(located(problems.into_iter().map(with_line).collect()))
}

fn default_namespace(kind: Kind) -> &'static str {
    if kind.is_namespaced() { "default" } else { "" }
}

enum Recognised {
    Kind(Kind),
    Refused(Kind, &'static str),
}

fn recognise(api_version: &str, kind: &str) -> Recognised {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let kind = match (group, version, kind) {
        ("", "v1", "Namespace") => Kind::Namespace,
        ("", "v1", "Node") => Kind::Node,
        ("", "v1", "ServiceAccount") => Kind::ServiceAccount,
        ("", "v1", "Pod") => Kind::Pod,
        ("", "v1", "Service") => Kind::Service,
        ("", "v1", "ConfigMap") => Kind::ConfigMap,
        ("discovery.k8s.io", "v1", "EndpointSlice") => Kind::EndpointSlice,
        ("networking.istio.io", "v1" | "v1beta1" | "v1alpha3", "WorkloadEntry") => {
            Kind::WorkloadEntry
        }
        ("security.istio.io", "v1" | "v1beta1", "AuthorizationPolicy") => Kind::AuthorizationPolicy,
        ("security.istio.io", "v1" | "v1beta1", "PeerAuthentication") => Kind::PeerAuthentication,
        ("gateway.networking.k8s.io", _, "Gateway") => {
            let reason = "this version runs no gateways and no waypoints; remove the object";
            return Recognised::Refused(Kind::Gateway, reason);
        }
        _ => return Recognised::Refused(Kind::Other, "the mesh does not read this kind"),
    };
    Recognised::Kind(kind)
}

/// Decodes an object; with it come the problems of what it no longer shows.
fn decode_kind(kind: Kind, node: &Node) -> Result<(Object, Vec<Problem>), Vec<FieldError>> {
    let object = match kind {
        Kind::Namespace => Object::Namespace(shared(node)?),
        Kind::Node => Object::Node(shared(node)?),
        Kind::ServiceAccount => Object::ServiceAccount(shared(node)?),
        Kind::Pod => {
            let full: k8s_openapi::api::core::v1::Pod = decode(node)?;
            let problems = validate::pod(&full);
            return Ok((Object::Pod(Arc::new(full.into())), problems));
        }
        Kind::Service => Object::Service(shared(node)?),
        Kind::EndpointSlice => Object::EndpointSlice(shared(node)?),
        Kind::WorkloadEntry => Object::WorkloadEntry(shared(node)?),
        Kind::AuthorizationPolicy => Object::AuthorizationPolicy(shared(node)?),
        Kind::PeerAuthentication => Object::PeerAuthentication(shared(node)?),
        Kind::ConfigMap => Object::ConfigMap(shared(node)?),
        Kind::Gateway | Kind::Other => unreachable!("refused when it was recognised"),
    };
    Ok((object, Vec::new()))
}

fn shared<T: DeserializeOwned>(node: &Node) -> Result<Arc<T>, Vec<FieldError>> {
    decode(node).map(Arc::new)
}
