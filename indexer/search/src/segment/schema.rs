//! The fields of a document: one document an operation.
//!
//! Field names are what people write in queries (`repo:models kind:bundle`); they and their types are part of the segment
//! format. A change of this file that old segments do not share needs a new [`FORMAT`](super::footer::FORMAT).

use tantivy::{
    schema::{
        BytesOptions, DateOptions, DateTimePrecision, Field, IndexRecordOption, JsonObjectOptions, NumericOptions,
        Schema, SchemaBuilder, TextFieldIndexing, TextOptions,
    },
    tokenizer::{Language, LowerCaser, RemoveLongFilter, SimpleTokenizer, Stemmer, TextAnalyzer, TokenizerManager},
};

/// Longest word that is indexed: long enough for a SHA-256 in hexadecimal digits.
const MAX_WORD_BYTES: usize = 128;
/// Words as they are, lower case.
const WORDS: &str = "words";
/// English words by their stem.
const ENGLISH: &str = "english";

/// The fields of a document by name.
#[derive(Clone, Debug)]
pub(crate) struct SchemaFields {
    /// The token's text.
    pub(crate) token: Field,
    /// First eight bytes of the token: its second and 32 random bits. What results are sorted by.
    pub(crate) order: Field,
    /// Position of the operation in its entry.
    pub(crate) op: Field,
    /// The record's number in the change feed.
    pub(crate) seq: Field,
    /// The token's second.
    pub(crate) time: Field,
    /// The entry's store time.
    pub(crate) entry_time: Field,
    /// When the operation was complete, in store time.
    pub(crate) completed: Field,
    /// The time that the client wrote into the descriptor.
    pub(crate) client_time: Field,
    pub(crate) kind: Field,
    pub(crate) outcome: Field,
    pub(crate) evidence: Field,
    pub(crate) repo: Field,
    pub(crate) bundle: Field,
    pub(crate) label: Field,
    pub(crate) context: Field,
    pub(crate) diamond: Field,
    pub(crate) split: Field,
    pub(crate) entity: Field,
    pub(crate) path: Field,
    pub(crate) writer: Field,
    pub(crate) idempotency_key: Field,
    /// Writer and idempotency key as one term, for the search for duplicates.
    pub(crate) writer_key: Field,
    /// Names of contributors; the mail address of one without a name.
    pub(crate) contributor: Field,
    /// Mail addresses of contributors.
    pub(crate) email: Field,
    /// The words of all contributors.
    pub(crate) contributors: Field,
    pub(crate) message: Field,
    /// Names of repo, label, context and path as words: part of what a bare word searches.
    pub(crate) names: Field,
    /// The body of a malformed entry.
    pub(crate) text: Field,
    /// Why an entry is malformed.
    pub(crate) reason: Field,
    /// Bytes of the entry.
    pub(crate) size: Field,
    pub(crate) leaf_size: Field,
    pub(crate) count: Field,
    pub(crate) payload: Field,
    pub(crate) descriptor: Field,
    /// The whole record as JSON, stored.
    pub(crate) record: Field,
}

impl SchemaFields {
    /// The schema of every segment with its fields.
    pub(crate) fn schema() -> (Schema, Self) {
        let mut b = Schema::builder();
        let fields = Self {
            token: exact(&mut b, "token"),
            order: number(&mut b, "order"),
            op: number(&mut b, "op"),
            seq: number(&mut b, "seq"),
            time: date(&mut b, "time"),
            entry_time: date(&mut b, "entryTime"),
            completed: date(&mut b, "completed"),
            client_time: date(&mut b, "clientTime"),
            kind: facet(&mut b, "kind"),
            outcome: facet(&mut b, "outcome"),
            evidence: facet(&mut b, "evidence"),
            repo: facet(&mut b, "repo"),
            bundle: exact(&mut b, "bundle"),
            label: facet(&mut b, "label"),
            context: facet(&mut b, "context"),
            diamond: exact(&mut b, "diamond"),
            split: exact(&mut b, "split"),
            entity: exact(&mut b, "entity"),
            path: words(&mut b, "path", WORDS),
            writer: facet(&mut b, "writer"),
            idempotency_key: exact(&mut b, "idempotencyKey"),
            writer_key: exact(&mut b, "writerKey"),
            contributor: facet(&mut b, "contributor"),
            email: exact(&mut b, "email"),
            contributors: words(&mut b, "contributors", WORDS),
            message: words(&mut b, "message", ENGLISH),
            names: words(&mut b, "names", WORDS),
            text: words(&mut b, "text", WORDS),
            reason: words(&mut b, "reason", WORDS),
            size: number(&mut b, "size"),
            leaf_size: number(&mut b, "leafSize"),
            count: number(&mut b, "count"),
            payload: json(&mut b, "payload"),
            descriptor: json(&mut b, "descriptor"),
            record: b.add_bytes_field("record", BytesOptions::default().set_stored()),
        };
        (b.build(), fields)
    }

    /// The fields that a bare word of a query is looked up in.
    pub(crate) fn default_search(&self) -> Vec<Field> {
        vec![self.message, self.names, self.contributors, self.text]
    }
}

/// The tokenizers that the schema names.
pub(crate) fn tokenizers() -> TokenizerManager {
    let manager = TokenizerManager::default();
    let words = || {
        TextAnalyzer::builder(SimpleTokenizer::default())
            .filter(RemoveLongFilter::limit(MAX_WORD_BYTES))
            .filter(LowerCaser)
    };
    manager.register(WORDS, words().build());
    manager.register(ENGLISH, words().filter(Stemmer::new(Language::English)).build());
    manager
}

fn raw() -> TextOptions {
    TextOptions::default().set_indexing_options(
        TextFieldIndexing::default()
            .set_tokenizer("raw")
            .set_fieldnorms(false)
            .set_index_option(IndexRecordOption::Basic),
    )
}

fn exact(builder: &mut SchemaBuilder, name: &str) -> Field {
    builder.add_text_field(name, raw())
}

fn facet(builder: &mut SchemaBuilder, name: &str) -> Field {
    builder.add_text_field(name, raw().set_fast("raw"))
}

fn with_positions(tokenizer: &str) -> TextFieldIndexing {
    TextFieldIndexing::default().set_tokenizer(tokenizer).set_index_option(IndexRecordOption::WithFreqsAndPositions)
}

fn words(builder: &mut SchemaBuilder, name: &str, tokenizer: &str) -> Field {
    builder.add_text_field(name, TextOptions::default().set_indexing_options(with_positions(tokenizer)))
}

fn number(builder: &mut SchemaBuilder, name: &str) -> Field {
    builder.add_u64_field(name, NumericOptions::default().set_fast())
}

fn date(builder: &mut SchemaBuilder, name: &str) -> Field {
    let options = DateOptions::default().set_fast().set_precision(DateTimePrecision::Seconds);
    builder.add_date_field(name, options)
}

fn json(builder: &mut SchemaBuilder, name: &str) -> Field {
    let options = JsonObjectOptions::default().set_indexing_options(with_positions(WORDS)).set_expand_dots_enabled();
    builder.add_json_field(name, options)
}
