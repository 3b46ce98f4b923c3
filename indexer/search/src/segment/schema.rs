//! The fields of a document: one document an operation.
//!
//! Field names are what people write in queries (`repo:models kind:bundle`); they and their types are part of the segment
//! format. A change of this file that old segments do not share needs a new [`FORMAT`], which may only append fields: segments
//! of the format before it are read with the new fields, of which they have no values, until compaction has rebuilt them.

use tantivy::schema::{
    BytesOptions, DateOptions, DateTimePrecision, Field, IndexRecordOption, JsonObjectOptions, NumericOptions, Schema,
    SchemaBuilder, TextFieldIndexing, TextOptions,
};

use super::tokenizers::{ENGLISH, WORDS};

/// The version of the segment format that this build writes. It reads this one and the one before.
pub(crate) const FORMAT: u32 = 1;

/// The format after this version's, as tests have it: with one field more.
#[cfg(test)]
pub(crate) const NEXT_FORMAT: u32 = FORMAT + 1;

/// The column of a payload's attributes; `payload.` in queries means it where values are compared.
pub(crate) const PAYLOAD_COLUMNS: &str = "payloadColumns";
/// The words of messages without positions.
const MESSAGE_WORDS: &str = "messageWords";
/// Which exact fields without a column a document has.
pub(crate) const FIELD_NAMES: &str = "fieldNames";
/// The column of a descriptor's attributes.
pub(crate) const DESCRIPTOR_COLUMNS: &str = "descriptorColumns";

/// The fields of a document by name.
#[derive(Clone, Debug)]
pub(crate) struct SchemaFields {
    /// The segment format that they are of.
    pub(crate) format: u32,
    pub(crate) schema: Schema,
    /// The token's text.
    pub(crate) token: Field,
    /// Bytes 0 to 7 of the token: its second and 32 random bits. What results are sorted by first.
    pub(crate) order: Field,
    /// Bytes 8 to 15 of the token.
    pub(crate) order_middle: Field,
    /// Bytes 16 to 19 of the token.
    pub(crate) order_end: Field,
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
    /// The second of Unix time that the client wrote into the descriptor.
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
    /// The bundles that a bundle was made from.
    pub(crate) parents: Field,
    /// Paths of the files of bundles.
    pub(crate) file: Field,
    /// The words of these paths.
    pub(crate) files: Field,
    pub(crate) entity: Field,
    pub(crate) path: Field,
    pub(crate) writer: Field,
    pub(crate) idempotency_key: Field,
    /// Writer and idempotency key as one term, for the search for duplicates.
    pub(crate) writer_key: Field,
    /// The names of those of [`SchemaFields::named`] that have a value.
    pub(crate) field_names: Field,
    /// Names of contributors; the mail address of one without a name.
    pub(crate) contributor: Field,
    /// Mail addresses of contributors.
    pub(crate) email: Field,
    /// The words of all contributors.
    pub(crate) contributors: Field,
    pub(crate) message: Field,
    /// The words of messages as they are, which prefixes, wildcards and fuzzy words look up.
    pub(crate) message_words: Field,
    /// Names of repo, label, context and path as words: part of what a bare word searches.
    pub(crate) names: Field,
    /// The body of a malformed entry, and what the payload of an entry without descriptor says.
    pub(crate) text: Field,
    /// Why an entry is malformed.
    pub(crate) reason: Field,
    /// Bytes of the entry.
    pub(crate) size: Field,
    pub(crate) leaf_size: Field,
    pub(crate) count: Field,
    /// The payload's attributes as words, numbers and dates.
    pub(crate) payload: Field,
    /// The descriptor's attributes.
    pub(crate) descriptor: Field,
    /// The payload's attributes as columns.
    pub(crate) payload_columns: Field,
    /// The descriptor's attributes as columns.
    pub(crate) descriptor_columns: Field,
    /// The whole record as JSON, stored.
    pub(crate) record: Field,
    /// A field that [`NEXT_FORMAT`] adds: the length of the path.
    #[cfg(test)]
    pub(crate) path_length: Option<Field>,
}

impl SchemaFields {
    /// The fields of the format that this version writes.
    pub(crate) fn current() -> Self {
        Self::of(FORMAT)
    }

    /// The fields of the segments of a format.
    pub(crate) fn of(format: u32) -> Self {
        let mut b = Schema::builder();
        let fields = Self {
            format,
            schema: Schema::builder().build(),
            token: exact(&mut b, "token"),
            order: number(&mut b, "order"),
            order_middle: number(&mut b, "orderMiddle"),
            order_end: number(&mut b, "orderEnd"),
            op: number(&mut b, "op"),
            seq: number(&mut b, "seq"),
            time: date(&mut b, "time"),
            entry_time: date(&mut b, "entryTime"),
            completed: date(&mut b, "completed"),
            client_time: b.add_i64_field("clientTime", NumericOptions::default().set_fast()),
            kind: facet(&mut b, "kind"),
            outcome: facet(&mut b, "outcome"),
            evidence: facet(&mut b, "evidence"),
            repo: facet(&mut b, "repo"),
            bundle: exact(&mut b, "bundle"),
            label: facet(&mut b, "label"),
            context: facet(&mut b, "context"),
            diamond: exact(&mut b, "diamond"),
            split: exact(&mut b, "split"),
            parents: exact(&mut b, "parents"),
            file: exact(&mut b, "file"),
            files: words(&mut b, "files", WORDS),
            entity: exact(&mut b, "entity"),
            path: words(&mut b, "path", WORDS),
            writer: facet(&mut b, "writer"),
            idempotency_key: exact(&mut b, "idempotencyKey"),
            writer_key: exact(&mut b, "writerKey"),
            field_names: exact(&mut b, FIELD_NAMES),
            contributor: facet(&mut b, "contributor"),
            email: exact(&mut b, "email"),
            contributors: words(&mut b, "contributors", WORDS),
            message: words(&mut b, "message", ENGLISH),
            message_words: word_list(&mut b, MESSAGE_WORDS),
            names: words(&mut b, "names", WORDS),
            text: words(&mut b, "text", WORDS),
            reason: words(&mut b, "reason", WORDS),
            size: number(&mut b, "size"),
            leaf_size: number(&mut b, "leafSize"),
            count: number(&mut b, "count"),
            payload: json(&mut b, "payload"),
            descriptor: json(&mut b, "descriptor"),
            payload_columns: json_columns(&mut b, PAYLOAD_COLUMNS),
            descriptor_columns: json_columns(&mut b, DESCRIPTOR_COLUMNS),
            record: b.add_bytes_field("record", BytesOptions::default().set_stored()),
            #[cfg(test)]
            path_length: (format >= NEXT_FORMAT).then(|| number(&mut b, "pathLength")),
        };
        Self { schema: b.build(), ..fields }
    }

    /// Whether segments of `format` are read: those of this format and of the one before. Nothing writes format 0.
    pub(crate) fn can_read(&self, format: u32) -> bool {
        format > 0 && (self.format - 1..=self.format).contains(&format)
    }

    /// The names that a query may give a field, but for those of attributes and of what only this program looks up.
    pub(crate) fn searched_names(&self) -> Vec<&str> {
        let internal =
            [self.order, self.order_middle, self.order_end, self.writer_key, self.field_names, self.message_words];
        let fields = self.schema.fields().filter(|(_, entry)| entry.is_indexed() || entry.is_fast());
        let fields = fields.filter(|(field, entry)| !internal.contains(field) && !entry.field_type().is_json());
        fields.map(|(_, entry)| entry.name()).collect()
    }

    /// The exact fields that people may ask for and that have no column: a document says by name which of them it has.
    pub(crate) fn named(&self) -> [Field; 9] {
        [
            self.token,
            self.bundle,
            self.diamond,
            self.split,
            self.parents,
            self.file,
            self.entity,
            self.idempotency_key,
            self.email,
        ]
    }

    /// The fields that a bare word of a query is looked up in.
    pub(crate) fn default_search(&self) -> Vec<Field> {
        vec![self.message, self.names, self.contributors, self.text]
    }
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

/// Words of which only the documents are kept.
fn word_list(builder: &mut SchemaBuilder, name: &str) -> Field {
    let indexing = TextFieldIndexing::default()
        .set_tokenizer(WORDS)
        .set_fieldnorms(false)
        .set_index_option(IndexRecordOption::Basic);
    builder.add_text_field(name, TextOptions::default().set_indexing_options(indexing))
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

fn json_columns(builder: &mut SchemaBuilder, name: &str) -> Field {
    builder.add_json_field(name, JsonObjectOptions::default().set_fast("raw").set_expand_dots_enabled())
}
