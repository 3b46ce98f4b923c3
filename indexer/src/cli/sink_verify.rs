//! `tidemark sink verify`: whether a search server holds what the index says.

use clap::Args;
use serde::Serialize;
use tidemark_catalog::ConsumerName;
use tidemark_search::api::QueryText;
use url::Url;

use super::{
    args::{CacheArgs, OutputArgs, StoresArgs},
    consumer_args::{HttpDestinationArgs, consumer_name, query_text},
    exit::CommandExit,
    failure_verdict::ended,
    output::{print_json, print_line},
};
use crate::{
    delivery::{BulkDocuments, ComparisonCounts, DocumentFinding, MAX_TOLD},
    service::{AccessMode, PodStores, SinkVerification, VerifiedSink, cache_options},
};

/// Compare the documents of a search server with the index.
///
/// Reads every document and every record once, and compares the SHA-256 of each document in its canonical form (JCS, RFC 8785) with that
/// of the record which its version names. A document that is lost, stale, altered or surplus is told with what to do about it. Nothing is
/// written but temporary files: 64 bytes for each document and each record. The sink may run meanwhile.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: tidemark sink verify --index s3://idx/orders --name search --elasticsearch https://os:9200 --elasticsearch-index orders --json\n\
    Exit codes: 0 everything that was acknowledged is there as it should be, 8 something is not, 1 it could not be found out."
)]
pub(super) struct SinkVerifyCommand {
    /// Where the index is: the URL that `tidemark index --index` has.
    #[arg(long, env = "TIDEMARK_INDEX", value_name = "URL")]
    index: Url,
    /// The consumer: the name that the sink has.
    #[arg(long, env = "TIDEMARK_NAME", value_name = "NAME", value_parser = consumer_name)]
    name: ConsumerName,
    /// The server that the sink delivers to.
    #[arg(long, env = "TIDEMARK_ELASTICSEARCH", value_name = "URL")]
    elasticsearch: Url,
    /// The index there.
    #[arg(long, env = "TIDEMARK_ELASTICSEARCH_INDEX", value_name = "NAME")]
    elasticsearch_index: String,
    /// The query of the sink, if it has one.
    #[arg(long, env = "TIDEMARK_QUERY", value_name = "QUERY", value_parser = query_text)]
    query: Option<QueryText>,
    #[command(flatten)]
    http: HttpDestinationArgs,
    #[command(flatten)]
    stores: StoresArgs,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What was compared, as a line of JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ComparisonLine {
    acknowledged: String,
    dead_letters: u64,
    #[serde(flatten)]
    counts: ComparisonCounts,
}

impl SinkVerifyCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let (cache, _temporary) = cache_options(self.cache.cache_dir.clone(), self.cache.cache_mib << 20)?;
        let documents = BulkDocuments::new(self.http.options(&self.elasticsearch), self.elasticsearch_index.clone())?;
        let verification = SinkVerification {
            index: PodStores::at(None, self.index.clone(), &self.stores.settings(), AccessMode::ReadOnly),
            folder: cache.cache_folder.clone(),
            cache,
            name: self.name.clone(),
            query: self.query.clone().unwrap_or_default(),
        };
        let mut tell = |finding: &DocumentFinding| self.print(finding);
        let verified = ended(Box::pin(verification.run(&documents, &mut tell)).await)?;
        self.print_end(&verified)?;
        match verified.counts.faults() {
            0 => Ok(()),
            faults => {
                let said = format!(
                    "{faults} documents are not what the index says; do what the findings name, and verify again"
                );
                Err(CommandExit::Damaged.with(anyhow::anyhow!(said)))
            }
        }
    }

    fn print(&self, finding: &DocumentFinding) {
        let DocumentFinding { fault, document, what, effect, remedy } = finding;
        let printed = if self.output.json {
            print_json(finding)
        } else {
            print_line(&format!("{:<8}  {document}: {what}; {effect}; {remedy}", fault.as_str()))
        };
        if let Err(error) = printed {
            tracing::debug!(%error, "a finding was not printed");
        }
    }

    fn print_end(&self, VerifiedSink { acknowledged, dead_letters, counts }: &VerifiedSink) -> anyhow::Result<()> {
        if self.output.json {
            let acknowledged = acknowledged.to_string();
            return print_json(&ComparisonLine { acknowledged, dead_letters: *dead_letters, counts: *counts });
        }
        let ComparisonCounts { documents, records, lost, stale, altered, surplus } = counts;
        print_line(&format!(
            "read      {documents} documents, {records} records; acknowledged up to {acknowledged}; {dead_letters} dead letters"
        ))?;
        if counts.faults() > MAX_TOLD {
            print_line(&format!("told      the first {MAX_TOLD} findings"))?;
        }
        print_line(&format!("findings  {lost} lost, {stale} stale, {altered} altered, {surplus} surplus"))
    }
}
