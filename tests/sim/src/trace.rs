//! What happened at the store, as text and as one hash.

use std::{collections::VecDeque, fmt::Write as _};

use sha2::{Digest as _, Sha256};

/// Lines that a failure prints.
const TAIL: usize = 120;

/// The trace of one simulation. Two runs of one seed give the same hash.
#[derive(Debug, Default)]
pub struct SimTrace {
    hasher: Sha256,
    tail: VecDeque<String>,
    lines: u64,
    echo: bool,
}

impl SimTrace {
    /// An empty trace. With `echo`, each line is printed when it is added.
    pub fn new(echo: bool) -> Self {
        Self { echo, ..Self::default() }
    }

    /// Adds a line of virtual time `at` (milliseconds since the start).
    pub fn line(&mut self, at: u64, text: &str) {
        let mut line = String::new();
        let _ = write!(line, "{:>7}.{:03} {text}", at / 1000, at % 1000);
        self.hasher.update(line.as_bytes());
        self.hasher.update(b"\n");
        self.lines += 1;
        if self.echo {
            println!("{line}");
        }
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }

    /// Hash of all lines, 64 hexadecimal digits.
    pub fn hash(&self) -> String {
        hex::encode(self.hasher.clone().finalize())
    }

    /// Number of lines.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// The last lines.
    pub fn tail(&self) -> String {
        self.tail.iter().fold(String::new(), |text, line| text + line + "\n")
    }
}
