//! Every record of the chains: of the root, of each generation of the index, of the pins and of the collectors.

use tidemark_catalog::{
    CatalogError, GarbageCollector, Generation, IndexChain, LogId, PinChain, RootChain, TransactionRejected,
};
use tidemark_store::{AppendOnlyChain, ChainState, Entropy, Store, error_chain};

use super::finding::{FindingLog, FindingSeverity, VerifyCheck, message_parts};

/// Reads chains whole.
pub(super) struct ChainCheck<'a> {
    pub(super) findings: &'a FindingLog<'a>,
    /// Records that were read.
    pub(super) records: u64,
    /// Their bytes.
    pub(super) bytes: u64,
}

impl ChainCheck<'_> {
    /// The log's root.
    pub(super) async fn check_root(&mut self, root: &RootChain) {
        self.check("the root of the log", root.chain()).await;
    }

    /// Each generation of the index, its pins, and what its collectors know.
    pub(super) async fn check_index(&mut self, index: &Store, log: &LogId, entropy: &Entropy) {
        let mut generation = Some(Generation::first());
        while let Some(number) = generation {
            match IndexChain::has_records(index, &number).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    self.report_unread(index.url().as_str(), &error.into());
                    break;
                }
            }
            let chain = IndexChain::open(index, number.clone(), entropy.clone());
            self.check(&format!("generation {number} of the index"), chain.chain()).await;
            generation = number.next();
        }
        self.check("the snapshots of the index", PinChain::open(index, log, entropy.clone()).chain()).await;
        let collector = GarbageCollector::new(index, log, entropy.clone());
        self.check("what the collectors of garbage know", collector.chain()).await;
    }

    async fn check<S: ChainState<Rejection = TransactionRejected>>(&mut self, name: &str, chain: &AppendOnlyChain<S>) {
        let url = chain.store().url().to_string();
        let inspection = match chain.inspect().await {
            Ok(inspection) => inspection,
            Err(error) => return self.report_unread(&url, &error),
        };
        self.records += inspection.records;
        self.bytes += inspection.bytes;
        self.findings.progress(VerifyCheck::Chains, self.records, 0);
        if inspection.format > S::FORMAT {
            let what =
                format!("{name} has records of format {}, and this release writes {}", inspection.format, S::FORMAT);
            let effect = "this release reads them as far as they say that it may".to_owned();
            let remedy = "verify with the release that wrote them".to_owned();
            self.findings.report(FindingSeverity::Notice, VerifyCheck::Chains, url.clone(), [what, effect, remedy]);
        }
        let hidden = inspection.fault_count - inspection.faults.len() as u64;
        for fault in inspection.faults {
            self.report_fault(name, &fault);
        }
        if hidden > 0 {
            let what = format!("{name} has {hidden} more records that are missing or damaged");
            let [effect, remedy] = [DAMAGE_EFFECT, DAMAGE_REMEDY].map(str::to_owned);
            self.findings.report(FindingSeverity::Damage, VerifyCheck::Chains, url, [what, effect, remedy]);
        }
    }

    fn report_fault(&self, name: &str, fault: &CatalogError) {
        let (severity, location, parts) = match fault {
            CatalogError::Corrupt { key, why } => {
                let what = format!("a record of {name} is damaged: {why}");
                (FindingSeverity::Damage, key.clone(), [what, DAMAGE_EFFECT.to_owned(), DAMAGE_REMEDY.to_owned()])
            }
            CatalogError::NewerFormat { key, .. } | CatalogError::NewerWriter { key, .. } => {
                (FindingSeverity::Unverified, key.clone(), message_parts(&fault.to_string()))
            }
            _ => (FindingSeverity::Unverified, String::new(), message_parts(&fault.to_string())),
        };
        self.findings.report(severity, VerifyCheck::Chains, location, parts);
    }

    fn report_unread(&self, location: &str, error: &CatalogError) {
        let parts = message_parts(&error_chain(error));
        self.findings.report(FindingSeverity::Unverified, VerifyCheck::Chains, location, parts);
    }
}

const DAMAGE_EFFECT: &str =
    "what follows from it cannot be trusted, and where it is the newest record nothing can be appended";
const DAMAGE_REMEDY: &str = "restore that object from the bucket's versions or a copy of the bucket";
