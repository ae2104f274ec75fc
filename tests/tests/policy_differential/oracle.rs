//! The Python evaluator as a child process that answers a line with a line.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::question::{Answer, Question};

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/oracle/authorize.py");

/// A running evaluator; it ends with this value.
pub(crate) struct Oracle {
    child: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Oracle {
    /// Starts it, with one sentence of the specification broken if a mutant is named.
    pub(crate) fn start(mutant: Option<&str>) -> Self {
        let mut command = Command::new("python3");
        command.arg(PROGRAM);
        if let Some(mutant) = mutant {
            command.args(["--mutant", mutant]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is needed: the second evaluator is written in it");
        Self {
            questions: child.stdin.take(),
            answers: BufReader::new(child.stdout.take().expect("stdout is a pipe")),
            child,
        }
    }

    /// Asks, and gives the answers in the same order.
    pub(crate) fn ask(&mut self, questions: &[Question]) -> Vec<Answer> {
        let mut lines = Vec::new();
        for question in questions {
            serde_json::to_writer(&mut lines, &question.to_json()).unwrap();
            lines.push(b'\n');
        }
        let pipe = self.questions.as_mut().expect("open until the end");
        // Written beside the reading: both pipes are smaller than a batch.
        std::thread::scope(|scope| {
            let writer = scope.spawn(move || {
                pipe.write_all(&lines)?;
                pipe.flush()
            });
            let answers = questions.iter().map(|_| read(&mut self.answers)).collect();
            writer.join().unwrap().expect("the evaluator reads");
            answers
        })
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        // The end of its input ends it.
        drop(self.questions.take());
        let _ = self.child.wait();
    }
}

fn read(answers: &mut BufReader<ChildStdout>) -> Answer {
    let mut line = String::new();
    let length = answers.read_line(&mut line).unwrap();
    assert!(length > 0, "the evaluator ended: see its message above");
    let answer: Value = serde_json::from_str(&line).unwrap();
    let word = |name: &str| answer[name].as_str().unwrap().to_owned();
    Answer {
        verdict: word("verdict"),
        dry_run: word("dry_run"),
    }
}
