//! The names that may stand before a colon, and what is meant by some that are none.

/// What others call that which a log has: GitHub, Gmail, Kibana and Google. By name, with what is written here.
const FOREIGN_NAMES: [(&str, &str); 38] = [
    ("@timestamp", TIME),
    ("_exists_", "repo:*"),
    ("after", TIME),
    ("author", PERSON),
    ("before", TIME),
    ("body", MESSAGE),
    ("branch", LABEL),
    ("commit", BUNDLE),
    ("committer", PERSON),
    ("created", TIME),
    ("date", TIME),
    ("ext", FILE),
    ("extension", FILE),
    ("filename", FILE),
    ("from", PERSON),
    ("hash", BUNDLE),
    ("inbody", MESSAGE),
    ("intitle", MESSAGE),
    ("is", OUTCOME),
    ("larger", SIZE),
    ("merged", TIME),
    ("newer_than", TIME),
    ("older_than", TIME),
    ("org", REPO),
    ("project", REPO),
    ("pushed", TIME),
    ("sha", BUNDLE),
    ("since", TIME),
    ("smaller", SIZE),
    ("state", OUTCOME),
    ("status", OUTCOME),
    ("subject", MESSAGE),
    ("tag", LABEL),
    ("timestamp", TIME),
    ("title", MESSAGE),
    ("type", "kind:bundle"),
    ("until", TIME),
    ("updated", TIME),
];
const BUNDLE: &str = "bundle:1INzQ5*";
const FILE: &str = "file:data/*, or files:csv for a word of the path";
const LABEL: &str = "label:v1";
const MESSAGE: &str = "message:word";
const OUTCOME: &str = "outcome:committed";
const PERSON: &str = "contributor:\"Ada Lovelace\", or contributors:ada for a part of the name";
const REPO: &str = "repo:models";
const SIZE: &str = "size:>1000000";
const TIME: &str = "time:>2026-11-20 or time:>now-7d";

/// The names that may stand before a colon.
#[derive(Clone, Debug)]
pub(crate) struct FieldNames {
    names: Vec<String>,
    /// Fields whose names go on with the path of an attribute.
    with_paths: Vec<String>,
}

impl FieldNames {
    pub(crate) fn new(names: Vec<String>, with_paths: &[&str]) -> Self {
        Self { names, with_paths: with_paths.iter().map(|name| (*name).to_owned()).collect() }
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name) || self.is_path(name)
    }

    /// Whether a name is that of a field with paths, or of an attribute below it.
    pub(crate) fn is_path(&self, name: &str) -> bool {
        let is_below = |start: &String| {
            name.strip_prefix(start.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.with_paths.iter().any(is_below)
    }

    /// All of them, with commas.
    pub(crate) fn listed(&self) -> String {
        let paths = self.with_paths.iter().map(|name| format!("{name}.path"));
        self.names.iter().cloned().chain(paths).collect::<Vec<_>>().join(", ")
    }

    /// Why a name that is no field is not text either, before a value that begins with `first`: what was probably meant instead.
    pub(crate) fn correction(&self, name: &str, first: char) -> Option<String> {
        if let Some(meant) = self.resembling(name) {
            return Some(format!("\"{meant}\" is one"));
        }
        let (_, written) = FOREIGN_NAMES.iter().find(|(foreign, _)| name.eq_ignore_ascii_case(foreign))?;
        // `status:404` is of HTTP.
        let is_code = *written == OUTCOME && first.is_ascii_digit();
        (!is_code).then(|| format!("write {written}"))
    }

    /// The field that was probably meant: one with another case, or with a letter too many, too few or out of order. A changed
    /// letter does not count: `test:` is text, not `text:`.
    fn resembling(&self, name: &str) -> Option<String> {
        if name.starts_with("attributes.") {
            return Some(format!("payload.{name}"));
        }
        if let Some((first, path)) = name.split_once('.') {
            let known = self.with_paths.iter().find(|known| is_similar(known, first))?;
            return Some(format!("{known}.{path}"));
        }
        self.names.iter().chain(&self.with_paths).find(|known| is_similar(known, name)).cloned()
    }
}

fn is_similar(known: &str, name: &str) -> bool {
    let (known, name) = (known.to_lowercase(), name.to_lowercase());
    known == name
        || (known.len() > 3 && (lacks_one(&known, &name) || lacks_one(&name, &known) || swapped(&known, &name)))
}

/// Whether `short` is `long` without one of its bytes.
fn lacks_one(long: &str, short: &str) -> bool {
    let (long, short) = (long.as_bytes(), short.as_bytes());
    long.len() == short.len() + 1
        && (0..long.len()).any(|at| long[..at] == short[..at] && long[at + 1..] == short[at..])
}

/// Whether two neighbours are out of order.
fn swapped(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    one.len() == other.len()
        && (1..one.len()).any(|at| {
            one[..at - 1] == other[..at - 1]
                && (one[at - 1], one[at]) == (other[at], other[at - 1])
                && one[at + 1..] == other[at + 1..]
        })
}
