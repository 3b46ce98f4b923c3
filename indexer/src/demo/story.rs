//! What happens next: a pure story, from dice and the state of the catalogue.

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tidemark_store::{Entropy, StoreSecond};
use tidemark_wal::{DatamonPath, DraftOperation, EntryDraft, Token};

use super::catalogue::{CONTEXTS, FINDINGS, LABELS, SHELVES, Shelf, TEAM};

/// One update that the team makes.
#[derive(Clone, Debug)]
pub(super) struct Chapter {
    /// What it is, in words.
    pub(super) what: String,
    pub(super) draft: EntryDraft,
    /// Whether somebody completes it. Now and then a client dies in the middle of its work.
    pub(super) completed: bool,
    /// What is so once it is committed.
    then: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Repo { shelf: usize },
    Bundle { shelf: usize, id: String },
    Label { shelf: usize, label: usize, id: String },
    Context { context: usize },
    Diamond { shelf: usize, diamond: Option<Diamond> },
}

/// An update by several machines at once: each brings a split, and in the end all splits become one bundle.
#[derive(Clone, Debug)]
struct Diamond {
    id: String,
    splits: u64,
    wanted: u64,
}

/// What is known of a repo.
#[derive(Clone, Debug, Default)]
struct Known {
    exists: bool,
    /// The newest bundle.
    newest: Option<String>,
    /// The bundle of each label, in the order of [`LABELS`].
    labels: [Option<String>; LABELS.len()],
    diamond: Option<Diamond>,
}

/// The story so far.
pub(super) struct Story {
    dice: Entropy,
    ids: Entropy,
    shelves: Vec<Known>,
    contexts: [bool; CONTEXTS.len()],
}

impl Story {
    /// A story that `dice` decide. Names come from `ids`, so that no two stories share one.
    pub(super) fn new(dice: Entropy, ids: Entropy) -> Self {
        Self { dice, ids, shelves: vec![Known::default(); SHELVES.len()], contexts: Default::default() }
    }

    /// Names of what an earlier process may have made: paths of repos and contexts.
    pub(super) fn landmarks() -> impl Iterator<Item = String> {
        let repos = SHELVES.iter().map(|shelf| format!("repos/{}/repo.yaml", shelf.name));
        repos.chain(CONTEXTS.iter().map(|(name, _)| format!("contexts/{name}/context.yaml")))
    }

    /// Names of the labels that an earlier process may have moved.
    pub(super) fn labels() -> impl Iterator<Item = (&'static str, &'static str)> {
        SHELVES.iter().flat_map(|shelf| LABELS.iter().map(|label| (shelf.name, *label)))
    }

    /// The landmark at `path` exists.
    pub(super) fn exists(&mut self, path: &str) {
        for (shelf, known) in SHELVES.iter().zip(&mut self.shelves) {
            known.exists |= path == format!("repos/{}/repo.yaml", shelf.name);
        }
        for ((name, _), known) in CONTEXTS.iter().zip(&mut self.contexts) {
            *known |= path == format!("contexts/{name}/context.yaml");
        }
    }

    /// A label of a repo names the bundle `id`.
    pub(super) fn labelled(&mut self, repo: &str, label: &str, id: &str) {
        let shelf = SHELVES.iter().position(|shelf| shelf.name == repo);
        let label = LABELS.iter().position(|known| *known == label);
        if let (Some(shelf), Some(label)) = (shelf, label) {
            self.happened(&[Change::Label { shelf, label, id: id.to_owned() }]);
            if label == 0 {
                self.shelves[shelf].newest = Some(id.to_owned());
            }
        }
    }

    /// The next update, at store time `now`.
    pub(super) fn next(&mut self, now: StoreSecond) -> Chapter {
        let shelf = self.below(SHELVES.len());
        if !self.shelves[shelf].exists {
            return self.repo(shelf, now);
        }
        if self.shelves[shelf].diamond.is_some() && self.below(2) == 0 {
            return self.go_on_with_diamond(shelf, now);
        }
        match self.below(100) {
            0..5 => self.context(now),
            5..12 if self.shelves[shelf].diamond.is_none() => self.start_diamond(shelf, now),
            12..20 => self.check(shelf),
            20..25 => self.abandoned(shelf, now),
            25..55 => self.label(shelf, now).unwrap_or_else(|| self.bundle(shelf, now)),
            _ => self.bundle(shelf, now),
        }
    }

    /// The update is committed.
    pub(super) fn committed(&mut self, chapter: &Chapter) {
        self.happened(&chapter.then);
    }

    /// Nobody knows whether the update is committed. A diamond is given up then: its next step may be taken.
    pub(super) fn failed(&mut self, chapter: &Chapter) {
        for change in &chapter.then {
            if let Change::Diamond { shelf, .. } = change {
                self.shelves[*shelf].diamond = None;
            }
        }
    }

    fn happened(&mut self, changes: &[Change]) {
        for change in changes.iter().cloned() {
            match change {
                Change::Repo { shelf } => self.shelves[shelf].exists = true,
                Change::Bundle { shelf, id } => self.shelves[shelf].newest = Some(id),
                Change::Label { shelf, label, id } => self.shelves[shelf].labels[label] = Some(id),
                Change::Context { context } => self.contexts[context] = true,
                Change::Diamond { shelf, diamond } => self.shelves[shelf].diamond = diamond,
            }
        }
    }

    fn repo(&self, shelf: usize, now: StoreSecond) -> Chapter {
        let Shelf { name, description, .. } = SHELVES[shelf];
        let (who, contributor) = self.somebody();
        let place = DatamonPath::Repo { repo: name.to_owned() };
        let body =
            json!({"name": name, "description": description, "timestamp": now.to_string(), "contributor": contributor});
        Chapter::of(format!("repo {name}, by {who}"), [descriptor(&place, &body)], [Change::Repo { shelf }])
    }

    fn context(&mut self, now: StoreSecond) -> Chapter {
        let context = self.below(CONTEXTS.len());
        if self.contexts[context] {
            let shelf = (0..SHELVES.len()).find(|shelf| self.shelves[*shelf].exists).unwrap_or_default();
            return self.check(shelf);
        }
        let (name, description) = CONTEXTS[context];
        let place = DatamonPath::Context { context: name.to_owned() };
        let body = json!({"name": name, "description": description, "timestamp": now.to_string(), "version": 1});
        Chapter::of(format!("context {name}"), [descriptor(&place, &body)], [Change::Context { context }])
    }

    fn bundle(&mut self, shelf: usize, now: StoreSecond) -> Chapter {
        let (id, what, op) = self.bundle_of(shelf, now, None);
        Chapter::of(what, [op], [Change::Bundle { shelf, id }])
    }

    /// A bundle whose client dies before it has written everything.
    fn abandoned(&mut self, shelf: usize, now: StoreSecond) -> Chapter {
        let (_, what, op) = self.bundle_of(shelf, now, None);
        Chapter { completed: false, ..Chapter::of(format!("{what}; abandoned"), [op], []) }
    }

    /// Id, words and descriptor of a new bundle.
    fn bundle_of(&mut self, shelf: usize, now: StoreSecond, stage: Option<&str>) -> (String, String, DraftOperation) {
        let repo = SHELVES[shelf].name;
        let id = self.id(now);
        let message = self.message(&SHELVES[shelf]);
        let (who, contributor) = self.somebody();
        let parents: Vec<String> = self.shelves[shelf].newest.iter().cloned().collect();
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
    fn label(&self, shelf: usize, now: StoreSecond) -> Option<Chapter> {
        let known = &self.shelves[shelf];
        let earned = |label: usize| if label == 0 { known.newest.as_ref() } else { known.labels[label - 1].as_ref() };
        let due = |label: &usize| earned(*label).is_some() && earned(*label) != known.labels[*label].as_ref();
        let due: Vec<usize> = (0..LABELS.len()).filter(due).collect();
        let label = *due.get(self.below(due.len().max(1)))?;
        let id = earned(label)?.clone();
        let (who, contributor) = self.somebody();
        let (repo, name) = (SHELVES[shelf].name.to_owned(), LABELS[label].to_owned());
        let body = json!({"name": name, "id": id, "timestamp": now.to_string(), "contributors": [contributor]});
        let what = format!("label {repo}/{name} moved to {id}, by {who}");
        let op = DraftOperation::Label { repo, label: name, bundle: id.clone(), body: yaml(&body) };
        Some(Chapter::of(what, [op], [Change::Label { shelf, label, id }]))
    }

    /// A check that changes nothing: the entry itself is the record.
    fn check(&self, shelf: usize) -> Chapter {
        let repo = SHELVES[shelf].name;
        let (finding, (who, _)) = (FINDINGS[self.below(FINDINGS.len())], self.somebody());
        let attributes = Map::from_iter([
            ("check".to_owned(), Value::from("data quality")),
            ("repo".to_owned(), Value::from(repo)),
            ("finding".to_owned(), Value::from(finding)),
            ("by".to_owned(), Value::from(who)),
        ]);
        Chapter::of(format!("check of {repo}: {finding}"), [DraftOperation::Entry { attributes }], [])
    }

    fn start_diamond(&self, shelf: usize, now: StoreSecond) -> Chapter {
        let repo = SHELVES[shelf].name;
        let id = self.id(now);
        let diamond = Diamond { id: id.clone(), splits: 0, wanted: 2 + self.below(2) as u64 };
        let body = json!({"diamondID": id, "state": "initialized", "startTime": now.to_string(), "tag": "nightly"});
        let place = DatamonPath::Diamond { repo: repo.to_owned(), diamond: id.clone(), done: false };
        let what = format!("diamond {repo}/{id} started, for {} splits", diamond.wanted);
        Chapter::of(what, [descriptor(&place, &body)], [Change::Diamond { shelf, diamond: Some(diamond) }])
    }

    /// The next split of a diamond; after the last one its bundle, together with its end.
    fn go_on_with_diamond(&mut self, shelf: usize, now: StoreSecond) -> Chapter {
        let Some(diamond) = self.shelves[shelf].diamond.clone() else { return self.bundle(shelf, now) };
        let repo = SHELVES[shelf].name.to_owned();
        let Diamond { id, splits, wanted } = diamond.clone();
        if splits < wanted {
            let split = self.id(now);
            let (who, contributor) = self.somebody();
            let body = json!({
                "splitID": split, "state": "done", "endTime": now.to_string(), "contributors": [contributor],
                "count": 1 + self.below(40),
            });
            let what = format!("split {} of {wanted} of diamond {repo}/{id}, by {who}", splits + 1);
            let place = DatamonPath::Split { repo, diamond: id, split, done: true };
            let diamond = Some(Diamond { splits: splits + 1, ..diamond });
            return Chapter::of(what, [descriptor(&place, &body)], [Change::Diamond { shelf, diamond }]);
        }
        let (bundle, what, op) = self.bundle_of(shelf, now, Some("diamond"));
        let body = json!({"diamondID": id, "state": "done", "endTime": now.to_string(), "bundleID": bundle});
        let place = DatamonPath::Diamond { repo, diamond: id.clone(), done: true };
        let then = [Change::Bundle { shelf, id: bundle }, Change::Diamond { shelf, diamond: None }];
        Chapter::of(format!("{what}; ends diamond {id}"), [op, descriptor(&place, &body)], then)
    }

    fn message(&self, shelf: &Shelf) -> String {
        let message = shelf.messages[self.below(shelf.messages.len())];
        let place = shelf.places[self.below(shelf.places.len())];
        message.replace("{place}", place).replace("{number}", &(1 + self.below(52)).to_string())
    }

    /// A member's name, and the member as descriptors name contributors.
    fn somebody(&self) -> (&'static str, Value) {
        let member = &TEAM[self.below(TEAM.len())];
        (member.name, json!({"name": member.name, "email": member.email}))
    }

    /// A name that nothing bears: a KSUID, as Datamon's ids are.
    fn id(&self, now: StoreSecond) -> String {
        Token::new(now, &self.ids).to_string()
    }

    /// A number below `end`.
    fn below(&self, end: usize) -> usize {
        usize::from(u16::from_be_bytes(self.dice.bytes())) % end
    }
}

impl Chapter {
    fn of(what: String, ops: impl Into<Vec<DraftOperation>>, then: impl Into<Vec<Change>>) -> Self {
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

    fn told(seed: u64, chapters: usize) -> Vec<Chapter> {
        let mut story = Story::new(Entropy::seeded(seed), Entropy::seeded(seed));
        let now = StoreSecond::from_unix(1_790_000_000);
        let mut told = Vec::new();
        for n in 0..chapters {
            let chapter = story.next(now.after(std::time::Duration::from_secs(n as u64)));
            if chapter.completed {
                story.committed(&chapter);
            }
            told.push(chapter);
        }
        told
    }

    #[test]
    fn every_descriptor_is_what_datamon_reads() {
        for chapter in told(1, 2000) {
            for op in &chapter.draft.ops {
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
        for chapter in told(2, 2000) {
            for op in &chapter.draft.ops {
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
        let told = told(3, 500);
        for what in ["repo ", "bundle ", "label ", "context ", "diamond ", "split ", "check "] {
            assert!(told.iter().any(|chapter| chapter.what.starts_with(what)), "{what}");
        }
        assert!(told.iter().any(|chapter| !chapter.completed));
        assert!(told.iter().any(|chapter| chapter.draft.ops.len() == 2), "a group");
    }

    #[test]
    fn one_seed_tells_one_story() {
        let words = |seed| told(seed, 50).into_iter().map(|chapter| chapter.what).collect::<Vec<_>>();
        assert_eq!(words(4), words(4));
        assert_ne!(words(4), words(5));
    }

    #[test]
    fn what_is_there_already_is_not_made_again() {
        let mut story = Story::new(Entropy::seeded(6), Entropy::seeded(6));
        Story::landmarks().for_each(|path| story.exists(&path));
        Story::labels().for_each(|(repo, label)| story.labelled(repo, label, "b"));
        for _ in 0..500 {
            let chapter = story.next(StoreSecond::from_unix(1_790_000_000));
            assert!(!chapter.what.starts_with("repo ") && !chapter.what.starts_with("context "), "{}", chapter.what);
        }
    }
}
