//! The user's files in the place of their copies, which nobody edits and which go with the lab.
//!
//! In: what the controller says of its source folder. Out: the same with the files that the copies were made of. Not here:
//! making the copies (`source`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::lab::instance::Lab;
use crate::lab::source::SETTINGS_FILE;

// === impl Lab ===

impl Lab {
    /// A text of the controller that names the user's files.
    pub(crate) fn with_originals(&self, text: &str) -> String {
        let record = self.record();
        let settings = match &record.file_path {
            Some(file) => format!("`settings` of {}", file.display()),
            None => "`settings`".to_owned(),
        };
        replace(text, &self.place().source(), &record.originals, &settings)
    }

    /// Problems of the source, likewise.
    pub(crate) fn name_originals(&self, problems: &mut Value) {
        let source = self.place().source();
        for problem in problems.as_array_mut().into_iter().flatten() {
            let Some(file) = problem["file"].as_str() else {
                continue;
            };
            if Path::new(file) == source.join(SETTINGS_FILE) {
                if let Some(path) = &self.record().file_path {
                    problem["file"] = json!(path);
                    problem["line"] = json!(0);
                }
            } else {
                problem["file"] = json!(self.with_originals(file));
            }
        }
    }
}

fn replace(
    text: &str,
    source: &Path,
    originals: &BTreeMap<String, PathBuf>,
    settings: &str,
) -> String {
    let mut text = text.to_owned();
    for (copy, original) in originals {
        let copy = source.join(copy).display().to_string();
        text = text.replace(&copy, &original.display().to_string());
    }
    // The settings are written anew: a line of the copy is none of the user's.
    let copy = source.join(SETTINGS_FILE).display().to_string();
    let mut parts = text.split(&copy);
    let mut replaced = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        replaced.push_str(settings);
        replaced.push_str(without_line(part));
    }
    replaced
}

/// What follows a file without its line, in the two forms of errors and of the log.
fn without_line(text: &str) -> &str {
    let line = text.strip_prefix(", line ");
    let line = line.or_else(|| text.strip_prefix(" line="));
    line.map_or(text, |line| {
        line.trim_start_matches(|letter: char| letter.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_replaced_by_its_original_and_the_line_stays_where_it_is_the_same() {
        let originals =
            BTreeMap::from([("resource-0-web.yaml".to_owned(), "/home/web.yaml".into())]);
        let said = "in /run/x/source/resource-0-web.yaml, line 4: bad; in /run/x/source/lab-0-settings.yaml, line 12: mode: bad; file=/run/x/source/lab-0-settings.yaml line=12 object";
        assert_eq!(
            replace(
                said,
                "/run/x/source".as_ref(),
                &originals,
                "`settings` of /home/lab.yaml"
            ),
            "in /home/web.yaml, line 4: bad; in `settings` of /home/lab.yaml: mode: bad; file=`settings` of /home/lab.yaml object"
        );
        let other = "in /run/y/source/resource-0-web.yaml, line 4";
        assert_eq!(
            replace(other, "/run/x/source".as_ref(), &originals, "x"),
            other
        );
    }
}
