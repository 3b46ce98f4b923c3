//! Values of facets, counted over all matches.

use std::collections::BTreeMap;

use serde_json::json;
use tantivy::{
    SegmentReader, TantivyError,
    aggregation::{
        AggContextParams, AggregationLimitsGuard, AggregationSegmentCollector,
        agg_req::Aggregations,
        agg_result::{AggregationResult, BucketResult},
        intermediate_agg_result::IntermediateAggregationResults,
    },
    collector::SegmentCollector,
};

use super::{
    api::{AttributeName, FacetCount, FacetField, MAX_ATTRIBUTE_FACETS, MAX_FACET_VALUES},
    error::SearchError,
};
use crate::segment::{DESCRIPTOR_COLUMNS, PAYLOAD_COLUMNS, tokenizers};

/// Memory that the facets of one search may take.
const MAX_FACET_MEMORY_BYTES: u64 = 64 << 20;
/// Values of one facet that are counted per segment; beyond that the rarest are left out.
const MAX_VALUES_PER_SEGMENT: u32 = 10_000;

/// Counts the values of facets.
pub(crate) struct FacetCounter {
    attributes: Vec<AttributeName>,
    request: Aggregations,
    context: AggContextParams,
    sum: Option<IntermediateAggregationResults>,
}

impl FacetCounter {
    /// `None` if nothing is to be counted.
    pub(crate) fn new(facets: &[FacetField], attributes: &[AttributeName]) -> Result<Option<Self>, SearchError> {
        if facets.is_empty() && attributes.is_empty() {
            return Ok(None);
        }
        if attributes.len() > MAX_ATTRIBUTE_FACETS {
            let detail =
                format!("{} attributes are too many, at most {MAX_ATTRIBUTE_FACETS} are counted", attributes.len());
            return Err(SearchError::Invalid { parameter: "facets", detail });
        }
        let fields = facets.iter().map(|facet| (facet.name(), facet.name().to_owned()));
        let columns = attributes.iter().map(|attribute| (attribute.as_str(), attribute_column(attribute)));
        let named = fields.chain(columns).map(|(name, field)| {
            let terms = json!({"terms": { "field": field, "size": 1000, "segment_size": MAX_VALUES_PER_SEGMENT }});
            (name.to_owned(), terms)
        });
        let request = serde_json::Value::Object(named.collect());
        let request = serde_json::from_value(request).map_err(|e| internal(&e))?;
        let limits = AggregationLimitsGuard::new(Some(MAX_FACET_MEMORY_BYTES), None);
        Ok(Some(Self {
            attributes: attributes.to_vec(),
            request,
            context: AggContextParams::new(limits, tokenizers()),
            sum: None,
        }))
    }

    /// A counter for one segment.
    pub(crate) fn segment(&self, reader: &SegmentReader) -> Result<AggregationSegmentCollector, SearchError> {
        AggregationSegmentCollector::from_agg_req_and_reader(&self.request, reader, 0, &self.context)
            .map_err(|e| over_limit(&e))
    }

    /// Adds what was counted in one segment.
    pub(crate) fn add(&mut self, segment: AggregationSegmentCollector) -> Result<(), SearchError> {
        let counted = segment.harvest().map_err(|e| over_limit(&e))?;
        if let Some(sum) = &mut self.sum {
            return sum.merge_fruits(counted).map_err(|e| over_limit(&e));
        }
        self.sum = Some(counted);
        Ok(())
    }

    /// The values by facet, the most frequent first.
    pub(crate) fn finish(self) -> Result<BTreeMap<String, Vec<FacetCount>>, SearchError> {
        let attributes = self.attributes.into_iter().map(|attribute| (attribute.as_str().to_owned(), Vec::new()));
        let mut counted: BTreeMap<String, Vec<FacetCount>> = attributes.collect();
        let Some(sum) = self.sum else {
            return Ok(counted);
        };
        let results = sum.into_final_result(self.request, self.context.limits).map_err(|e| over_limit(&e))?;
        counted.extend(results.0.into_iter().map(|(name, result)| (name, values(result))));
        Ok(counted)
    }
}

/// The column of an attribute, as Tantivy writes its name.
fn attribute_column(attribute: &AttributeName) -> String {
    let name = attribute.as_str().replace('\\', "\\\\");
    match name.split_once('.') {
        Some(("payload", path)) => format!("{PAYLOAD_COLUMNS}.{path}"),
        Some((_, path)) => format!("{DESCRIPTOR_COLUMNS}.{path}"),
        None => name,
    }
}

fn values(result: AggregationResult) -> Vec<FacetCount> {
    let AggregationResult::BucketResult(BucketResult::Terms { buckets, .. }) = result else {
        return Vec::new();
    };
    // A number and a text that writes it are one value.
    let mut by_value = BTreeMap::<String, u64>::new();
    for bucket in buckets {
        *by_value.entry(bucket.key_as_string.unwrap_or_else(|| bucket.key.to_string())).or_default() +=
            bucket.doc_count;
    }
    let counts = by_value.into_iter().map(|(value, count)| FacetCount { value, count });
    let mut counts: Vec<_> = counts.filter(|count| count.count > 0).collect();
    counts.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.value.cmp(&b.value)));
    counts.truncate(MAX_FACET_VALUES);
    counts
}

fn over_limit(error: &TantivyError) -> SearchError {
    match error {
        TantivyError::AggregationError(_) => SearchError::Overloaded {
            detail: format!("the facets of this search are too large ({error}); narrow it, or ask for fewer facets"),
        },
        other => internal(other),
    }
}

fn internal(error: &impl ToString) -> SearchError {
    SearchError::Internal { detail: error.to_string() }
}
