//! Which update comes next: a pure function of random numbers and the state of the catalogue.

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tidemark_store::{Entropy, StoreSecond};
use tidemark_wal::{DatamonPath, DraftOperation, EntryDraft, Token};

use super::catalogue::{CONTEXTS, DemoRepo, FINDINGS, LABELS, REPOS, TEAM};

/// One update that the team makes.
#[derive(Clone, Debug)]
pub(super) struct PlannedUpdate {
    /// What it is, in words.
    pub(super) what: String,
    pub(super) draft: EntryDraft,
    /// Whether the writer completes it. Now and then a client dies in the middle of its work.
    pub(super) completed: bool,
    /// Changes of the catalogue once the update is committed.
    then: Vec<CatalogueChange>,
}

#[derive(Clone, Debug)]
enum CatalogueChange {
    Repo { repo_index: usize },
    Bundle { repo_index: usize, id: String },
    Label { repo_index: usize, label: usize, id: String },
    Context { context: usize },
    Diamond { repo_index: usize, diamond: Option<OpenDiamond> },
}

/// An update by several machines at once: each brings a split, and in the end all splits become one bundle.
#[derive(Clone, Debug)]
struct OpenDiamond {
    id: String,
    splits: u64,
    wanted: u64,
}

/// What is known of a repo.
#[derive(Clone, Debug, Default)]
struct RepoState {
    exists: bool,
    /// The newest bundle.
    newest: Option<String>,
    /// The bundle of each label, in the order of [`LABELS`].
    labels: [Option<String>; LABELS.len()],
    diamond: Option<OpenDiamond>,
}

/// Generates updates that fit the catalogue so far.
pub(super) struct WorkloadGenerator {
    rng: Entropy,
    ids: Entropy,
    repos: Vec<RepoState>,
    contexts: [bool; CONTEXTS.len()],
}

impl WorkloadGenerator {
    /// A workload that `rng` decides. Names come from `ids`, so that no two workloads share one.
    pub(super) fn new(rng: Entropy, ids: Entropy) -> Self {
        Self { rng, ids, repos: vec![RepoState::default(); REPOS.len()], contexts: Default::default() }
    }

    /// Names of what an earlier process may have made: paths of repos and contexts.
    pub(super) fn seeded_names() -> impl Iterator<Item = String> {
        let repos = REPOS.iter().map(|repo| format!("repos/{}/repo.yaml", repo.name));
        repos.chain(CONTEXTS.iter().map(|(name, _)| format!("contexts/{name}/context.yaml")))
    }

    /// Names of the labels that an earlier process may have moved.
    pub(super) fn labels() -> impl Iterator<Item = (&'static str, &'static str)> {
        REPOS.iter().flat_map(|repo| LABELS.iter().map(|label| (repo.name, *label)))
    }

    /// The landmark at `path` exists.
    pub(super) fn exists(&mut self, path: &str) {
        for (repo, known) in REPOS.iter().zip(&mut self.repos) {
            known.exists |= path == format!("repos/{}/repo.yaml", repo.name);
        }
        for ((name, _), known) in CONTEXTS.iter().zip(&mut self.contexts) {
            *known |= path == format!("contexts/{name}/context.yaml");
        }
    }

    /// A label of a repo names the bundle `id`.
    pub(super) fn set_label(&mut self, repo: &str, label: &str, id: &str) {
        let repo_index = REPOS.iter().position(|known| known.name == repo);
        let label = LABELS.iter().position(|known| *known == label);
        if let (Some(repo_index), Some(label)) = (repo_index, label) {
            self.apply(&[CatalogueChange::Label { repo_index, label, id: id.to_owned() }]);
            if label == 0 {
                self.repos[repo_index].newest = Some(id.to_owned());
            }
        }
    }

    /// The next update, at store time `now`.
    pub(super) fn next(&mut self, now: StoreSecond) -> PlannedUpdate {
        let repo_index = self.below(REPOS.len());
        if !self.repos[repo_index].exists {
            return self.repo(repo_index, now);
        }
        if self.repos[repo_index].diamond.is_some() && self.below(2) == 0 {
            return self.advance_diamond(repo_index, now);
        }
        match self.below(100) {
            0..5 => self.context(now),
            5..12 if self.repos[repo_index].diamond.is_none() => self.start_diamond(repo_index, now),
            12..20 => self.check(repo_index),
            20..25 => self.abandoned(repo_index, now),
            25..55 => self.label(repo_index, now).unwrap_or_else(|| self.bundle(repo_index, now)),
            _ => self.bundle(repo_index, now),
        }
    }

    /// The update is committed.
    pub(super) fn committed(&mut self, update: &PlannedUpdate) {
        self.apply(&update.then);
    }

    /// It is unknown whether the update is committed. A diamond is given up then: its next step may be taken.
    pub(super) fn failed(&mut self, update: &PlannedUpdate) {
        for change in &update.then {
            if let CatalogueChange::Diamond { repo_index, .. } = change {
                self.repos[*repo_index].diamond = None;
            }
        }
    }

    fn apply(&mut self, changes: &[CatalogueChange]) {
        for change in changes.iter().cloned() {
            match change {
                CatalogueChange::Repo { repo_index } => self.repos[repo_index].exists = true,
                CatalogueChange::Bundle { repo_index, id } => self.repos[repo_index].newest = Some(id),
                CatalogueChange::Label { repo_index, label, id } => self.repos[repo_index].labels[label] = Some(id),
                CatalogueChange::Context { context } => self.contexts[context] = true,
                CatalogueChange::Diamond { repo_index, diamond } => self.repos[repo_index].diamond = diamond,
            }
        }
    }

    fn repo(&self, repo_index: usize, now: StoreSecond) -> PlannedUpdate {
        let DemoRepo { name, description, .. } = REPOS[repo_index];
        let (who, contributor) = self.random_author();
        let place = DatamonPath::Repo { repo: name.to_owned() };
        let body =
            json!({"name": name, "description": description, "timestamp": now.to_string(), "contributor": contributor});
        PlannedUpdate::of(
            format!("repo {name}, by {who}"),
            [descriptor(&place, &body)],
            [CatalogueChange::Repo { repo_index }],
        )
    }

    fn context(&mut self, now: StoreSecond) -> PlannedUpdate {
        let context = self.below(CONTEXTS.len());
        if self.contexts[context] {
            let repo_index = (0..REPOS.len()).find(|index| self.repos[*index].exists).unwrap_or_default();
            return self.check(repo_index);
        }
        let (name, description) = CONTEXTS[context];
        let place = DatamonPath::Context { context: name.to_owned() };
        let body = json!({"name": name, "description": description, "timestamp": now.to_string(), "version": 1});
        PlannedUpdate::of(
            format!("context {name}"),
            [descriptor(&place, &body)],
            [CatalogueChange::Context { context }],
        )
    }

    fn bundle(&mut self, repo_index: usize, now: StoreSecond) -> PlannedUpdate {
        let (id, what, op) = self.bundle_of(repo_index, now, None);
        PlannedUpdate::of(what, [op], [CatalogueChange::Bundle { repo_index, id }])
    }

    /// A bundle whose client dies before it has written everything.
    fn abandoned(&mut self, repo_index: usize, now: StoreSecond) -> PlannedUpdate {
        let (_, what, op) = self.bundle_of(repo_index, now, None);
        PlannedUpdate { completed: false, ..PlannedUpdate::of(format!("{what}; abandoned"), [op], []) }
    }

    /// Id, words and descriptor of a new bundle.
    fn bundle_of(
        &mut self,
        repo_index: usize,
        now: StoreSecond,
        stage: Option<&str>,
    ) -> (String, String, DraftOperation) {
        let repo = REPOS[repo_index].name;
        let id = self.id(now);
        let message = self.message(&REPOS[repo_index]);
        let (who, contributor) = self.random_author();
        let parents: Vec<String> = self.repos[repo_index].newest.iter().cloned().collect();
        let body = json!({
            "leafSize": 2_097_152,
            "id": id,
            "message": message,
            "parents": parents,
            "timestamp": now.to_string(),
            "contributors": [contributor],
            "count": 1 + self.below(40),
            "version": 4,
            "deduplication": "blake",
            "runstage": stage.unwrap_or_default(),
        });
        let place = DatamonPath::Bundle { repo: repo.to_owned(), bundle: id.clone() };
        (id.clone(), format!("bundle {repo}/{id}: {message}, by {who}"), descriptor(&place, &body))
    }

    /// A label moved on to the bundle that earned the one before; `None` if all are where they belong.
    fn label(&self, repo_index: usize, now: StoreSecond) -> Option<PlannedUpdate> {
        let known = &self.repos[repo_index];
        let earned = |label: usize| if label == 0 { known.newest.as_ref() } else { known.labels[label - 1].as_ref() };
        let due = |label: &usize| earned(*label).is_some() && earned(*label) != known.labels[*label].as_ref();
        let due: Vec<usize> = (0..LABELS.len()).filter(due).collect();
        let label = *due.get(self.below(due.len().max(1)))?;
        let id = earned(label)?.clone();
        let (who, contributor) = self.random_author();
        let (repo, name) = (REPOS[repo_index].name.to_owned(), LABELS[label].to_owned());
        let body = json!({"name": name, "id": id, "timestamp": now.to_string(), "contributors": [contributor]});
        let what = format!("label {repo}/{name} moved to {id}, by {who}");
        let op = DraftOperation::Label { repo, label: name, bundle: id.clone(), body: yaml(&body) };
        Some(PlannedUpdate::of(what, [op], [CatalogueChange::Label { repo_index, label, id }]))
    }

    /// A check that changes nothing: the entry itself is the record.
    fn check(&self, repo_index: usize) -> PlannedUpdate {
        let repo = REPOS[repo_index].name;
        let (finding, (who, _)) = (FINDINGS[self.below(FINDINGS.len())], self.random_author());
        let attributes = Map::from_iter([
            ("check".to_owned(), Value::from("data quality")),
            ("repo".to_owned(), Value::from(repo)),
            ("finding".to_owned(), Value::from(finding)),
            ("by".to_owned(), Value::from(who)),
        ]);
        PlannedUpdate::of(format!("check of {repo}: {finding}"), [DraftOperation::Entry { attributes }], [])
    }

    fn start_diamond(&self, repo_index: usize, now: StoreSecond) -> PlannedUpdate {
        let repo = REPOS[repo_index].name;
        let id = self.id(now);
        let diamond = OpenDiamond { id: id.clone(), splits: 0, wanted: 2 + self.below(2) as u64 };
        let body = json!({"diamondID": id, "state": "initialized", "startTime": now.to_string(), "tag": "nightly"});
        let place = DatamonPath::Diamond { repo: repo.to_owned(), diamond: id.clone(), done: false };
        let what = format!("diamond {repo}/{id} started, for {} splits", diamond.wanted);
        PlannedUpdate::of(
            what,
            [descriptor(&place, &body)],
            [CatalogueChange::Diamond { repo_index, diamond: Some(diamond) }],
        )
    }

    /// The next split of a diamond; after the last one its bundle, together with its end.
    fn advance_diamond(&mut self, repo_index: usize, now: StoreSecond) -> PlannedUpdate {
        let Some(diamond) = self.repos[repo_index].diamond.clone() else { return self.bundle(repo_index, now) };
        let repo = REPOS[repo_index].name.to_owned();
        let OpenDiamond { id, splits, wanted } = diamond.clone();
        if splits < wanted {
            let split = self.id(now);
            let (who, contributor) = self.random_author();
            let body = json!({
                "splitID": split, "state": "done", "endTime": now.to_string(), "contributors": [contributor],
                "count": 1 + self.below(40),
            });
            let what = format!("split {} of {wanted} of diamond {repo}/{id}, by {who}", splits + 1);
            let place = DatamonPath::Split { repo, diamond: id, split, done: true };
            let diamond = Some(OpenDiamond { splits: splits + 1, ..diamond });
            return PlannedUpdate::of(
                what,
                [descriptor(&place, &body)],
                [CatalogueChange::Diamond { repo_index, diamond }],
            );
        }
        let (bundle, what, op) = self.bundle_of(repo_index, now, Some("diamond"));
        let body = json!({"diamondID": id, "state": "done", "endTime": now.to_string(), "bundleID": bundle});
        let place = DatamonPath::Diamond { repo, diamond: id.clone(), done: true };
        let then = [
            CatalogueChange::Bundle { repo_index, id: bundle },
            CatalogueChange::Diamond { repo_index, diamond: None },
        ];
        PlannedUpdate::of(format!("{what}; ends diamond {id}"), [op, descriptor(&place, &body)], then)
    }

    fn message(&self, repo: &DemoRepo) -> String {
        let message = repo.messages[self.below(repo.messages.len())];
        let place = repo.places[self.below(repo.places.len())];
        message.replace("{place}", place).replace("{number}", &(1 + self.below(52)).to_string())
    }

    /// A member's name, and the member as descriptors name contributors.
    fn random_author(&self) -> (&'static str, Value) {
        let member = &TEAM[self.below(TEAM.len())];
        (member.name, json!({"name": member.name, "email": member.email}))
    }

    /// A name that nothing bears: a KSUID, as Datamon's ids are.
    fn id(&self, now: StoreSecond) -> String {
        Token::new(now, &self.ids).to_string()
    }

    /// A number below `end`.
    fn below(&self, end: usize) -> usize {
        usize::from(u16::from_be_bytes(self.rng.bytes())) % end
    }
}

impl PlannedUpdate {
    fn of(what: String, ops: impl Into<Vec<DraftOperation>>, then: impl Into<Vec<CatalogueChange>>) -> Self {
        let draft = EntryDraft { ops: ops.into(), ..EntryDraft::default() };
        Self { what, draft, completed: true, then: then.into() }
    }
}

fn descriptor(place: &DatamonPath, body: &Value) -> DraftOperation {
    DraftOperation::Descriptor { path: place.path().unwrap_or_default(), body: yaml(body) }
}

fn yaml(body: &Value) -> Bytes {
    // Texts and numbers alone: there is nothing that YAML cannot hold.
    Bytes::from(serde_norway::to_string(body).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tidemark_wal::{parse_datamon_path, read_descriptor};

    use super::*;

    fn generate(seed: u64, updates: usize) -> Vec<PlannedUpdate> {
        let mut workload = WorkloadGenerator::new(Entropy::seeded(seed), Entropy::seeded(seed));
        let now = StoreSecond::from_unix(1_790_000_000);
        let mut generated = Vec::new();
        for n in 0..updates {
            let update = workload.next(now.after(std::time::Duration::from_secs(n as u64)));
            if update.completed {
                workload.committed(&update);
            }
            generated.push(update);
        }
        generated
    }

    #[test]
    fn every_descriptor_is_what_datamon_reads() {
        for update in generate(1, 2000) {
            for op in &update.draft.ops {
                let (path, body) = match op {
                    DraftOperation::Descriptor { path, body } => (path.clone(), body),
                    DraftOperation::Label { repo, label, body, .. } => {
                        (format!("labels/{repo}/{label}/label.yaml"), body)
                    }
                    DraftOperation::Entry { .. } => continue,
                };
                let place = parse_datamon_path(&path).unwrap();
                assert_ne!(place, DatamonPath::Other, "{path}");
                let read = read_descriptor(&place, body).unwrap();
                assert!(read.timestamp.is_some(), "{path}");
            }
        }
    }

    #[test]
    fn a_repo_comes_before_what_is_in_it_and_no_name_comes_twice() {
        let (mut repos, mut names) = (BTreeSet::new(), BTreeSet::new());
        for update in generate(2, 2000) {
            for op in &update.draft.ops {
                let DraftOperation::Descriptor { path, .. } = op else { continue };
                assert!(names.insert(path.clone()), "\"{path}\" comes twice");
                match parse_datamon_path(path).unwrap() {
                    DatamonPath::Repo { repo } => assert!(repos.insert(repo)),
                    DatamonPath::Bundle { repo, .. }
                    | DatamonPath::Diamond { repo, .. }
                    | DatamonPath::Split { repo, .. } => {
                        assert!(repos.contains(&repo), "{path}");
                    }
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn everything_happens_in_the_end() {
        let updates = generate(3, 500);
        for what in ["repo ", "bundle ", "label ", "context ", "diamond ", "split ", "check "] {
            assert!(updates.iter().any(|update| update.what.starts_with(what)), "{what}");
        }
        assert!(updates.iter().any(|update| !update.completed));
        assert!(updates.iter().any(|update| update.draft.ops.len() == 2), "a group");
    }

    #[test]
    fn one_seed_tells_one_story() {
        let words = |seed| generate(seed, 50).into_iter().map(|update| update.what).collect::<Vec<_>>();
        assert_eq!(words(4), words(4));
        assert_ne!(words(4), words(5));
    }

    #[test]
    fn what_is_there_already_is_not_made_again() {
        let mut workload = WorkloadGenerator::new(Entropy::seeded(6), Entropy::seeded(6));
        WorkloadGenerator::seeded_names().for_each(|path| workload.exists(&path));
        WorkloadGenerator::labels().for_each(|(repo, label)| workload.set_label(repo, label, "b"));
        for _ in 0..500 {
            let update = workload.next(StoreSecond::from_unix(1_790_000_000));
            assert!(!update.what.starts_with("repo ") && !update.what.starts_with("context "), "{}", update.what);
        }
    }
}
