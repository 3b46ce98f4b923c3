//! What a destination holds against what the index says, operation by operation.
//!
//! Both sides come in any order. Each document and each record is an entry of fixed size in one of some temporary files, chosen by its operation;
//! then one file of each side at a time is compared in memory.

use std::{
    collections::BTreeSet,
    fmt,
    fs::File,
    io::{self, BufWriter, Read as _, Seek as _, Write as _},
    path::Path,
};

use serde::Serialize;
use tidemark_wal::Token;
use xxhash_rust::xxh3::xxh3_64;

use super::canonical_json::DocumentDigest;

/// Into how many files each side is divided.
const PARTITIONS: usize = 128;
const OPERATION_BYTES: usize = 24;
const ENTRY_BYTES: usize = OPERATION_BYTES + 8 + 32;
/// What is held of a file until it is written.
const WRITE_BUFFER: usize = 4 << 10;
/// So many findings are told one by one; the others are counted.
pub(crate) const MAX_TOLD: u64 = 1000;

/// An operation, as it stands in the id of its document: `TOKEN-OP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct OperationKey([u8; OPERATION_BYTES]);

impl OperationKey {
    fn new(token: &Token, op: u32) -> Self {
        let mut bytes = [0; OPERATION_BYTES];
        bytes[..Token::BYTES].copy_from_slice(token.as_bytes());
        bytes[Token::BYTES..].copy_from_slice(&op.to_be_bytes());
        Self(bytes)
    }

    /// The operation whose documents have this id, exactly as it is written.
    fn of_document(id: &str) -> Option<Self> {
        let (token, op) = id.rsplit_once('-')?;
        let key = Self::new(&token.parse().ok()?, op.parse().ok()?);
        (key.to_string() == id).then_some(key)
    }
}

impl fmt::Display for OperationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut token, mut op) = ([0; Token::BYTES], [0; 4]);
        token.copy_from_slice(&self.0[..Token::BYTES]);
        op.copy_from_slice(&self.0[Token::BYTES..]);
        write!(f, "{}-{}", Token::from_bytes(token), u32::from_be_bytes(op))
    }
}

/// A document or a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ComparedEntry {
    operation: OperationKey,
    /// The version of the document, or the seq of the record.
    version: u64,
    digest: DocumentDigest,
}

impl ComparedEntry {
    fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..OPERATION_BYTES].copy_from_slice(&self.operation.0);
        bytes[OPERATION_BYTES..OPERATION_BYTES + 8].copy_from_slice(&self.version.to_be_bytes());
        bytes[OPERATION_BYTES + 8..].copy_from_slice(&self.digest.0);
        bytes
    }

    fn from_bytes(bytes: &[u8; ENTRY_BYTES]) -> Self {
        let (mut operation, mut version, mut digest) = ([0; OPERATION_BYTES], [0; 8], [0; 32]);
        operation.copy_from_slice(&bytes[..OPERATION_BYTES]);
        version.copy_from_slice(&bytes[OPERATION_BYTES..OPERATION_BYTES + 8]);
        digest.copy_from_slice(&bytes[OPERATION_BYTES + 8..]);
        let operation = OperationKey(operation);
        Self { operation, version: u64::from_be_bytes(version), digest: DocumentDigest(digest) }
    }
}

/// The entries of one side, in files without a name: they go with the process.
struct EntryFiles(Vec<BufWriter<File>>);

impl EntryFiles {
    fn new(folder: &Path) -> io::Result<Self> {
        let file = || Ok(BufWriter::with_capacity(WRITE_BUFFER, tempfile::tempfile_in(folder)?));
        Ok(Self((0..PARTITIONS).map(|_| file()).collect::<io::Result<_>>()?))
    }

    fn push(&mut self, entry: ComparedEntry) -> io::Result<()> {
        let partition = xxh3_64(&entry.operation.0) % PARTITIONS as u64;
        let file = self.0.get_mut(usize::try_from(partition).unwrap_or_default());
        file.map_or(Ok(()), |file| file.write_all(&entry.to_bytes()))
    }
}

/// The entries of one file, by operation and then by version.
fn entries_of(file: BufWriter<File>) -> io::Result<Vec<ComparedEntry>> {
    let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let (whole, _) = bytes.as_chunks::<ENTRY_BYTES>();
    let mut entries: Vec<_> = whole.iter().map(ComparedEntry::from_bytes).collect();
    entries.sort_unstable();
    Ok(entries)
}

/// Which records the destination has to hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExpectedRecords {
    /// The consumer began after this one: what lies before it may be there.
    pub(crate) start: u64,
    /// Everything up to this one is delivered; what lies behind it may be there.
    pub(crate) acknowledged: u64,
    /// These were put aside.
    pub(crate) dead_letters: BTreeSet<u64>,
}

impl ExpectedRecords {
    fn includes(&self, seq: u64) -> bool {
        seq > self.start && seq <= self.acknowledged && !self.dead_letters.contains(&seq)
    }
}

/// What is wrong with a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum DocumentFault {
    /// The index has the operation, and the destination has no document of it.
    Lost,
    /// It holds a record that was corrected since, and the correction was acknowledged.
    Stale,
    /// It is not what the record of its version says, or there is no record of its version.
    Altered,
    /// The index has no operation of this id.
    Surplus,
}

impl DocumentFault {
    /// As in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Stale => "stale",
            Self::Altered => "altered",
            Self::Surplus => "surplus",
        }
    }

    fn effect(self) -> &'static str {
        match self {
            Self::Lost => "who searches there does not find the operation",
            Self::Stale => "who searches there finds what does not stand any more",
            Self::Altered => "who searches there finds what the index does not say",
            Self::Surplus => "who searches there finds what is not in the index",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Lost | Self::Stale => {
                "start a sink of another name to the same destination: it delivers every record again, and what is newer there stays"
            }
            Self::Altered => {
                "delete the document, wait for two minutes, and start a sink of another name to the same destination: it delivers every record again"
            }
            Self::Surplus => "delete the document if nobody else has put it there",
        }
    }
}

/// A document that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DocumentFinding {
    /// What kind of fault it is.
    pub fault: DocumentFault,
    /// The id of the document.
    pub document: String,
    /// What is wrong.
    pub what: String,
    /// What follows.
    pub effect: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

impl DocumentFinding {
    fn new(fault: DocumentFault, document: impl fmt::Display, what: String) -> Self {
        Self { fault, document: document.to_string(), what, effect: fault.effect(), remedy: fault.remedy() }
    }
}

/// How much was compared, and how much is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ComparisonCounts {
    /// Documents that the destination holds.
    pub documents: u64,
    /// Records of the index that the query finds.
    pub records: u64,
    /// Operations without a document.
    pub lost: u64,
    /// Documents whose correction is lost.
    pub stale: u64,
    /// Documents that were changed.
    pub altered: u64,
    /// Documents that are of no operation.
    pub surplus: u64,
}

impl ComparisonCounts {
    /// How many documents are not as they should be.
    pub fn faults(&self) -> u64 {
        self.lost + self.stale + self.altered + self.surplus
    }

    fn count(&mut self, fault: DocumentFault) {
        let counted = match fault {
            DocumentFault::Lost => &mut self.lost,
            DocumentFault::Stale => &mut self.stale,
            DocumentFault::Altered => &mut self.altered,
            DocumentFault::Surplus => &mut self.surplus,
        };
        *counted += 1;
    }
}

/// Both sides, as they are read.
pub(crate) struct DocumentComparison {
    documents: EntryFiles,
    records: EntryFiles,
    counts: ComparisonCounts,
    /// Ids that are of no operation, the first ones.
    foreign: Vec<String>,
}

impl DocumentComparison {
    /// Nothing yet. What is read is kept in `folder` until it is compared.
    pub(crate) fn new(folder: &Path) -> io::Result<Self> {
        let (documents, records) = (EntryFiles::new(folder)?, EntryFiles::new(folder)?);
        Ok(Self { documents, records, counts: ComparisonCounts::default(), foreign: Vec::new() })
    }

    /// The destination holds this document.
    pub(crate) fn add_document(&mut self, id: &str, version: u64, digest: DocumentDigest) -> io::Result<()> {
        self.counts.documents += 1;
        if let Some(operation) = OperationKey::of_document(id) {
            return self.documents.push(ComparedEntry { operation, version, digest });
        }
        if self.counts.surplus < MAX_TOLD {
            self.foreign.push(id.to_owned());
        }
        self.counts.count(DocumentFault::Surplus);
        Ok(())
    }

    /// The index has this record.
    pub(crate) fn add_record(&mut self, token: &Token, op: u32, seq: u64, digest: DocumentDigest) -> io::Result<()> {
        self.counts.records += 1;
        self.records.push(ComparedEntry { operation: OperationKey::new(token, op), version: seq, digest })
    }

    /// Compares, and tells the first findings one by one.
    pub(crate) fn finish(
        self,
        expected: &ExpectedRecords,
        found: &mut (dyn FnMut(&DocumentFinding) + Send),
    ) -> io::Result<ComparisonCounts> {
        let Self { documents, records, mut counts, foreign } = self;
        for id in &foreign {
            found(&DocumentFinding::new(DocumentFault::Surplus, id, "its id is of no operation".to_owned()));
        }
        for (documents, records) in documents.0.into_iter().zip(records.0) {
            let (documents, records) = (entries_of(documents)?, entries_of(records)?);
            let (mut documents, mut records) = (&documents[..], &records[..]);
            while let Some(operation) = documents.first().into_iter().chain(records.first()).map(|e| e.operation).min()
            {
                let held = split_operation(&mut documents, operation);
                let recorded = split_operation(&mut records, operation);
                for finding in judge(operation, held, recorded, expected) {
                    if counts.faults() < MAX_TOLD {
                        found(&finding);
                    }
                    counts.count(finding.fault);
                }
            }
        }
        Ok(counts)
    }
}

/// Takes the entries of `operation` from the front.
fn split_operation<'a>(entries: &mut &'a [ComparedEntry], operation: OperationKey) -> &'a [ComparedEntry] {
    let count = entries.iter().take_while(|entry| entry.operation == operation).count();
    let (taken, left) = entries.split_at(count);
    *entries = left;
    taken
}

/// What is wrong with the documents of one operation. It has one, whose version is the seq of the record that it holds.
fn judge(
    operation: OperationKey,
    held: &[ComparedEntry],
    recorded: &[ComparedEntry],
    expected: &ExpectedRecords,
) -> Vec<DocumentFinding> {
    let finding = |fault, what| DocumentFinding::new(fault, operation, what);
    let wanted = recorded.iter().map(|record| record.version).filter(|seq| expected.includes(*seq)).max();
    let Some((document, doubles)) = held.split_last() else {
        let lost =
            wanted.map(|seq| finding(DocumentFault::Lost, format!("record {seq} was acknowledged, and is not there")));
        return lost.into_iter().collect();
    };
    let double = |double: &ComparedEntry| {
        finding(DocumentFault::Surplus, format!("it is there a second time, in version {}", double.version))
    };
    let version = document.version;
    let fault = match recorded.iter().find(|record| record.version == version) {
        None if recorded.is_empty() => Some((DocumentFault::Surplus, "the index has no such operation".to_owned())),
        None => Some((DocumentFault::Altered, format!("its version is {version}, and no record of it has that seq"))),
        Some(record) if record.digest != document.digest => {
            Some((DocumentFault::Altered, format!("its content is not that of record {version}")))
        }
        Some(_) => wanted.filter(|wanted| *wanted > version).map(|wanted| {
            (
                DocumentFault::Stale,
                format!("it holds record {version}, and record {wanted} was acknowledged, which corrects it"),
            )
        }),
    };
    doubles.iter().map(double).chain(fault.map(|(fault, what)| finding(fault, what))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(number: u64) -> Token {
        let mut bytes = [0; Token::BYTES];
        bytes[12..].copy_from_slice(&number.to_be_bytes());
        Token::from_bytes(bytes)
    }

    fn digest(number: u64) -> DocumentDigest {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        DocumentDigest(bytes)
    }

    fn id(number: u64) -> String {
        format!("{}-0", token(number))
    }

    struct FilledComparison {
        both: DocumentComparison,
        _folder: tempfile::TempDir,
    }

    impl FilledComparison {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            Self { both: DocumentComparison::new(folder.path()).unwrap(), _folder: folder }
        }

        fn record(&mut self, number: u64, seq: u64) {
            self.both.add_record(&token(number), 0, seq, digest(seq)).unwrap();
        }

        fn document(&mut self, number: u64, seq: u64) {
            self.both.add_document(&id(number), seq, digest(seq)).unwrap();
        }

        fn ended(
            self,
            acknowledged: u64,
            dead_letters: &[u64],
        ) -> (ComparisonCounts, Vec<(DocumentFault, String, String)>) {
            let expected =
                ExpectedRecords { start: 2, acknowledged, dead_letters: dead_letters.iter().copied().collect() };
            let mut found = Vec::new();
            let mut tell = |DocumentFinding { fault, document, what, .. }: &DocumentFinding| {
                found.push((*fault, document.clone(), what.clone()));
            };
            let counts = self.both.finish(&expected, &mut tell).unwrap();
            found.sort();
            (counts, found)
        }
    }

    #[test]
    fn what_is_as_it_should_be_is_no_finding() {
        let mut both = FilledComparison::new();
        for number in 1..=20 {
            both.record(number, number);
        }
        // 21 corrects 5, 22 corrects 6 and is not acknowledged; 7 was put aside; 1 and 2 lie before the start.
        both.record(5, 21);
        both.record(6, 22);
        both.record(8, 23);
        for number in [1, 3, 4, 6] {
            both.document(number, number);
        }
        both.document(5, 21);
        // It is ahead of what is acknowledged.
        both.document(8, 23);
        for number in 9..=20 {
            both.document(number, number);
        }
        let (counts, found) = both.ended(21, &[7]);
        assert_eq!(found, []);
        assert_eq!((counts.documents, counts.records, counts.faults()), (18, 23, 0));
    }

    #[test]
    fn each_fault_is_told_for_what_it_is() {
        let mut both = FilledComparison::new();
        for seq in 3..=9 {
            both.record(seq, seq);
        }
        both.record(4, 10);
        both.record(9, 11);
        // 3 is lost; 4 is stale; 5 has other content; 6 another version; 7 is there twice; 9 holds what was put aside's predecessor.
        both.document(4, 4);
        both.both.add_document(&id(5), 5, digest(99)).unwrap();
        both.document(6, 7);
        both.document(7, 7);
        both.document(7, 8);
        both.document(8, 8);
        both.document(9, 9);
        both.document(77, 1);
        for foreign in ["a", "a-0", &format!("{}-00", token(3)), &format!("{}", token(3)), &format!("{}--1", token(3))]
        {
            both.both.add_document(foreign, 1, digest(1)).unwrap();
        }
        let (counts, found) = both.ended(11, &[11]);
        let faults = found.iter().filter(|(fault, ..)| *fault != DocumentFault::Surplus);
        let faults: Vec<_> = faults.map(|(fault, id, what)| (*fault, id.clone(), what.as_str())).collect();
        assert_eq!(
            faults,
            [
                (DocumentFault::Lost, id(3), "record 3 was acknowledged, and is not there"),
                (DocumentFault::Stale, id(4), "it holds record 4, and record 10 was acknowledged, which corrects it"),
                (DocumentFault::Altered, id(5), "its content is not that of record 5"),
                (DocumentFault::Altered, id(6), "its version is 7, and no record of it has that seq"),
                (DocumentFault::Altered, id(7), "its version is 8, and no record of it has that seq"),
            ]
        );
        // The foreign ones, the second document of 7, and 77.
        assert_eq!((counts.lost, counts.stale, counts.altered, counts.surplus), (1, 1, 3, 7));
    }

    #[test]
    fn one_lost_one_altered_and_one_surplus_document_of_a_million_are_found() {
        const COUNT: u64 = 1_000_000;
        let mut both = FilledComparison::new();
        for number in 3..COUNT {
            both.record(number, number);
            match number {
                500_000 => {}
                700_000 => both.both.add_document(&id(number), number, digest(1)).unwrap(),
                _ => both.document(number, number),
            }
        }
        both.document(COUNT + 5, 9);
        let (counts, found) = both.ended(COUNT, &[]);
        let found: Vec<_> = found.into_iter().map(|(fault, id, _)| (fault, id)).collect();
        let expected =
            [(DocumentFault::Lost, 500_000), (DocumentFault::Altered, 700_000), (DocumentFault::Surplus, COUNT + 5)];
        assert_eq!(found, expected.map(|(fault, number)| (fault, id(number))));
        assert_eq!(counts.faults(), 3);
    }

    #[test]
    fn findings_beyond_a_thousand_are_counted() {
        let mut both = FilledComparison::new();
        for number in 0..1500 {
            both.both.add_document(&format!("x{number}"), 1, digest(1)).unwrap();
            both.record(number + 10, number + 10);
        }
        let (counts, found) = both.ended(2000, &[]);
        assert_eq!((counts.surplus, counts.lost, found.len()), (1500, 1500, 1000));
    }
}
