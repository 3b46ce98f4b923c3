//! The text of one commit object, read leniently: histories hold objects that git itself would not write today.

use std::{collections::BTreeSet, fmt};

use encoding_rs::{Encoding, UTF_8};
use gix::{
    ObjectId,
    actor::SignatureRef,
    bstr::{BStr, ByteSlice as _},
    objs::commit::MessageRef,
};

/// Bytes of a message that are imported at most: a descriptor has a limit.
const MAX_MESSAGE_BYTES: usize = 256 << 10;
/// Bytes of a person's name, and of an address, that are imported at most.
const MAX_PERSON_BYTES: usize = 1024;
/// 2100-01-01T00:00:00Z. A date from here on is a mistake, such as milliseconds in place of seconds.
const END_OF_DATES_SECONDS: i64 = 4_102_444_800;

/// One object that is odd, and what is imported of it all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitWarning {
    /// The object: a commit by its hash, a reference by its name.
    pub object: String,
    /// What is wrong with it, and what that means for the import.
    pub what: String,
}

impl fmt::Display for GitWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.what)
    }
}

/// Someone who took part in a commit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GitPerson {
    /// As git has it.
    pub name: String,
    /// As git has it.
    pub email: String,
}

/// The parts of a commit object as they stand there. (The decoder of gix refuses a whole commit for one odd line.)
#[derive(Debug, Default)]
pub(super) struct CommitObject<'a> {
    pub(super) tree: Option<ObjectId>,
    pub(super) parents: Vec<ObjectId>,
    author: Option<&'a [u8]>,
    committer: Option<&'a [u8]>,
    encoding: Option<&'a [u8]>,
    message: &'a [u8],
}

/// What a commit says, as text.
#[derive(Debug, Default)]
pub(super) struct CommitText {
    pub(super) message: String,
    /// The author's date.
    pub(super) time: Option<jiff::Timestamp>,
    /// The author, then the committer and the co-authors that the trailers name, each once.
    pub(super) people: Vec<GitPerson>,
    /// What was wrong, each a clause.
    pub(super) problems: Vec<String>,
}

impl<'a> CommitObject<'a> {
    /// The object in `data`. The first line of a name counts, and a line that continues another one is none.
    pub(super) fn parse(data: &'a [u8]) -> Self {
        let (headers, message) = data.split_once_str("\n\n").unwrap_or((data, b""));
        let mut object = Self { message, ..Self::default() };
        for line in headers.lines() {
            let Some((field, value)) = line.split_once_str(" ") else { continue };
            match field {
                b"tree" if object.tree.is_none() => object.tree = ObjectId::from_hex(value).ok(),
                b"parent" if object.author.is_none() => object.parents.extend(ObjectId::from_hex(value)),
                b"author" if object.author.is_none() => object.author = Some(value),
                b"committer" if object.committer.is_none() => object.committer = Some(value),
                b"encoding" if object.encoding.is_none() => object.encoding = Some(value),
                _ => {}
            }
        }
        object
    }

    /// Seconds of the committer's date, 0 where there is none: they order commits that no parent orders.
    pub(super) fn commit_seconds(&self) -> i64 {
        signature(self.committer).map_or(0, |committer| committer.seconds())
    }

    /// Everything as text, in the encoding that the commit names.
    pub(super) fn text(&self) -> CommitText {
        let mut problems = Vec::new();
        let mut decoder = TextDecoder::of(self.encoding, &mut problems);
        let message = decoder.decode(self.message).trim().to_owned();
        let mut text = CommitText { message, problems, ..CommitText::default() };
        let author = signature(self.author);
        match author.map(|author| client_time(author.time)) {
            None => text.problems.push("its author is malformed, and author and date are left out".to_owned()),
            Some(Ok(time)) => text.time = Some(time),
            Some(Err(problem)) => text.problems.push(problem),
        }
        let committer = signature(self.committer);
        if committer.is_none() {
            text.problems.push("its committer is malformed and is left out".to_owned());
        }
        for person in [author, committer].into_iter().flatten() {
            text.people.push(GitPerson { name: decoder.decode(person.name), email: decoder.decode(person.email) });
        }
        if decoder.malformed {
            let encoding = decoder.encoding.name();
            text.problems.push(format!("its text is not {encoding}, and what is not is replaced by U+FFFD"));
        }
        text.people.extend(co_authors(&text.message));
        text.shorten();
        text
    }
}

impl CommitText {
    /// Cuts what is too long, and leaves each person once.
    fn shorten(&mut self) {
        let bytes = self.message.len();
        if truncate(&mut self.message, MAX_MESSAGE_BYTES) {
            self.problems.push(format!("its message of {bytes} bytes is cut to {MAX_MESSAGE_BYTES}"));
        }
        let mut longest = 0;
        for person in &mut self.people {
            for part in [&mut person.name, &mut person.email] {
                *part = part.trim().to_owned();
                longest = longest.max(part.len());
                truncate(part, MAX_PERSON_BYTES);
            }
        }
        if longest > MAX_PERSON_BYTES {
            self.problems.push(format!("a name or address of {longest} bytes is cut to {MAX_PERSON_BYTES}"));
        }
        let mut seen = BTreeSet::new();
        self.people.retain(|person| seen.insert(person.clone()));
    }
}

/// Who signed, and when; `None` if the line is malformed or missing.
fn signature(line: Option<&[u8]>) -> Option<SignatureRef<'_>> {
    SignatureRef::from_bytes(line?).ok()
}

/// Decodes the text of one commit.
struct TextDecoder {
    encoding: &'static Encoding,
    /// Whether something was not in the encoding.
    malformed: bool,
}

impl TextDecoder {
    /// A decoder for what the commit's `encoding` header names, UTF-8 where there is none.
    fn of(header: Option<&[u8]>, problems: &mut Vec<String>) -> Self {
        let named = header.map(|label| (label, Encoding::for_label_no_replacement(label)));
        if let Some((label, None)) = named {
            let label: String = label.to_str_lossy().chars().take(40).collect();
            problems.push(format!("its encoding {label:?} is unknown, and its text is read as UTF-8"));
        }
        Self { encoding: named.and_then(|(_, encoding)| encoding).unwrap_or(UTF_8), malformed: false }
    }

    fn decode(&mut self, bytes: &[u8]) -> String {
        let (text, malformed) = self.encoding.decode_without_bom_handling(bytes);
        self.malformed |= malformed;
        text.into_owned()
    }
}

/// The author's date, or what is wrong with it.
fn client_time(time: &str) -> Result<jiff::Timestamp, String> {
    // The zone is not needed, and where it is malformed the seconds still count.
    let Some(seconds) = time.split_ascii_whitespace().next() else {
        return Err("its date is missing".to_owned());
    };
    let possible = seconds.parse().ok().filter(|seconds| (1..END_OF_DATES_SECONDS).contains(seconds));
    possible
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .ok_or_else(|| format!("its date of {seconds} s is not between 1970 and 2100 and is left out"))
}

fn co_authors(message: &str) -> Vec<GitPerson> {
    let Some(body) = MessageRef::from_bytes(message.as_bytes()).body() else { return Vec::new() };
    let person = |value: &BStr| {
        let value = value.to_str_lossy();
        let (name, rest) = value.split_once('<')?;
        let email = rest.trim_end().trim_end_matches('>');
        Some(GitPerson { name: name.trim().to_owned(), email: email.trim().to_owned() })
    };
    body.trailers().co_authored_by().filter_map(|trailer| person(trailer.value.as_ref())).collect()
}

/// Cuts `text` to at most `max` bytes, and says whether it was longer.
fn truncate(text: &mut String, max: usize) -> bool {
    let longer = text.len() > max;
    text.truncate(text.floor_char_boundary(max));
    longer
}
