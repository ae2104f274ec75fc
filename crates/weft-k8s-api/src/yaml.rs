//! Text to trees: the one place that knows the YAML library.

use crate::error::ParseError;
use crate::node::{Node, Value};

/// Events and values of one text. A mesh of 100 000 pods in one file has 5 million; aliases, which multiply, keep the library's own limits.
const EVENTS_MAX: usize = 64_000_000;
/// Documents of one text: ten times such a mesh.
const DOCUMENTS_MAX: usize = 1_000_000;

/// The documents of a text that are not empty.
pub(crate) fn read(text: &str) -> Result<Vec<Node>, ParseError> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_events: EVENTS_MAX,
            max_nodes: EVENTS_MAX,
            max_documents: DOCUMENTS_MAX,
        },
    };
    let nodes =
        serde_saphyr::from_multiple_with_options::<Node>(text, options).map_err(|error| {
            let error = error.without_snippet();
            ParseError {
                line: error.location().map_or(0, |location| location.line()),
                object: None,
                field: String::new(),
                message: format!("not YAML: {error}").replace('\n', " "),
            }
        })?;
    let filled = |node: &Node| !matches!(node.value, Value::Null);
    Ok(nodes.into_iter().filter(filled).collect())
}
