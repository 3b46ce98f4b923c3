//! The schema on Tantivy: columns, words and times, and segments of two formats.

use std::{sync::Arc, time::Duration};

use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};
use tantivy::{
    Index, Order, Searcher, SegmentReader,
    aggregation::{AggContextParams, AggregationCollector},
    collector::TopDocs,
    query::Query,
    schema::FieldType,
};
use tidemark_ingest::{
    OperationRecord,
    engine::{EngineError, IndexEngine, RecordStats},
};
use tidemark_wal::Outcome;

use super::{
    document::to_document,
    manifest_view::ManifestView,
    schema::{FORMAT, NEXT_FORMAT, SchemaFields},
    testing::{TestIndex, plain, searcher_of, token},
    tokenizers::tokenizers,
};
use crate::{
    api::{QueryText, SearchRequest},
    limits::QueryDeadline,
    query_compiler::QueryCompiler,
};

/// Records in an index in memory, each with its number as its `op`.
pub(super) struct SchemaIndex {
    searcher: Searcher,
    pub(super) compiler: QueryCompiler,
}

impl SchemaIndex {
    pub(super) fn new(records: impl IntoIterator<Item = OperationRecord>) -> Self {
        let fields = Arc::new(SchemaFields::current());
        let documents = records.into_iter().zip(0..);
        let documents = documents.map(|(record, op)| to_document(&fields, &OperationRecord { op, ..record }, b""));
        Self { searcher: searcher_of(&fields, documents), compiler: QueryCompiler::new(&fields) }
    }

    pub(super) fn of_payloads(payloads: impl IntoIterator<Item = Value>) -> Self {
        Self::new(payloads.into_iter().map(|payload| OperationRecord { payload, ..plain(token(1, 1)) }))
    }

    pub(super) fn of_messages<'a>(messages: impl IntoIterator<Item = &'a str>) -> Self {
        let messages = messages.into_iter().map(ToOwned::to_owned).map(Some);
        Self::new(messages.map(|message| OperationRecord { message, ..plain(token(1, 1)) }))
    }

    pub(super) fn segments(&self) -> Vec<&SegmentReader> {
        self.searcher.segment_readers().iter().collect()
    }

    fn query(&self, text: &str) -> Box<dyn Query> {
        compiled(&self.compiler, text)
    }

    /// The numbers of the records that a query matches.
    pub(super) fn found(&self, text: &str) -> Vec<u64> {
        self.found_by(self.query(text).as_ref())
    }

    pub(super) fn found_by(&self, query: &dyn Query) -> Vec<u64> {
        self.search(query).unwrap()
    }

    pub(super) fn search(&self, query: &dyn Query) -> tantivy::Result<Vec<u64>> {
        let best = TopDocs::with_limit(1000).order_by_fast_field::<u64>("op", Order::Asc);
        let found = self.searcher.search(query, &best)?;
        Ok(found.into_iter().map(|(op, _)| op.unwrap()).collect())
    }
}

fn compiled(compiler: &QueryCompiler, text: &str) -> Box<dyn Query> {
    let request = SearchRequest { query: QueryText::new(text).unwrap(), ..SearchRequest::default() };
    compiler.compile(&request, 0, QueryDeadline::after(Duration::from_hours(1))).unwrap().query
}

#[test]
fn every_exact_field_that_may_be_asked_for_has_a_column_or_is_named() {
    let fields = SchemaFields::current();
    let internal = [fields.writer_key, fields.field_names];
    let unordered = fields.schema.fields().filter(|(field, entry)| {
        let is_raw = matches!(entry.field_type(), FieldType::Str(options) if options.get_indexing_options().is_some_and(|options| options.tokenizer() == "raw"));
        is_raw && !entry.is_fast() && !internal.contains(field)
    });
    assert_eq!(unordered.map(|(field, _)| field).collect::<Vec<_>>(), fields.named());
}

#[test]
fn attributes_are_compared_sorted_and_counted_by_columns() {
    let sizes = [100, 5, 101, 2_000_000, 7];
    let payload = |size: i64| {
        let parity = if size % 2 == 0 { "Even" } else { "Odd" };
        json!({ "attributes": { "size": size, "parity": parity, "half": size as f64 / 2.0, "made": format!("20{:02}-01-01T00:00:00Z", size % 50) } })
    };
    let index =
        SchemaIndex::of_payloads(sizes.map(payload).into_iter().chain([json!({ "attributes": { "size": "many" } })]));
    for (query, wanted) in [
        ("payload.attributes.size:>100", vec![2, 3]),
        ("payload.attributes.size:>=100", vec![0, 2, 3]),
        ("payload.attributes.size:[5 TO 7]", vec![1, 4]),
        ("payload.attributes.size:{5 TO *}", vec![0, 2, 3, 4]),
        ("payload.attributes.size:100", vec![0]),
        ("payload.attributes.size:many", vec![5]),
        ("payload.attributes.half:<4", vec![1, 4]),
        ("payload.attributes.half:50.5", vec![2]),
        ("payload.attributes.parity:>=Odd", vec![1, 2, 4]),
        ("payload.attributes.parity:odd", vec![1, 2, 4]),
        ("payload.attributes.made:<2002-01-01T00:00:00Z", vec![0, 2, 3]),
        ("payload.attributes.made:\"2005-01-01T00:00:00Z\"", vec![1]),
        ("payload.attributes.made:*", vec![0, 1, 2, 3, 4]),
        ("payload.attributes.parity: IN [Odd none]", vec![1, 2, 4]),
        ("payload.attributes.size: IN [5 7 many]", vec![1, 4, 5]),
        ("payload:*", vec![0, 1, 2, 3, 4, 5]),
        ("-payload.attributes.made:* +payload.attributes.size:*", vec![5]),
    ] {
        assert_eq!(index.found(query), wanted, "{query}");
    }

    let column = index.searcher.segment_reader(0).fast_fields().i64("payloadColumns.attributes.size").unwrap();
    let mut by_size: Vec<_> = (0..6).filter_map(|doc| Some((column.first(doc)?, doc))).collect();
    by_size.sort_unstable();
    assert_eq!(by_size, [(5, 1), (7, 4), (100, 0), (101, 2), (2_000_000, 3)]);

    let request = json!({ "parities": { "terms": { "field": "payloadColumns.attributes.parity" } } });
    let counter =
        AggregationCollector::from_aggs(serde_json::from_value(request).unwrap(), AggContextParams::default());
    let counted = serde_json::to_value(index.searcher.search(&index.query("*"), &counter).unwrap()).unwrap();
    let buckets = counted["parities"]["buckets"].as_array().unwrap();
    let buckets: Vec<_> =
        buckets.iter().map(|bucket| (bucket["key"].as_str().unwrap(), &bucket["doc_count"])).collect();
    assert_eq!(buckets, [("Odd", &json!(3)), ("Even", &json!(2))]);
}

#[test]
fn what_has_no_column_is_found_by_its_words() {
    let mut deep = json!("Bottom");
    for _ in 0..100 {
        deep = json!({ "d": deep });
    }
    let many: serde_json::Map<_, _> = (0..500).map(|n| (format!("a{n}"), json!(format!("v{n}")))).collect();
    let long = format!("begin {} end", "x ".repeat(400));
    let name = "name ".repeat(100);
    let index = SchemaIndex::of_payloads([
        json!({ "deep": deep }),
        json!({ "many": many, "near": 7 }),
        json!({ "long": long }),
        json!({ name: "held" }),
        json!(["plain", 5]),
    ]);
    let path = "d.".repeat(30);
    for (query, wanted) in [
        (format!("payload.deep.{path}d:bottom"), vec![0]),
        ("payload.many.a499:v499".to_owned(), vec![1]),
        ("payload.near:>6".to_owned(), vec![1]),
        ("payload.long:\"x end\"".to_owned(), vec![2]),
        ("payload.value:held".to_owned(), vec![3]),
        ("payload.value:\"name name held\"".to_owned(), vec![3]),
        ("payload.value:plain".to_owned(), vec![4]),
        ("payload.value:>4".to_owned(), vec![4]),
    ] {
        assert_eq!(index.found(&query), wanted, "{query}");
    }
    // As many columns as values may have some, and no more.
    let columns =
        index.searcher.segment_reader(0).fast_fields().dynamic_subpath_column_handles("payloadColumns").unwrap();
    assert_eq!(columns.len(), 64 + 2, "those of the second, and the text and the number of the last");
}

#[test]
fn times_that_no_date_holds_are_found() {
    let times = [
        "9999-12-31T23:59:59Z",
        "0001-01-02T00:00:00Z",
        "1600-01-01T00:00:00Z",
        "2026-11-28T12:00:00.75Z",
        "2262-04-12T00:00:00Z",
        "0001-01-01T00:00:00Z",
        "10000-01-01T00:00:00Z",
        "-9999-01-01T00:00:00Z",
        "tomorrow",
    ];
    let index = SchemaIndex::new(times.map(|time| OperationRecord {
        client_time: time.parse().ok().filter(|_| time != "0001-01-01T00:00:00Z"),
        descriptor: json!({ "timestamp": time }),
        ..plain(token(1, 1))
    }));
    for (query, wanted) in [
        ("clientTime:*", vec![0, 1, 2, 3, 4]),
        ("clientTime:>2262-04-11T00:00:00Z", vec![0, 4]),
        ("clientTime:[* TO 1600-01-01T00:00:00Z]", vec![1, 2]),
        ("clientTime:[* TO 1600-01-01T00:00:00Z}", vec![1]),
        ("clientTime:\"9999-12-31T23:59:59Z\"", vec![0]),
        ("clientTime: IN [\"1600-01-01T00:00:00Z\" \"0001-01-02T00:00:00Z\"]", vec![1, 2]),
        ("clientTime:[2026-11-28T12:00:00Z TO 2026-11-28T12:00:00.1Z]", vec![3]),
        ("clientTime:[2026-11-28T12:00:00.8Z TO 2026-11-29T12:00:00Z]", vec![]),
        ("clientTime:{2026-11-28T11:59:59.9Z TO 2026-11-28T12:00:00.1Z}", vec![3]),
        // In the descriptor, dates beyond Tantivy's are text, and compared too.
        ("descriptor.timestamp:>2000-01-01T00:00:00Z", vec![0, 3, 4]),
        ("descriptor.timestamp:\"9999-12-31T23:59:59Z\"", vec![0]),
        ("descriptor.timestamp:\"1600-01-01T00:00:00Z\"", vec![2]),
        ("descriptor.timestamp:tomorrow", vec![8]),
    ] {
        assert_eq!(index.found(query), wanted, "{query}");
    }
}

#[test]
fn words_are_found_in_any_case_accent_and_form() {
    let index = SchemaIndex::of_messages([
        "Der Ärger auf der Straße",
        "naïve résumés",
        "ÜBER ΟΔΟΣ",
        "東京都のスカイツリー",
        "서울에서",
    ]);
    for (query, wanted) in [
        ("arger", vec![0]),
        ("A\u{308}RGER", vec![0]),
        ("\"der arger\"", vec![0]),
        ("STRASSE", vec![0]),
        ("Resume", vec![1]),
        ("über", vec![2]),
        ("οδός", vec![2]),
        ("東", vec![3]),
        ("京都", vec![3]),
        ("東京都", vec![3]),
        ("東都", vec![]),
        ("\"都のスカイ\"", vec![3]),
        ("ｽｶｲ", vec![3]),
        ("서울", vec![4]),
        ("\u{1109}\u{1165}\u{110b}\u{116e}\u{11af}", vec![4]),
    ] {
        assert_eq!(index.found(query), wanted, "{query}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_part_of_a_message_in_characters_finds_it(messages in vec(vec(prop::char::range('\u{4e00}', '\u{4e10}'), 2..12), 1..8), which: prop::sample::Index, from: prop::sample::Index, len: prop::sample::Index) {
        let messages: Vec<String> = messages.into_iter().map(|chars| chars.into_iter().collect()).collect();
        let index = SchemaIndex::of_messages(messages.iter().map(String::as_str));
        let chars: Vec<char> = messages[which.index(messages.len())].chars().collect();
        let from = from.index(chars.len());
        let part: String = chars[from..=from + len.index(chars.len() - from)].iter().collect();
        let wanted = messages.iter().zip(0..).filter(|(message, _)| message.contains(&part)).map(|(_, op)| op);
        prop_assert_eq!(index.found(&part), wanted.collect::<Vec<u64>>());
    }
}

#[test]
fn tokens_are_whole_in_columns() {
    let tokens = [0u32, 1, 77, u32::MAX].map(|n| token(u64::from(n % 9), n.wrapping_mul(2_654_435_761)));
    let index = SchemaIndex::new(tokens.map(plain));
    let columns = super::TokenColumns::open(index.searcher.segment_reader(0)).unwrap();
    for (token, doc) in tokens.into_iter().zip(0..) {
        assert_eq!(columns.token(doc), token);
    }
}

fn batch(second: u64) -> Vec<OperationRecord> {
    let record = |n: u32| OperationRecord {
        path: Some("x".repeat(n as usize + 1)),
        entity: Some(format!("entry/{second}/{n}")),
        message: Some("the same".to_owned()),
        ..plain(token(second, n))
    };
    (0..5).map(record).collect()
}

/// How many records of a manifest a query matches.
fn matches(engine: &super::TantivyEngine, view: &ManifestView, text: &str) -> u32 {
    let query = compiled(&QueryCompiler::new(engine.fields()), text);
    let builder = Index::builder().schema(engine.fields().schema.clone()).tokenizers(tokenizers());
    let schema = builder.create_in_ram().unwrap().reader().unwrap().searcher();
    let weight = query.weight(tantivy::query::EnableScoring::disabled_from_searcher(&schema)).unwrap();
    view.segments.iter().map(|shown| weight.count(&shown.reader).unwrap()).sum()
}

#[tokio::test]
async fn a_segment_of_the_format_before_is_read_and_rebuilt_by_a_compaction() {
    let mut index = TestIndex::new().await;
    index.publish(batch(1)).await;
    index.publish(batch(2)).await;
    let next = Arc::new(index.next_version());
    let before = std::mem::replace(&mut index.engine, next.clone());
    index.publish(batch(3)).await;

    let view = next.open_manifest(index.manifest()).await.unwrap();
    let formats: Vec<u32> = view.segments.iter().map(|shown| shown.segment.format).collect();
    assert_eq!(formats, [FORMAT, FORMAT, NEXT_FORMAT]);
    assert_eq!(matches(&next, &view, "message:same"), 15);
    assert_eq!(matches(&next, &view, "pathLength:>=2"), 4, "the others have no such field yet");
    assert_eq!(view.latest_commit("entry/1/3").unwrap().unwrap().token, token(1, 3));

    // One that reads an older format only.
    let error = before.open_manifest(index.manifest()).await.err().unwrap();
    let newest = &index.manifest().segments[2].key;
    assert!(
        matches!(&error, EngineError::OtherFormat { key, found: NEXT_FORMAT, known: FORMAT } if key == newest),
        "{error}"
    );

    // All of them, and one alone.
    let inputs = index.manifest().segments.clone();
    for inputs in [&inputs[..], &inputs[..1]] {
        let packed = next.compact(inputs).await.unwrap();
        let parts: Vec<u64> = inputs.iter().map(|segment| segment.documents).collect();
        let wanted: Vec<_> = inputs.iter().map(RecordStats::of).collect();
        assert_eq!(next.stats(&packed, &parts).await.unwrap(), wanted);
    }
    index.compact(0..3).await;
    let view = next.open_manifest(index.manifest()).await.unwrap();
    assert_eq!((view.segments.len(), view.segments[0].segment.format), (1, NEXT_FORMAT));
    assert_eq!(matches(&next, &view, "pathLength:>=2"), 12);
    assert_eq!(matches(&next, &view, "message:same outcome:committed"), 15);
    let segment = &index.manifest().segments[0];
    assert_eq!(next.records(segment, segment.seq.clone()).await.unwrap(), index.records);
    assert!(index.records.iter().all(|record| record.decision.outcome == Outcome::Committed));
}

#[tokio::test]
async fn a_reindex_rebuilds_segments_of_the_format_before_and_keeps_seqs_and_answers() {
    let mut index = TestIndex::registered().await;
    let mut aborted = batch(1);
    aborted[2].decision.outcome = Outcome::Aborted;
    index.publish(aborted).await;
    // A correction, and a newer state of an entity.
    let newer = OperationRecord { entity: Some("entry/1/1".to_owned()), ..batch(2).remove(0) };
    index.publish(vec![batch(1).remove(2), newer]).await;
    let queries = ["message:same", "message:same outcome:committed", "outcome:aborted", "path:xxx"];
    let entities = ["entry/1/1", "entry/1/2", "entry/2/0"];
    let before = index.engine.open_manifest(index.manifest()).await.unwrap();
    let counts = queries.map(|text| matches(&index.engine, &before, text));
    let latest = entities.map(|entity| before.latest_commit(entity).unwrap());
    assert_eq!(before.segments[0].segment.format, FORMAT);

    let next = Arc::new(index.next_version());
    let made = tidemark_ingest::reindex(&index.generation_task(next.clone())).await.unwrap();
    let rebuilt = index.chain.sibling(made.generation.clone()).latest().await.unwrap().unwrap().state;
    assert_eq!((made.generation.to_string(), rebuilt.next_seq), ("g2".to_owned(), index.manifest().next_seq));
    assert_eq!(rebuilt.totals.counts, index.manifest().totals.counts);
    let after = next.open_manifest(&rebuilt).await.unwrap();
    assert!(after.segments.iter().all(|shown| shown.segment.format == NEXT_FORMAT), "{rebuilt:?}");
    assert_eq!(queries.map(|text| matches(&next, &after, text)), counts);
    assert_eq!(entities.map(|entity| after.latest_commit(entity).unwrap()), latest);
    assert_eq!(matches(&next, &after, "pathLength:>=2"), 4, "all of them have the new field");
    let mut records = Vec::new();
    for segment in &rebuilt.segments {
        records.extend(next.records(segment, segment.seq.clone()).await.unwrap());
    }
    assert_eq!(records, index.records);
}
