//! Datamon's layout of metadata: which descriptor lives where, and what it says.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{client_time::ClientTime, malformed::MalformedInput, yaml::read_yaml};

/// Longest path of a descriptor in bytes: the longest key that any store takes. One that a store takes no more with its prefix, or
/// as the name of a file, is absent there.
const MAX_PATH_BYTES: usize = 1024;

/// What a descriptor describes, as its path says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatamonPath {
    /// `repos/{repo}/repo.yaml`
    Repo {
        /// Name of the repo.
        repo: String,
    },
    /// `bundles/{repo}/{bundle}/bundle.yaml`
    Bundle {
        /// Name of the repo.
        repo: String,
        /// Id of the bundle.
        bundle: String,
    },
    /// `labels/{repo}/{label}/label.yaml`: the one key that is overwritten. A label's name may have slashes.
    Label {
        /// Name of the repo.
        repo: String,
        /// Name of the label.
        label: String,
    },
    /// `contexts/{context}/context.yaml`
    Context {
        /// Name of the context.
        context: String,
    },
    /// `diamonds/{repo}/{diamond}/diamond-{running,done}.yaml`
    Diamond {
        /// Name of the repo.
        repo: String,
        /// Id of the diamond.
        diamond: String,
        /// Whether it is the descriptor of its final state.
        done: bool,
    },
    /// `diamonds/{repo}/{diamond}/splits/{split}/split-{running,done}.yaml`
    Split {
        /// Name of the repo.
        repo: String,
        /// Id of the diamond.
        diamond: String,
        /// Id of the split.
        split: String,
        /// Whether it is the descriptor of its final state.
        done: bool,
    },
    /// Any other path.
    Other,
}

/// What the descriptor at `path` describes. Refuses paths that must not reach a metadata store: absolute ones,
/// empty segments, `.` and `..`, backslashes outside of a name in Datamon's layout, control characters, overlong ones, and
/// Tidemark's own prefix.
pub fn parse_datamon_path(path: &str) -> Result<DatamonPath, MalformedInput> {
    let segments: Vec<&str> = path.split('/').collect();
    let found = layout(&segments);
    check_path(path, &segments, found == DatamonPath::Other)?;
    Ok(found)
}

/// Whether the text is a path of Datamon's layout, which has names of any characters.
pub(crate) fn has_datamon_layout(text: &str) -> bool {
    let segments: Vec<&str> = text.split('/').collect();
    layout(&segments) != DatamonPath::Other
}

fn layout(segments: &[&str]) -> DatamonPath {
    let own = |text: &str| text.to_owned();
    match *segments {
        ["repos", repo, "repo.yaml"] => DatamonPath::Repo { repo: own(repo) },
        ["bundles", repo, bundle, "bundle.yaml"] => DatamonPath::Bundle { repo: own(repo), bundle: own(bundle) },
        ["labels", repo, ref label @ .., "label.yaml"] if !label.is_empty() => {
            DatamonPath::Label { repo: own(repo), label: label.join("/") }
        }
        ["contexts", context, "context.yaml"] => DatamonPath::Context { context: own(context) },
        ["diamonds", repo, diamond, file @ ("diamond-running.yaml" | "diamond-done.yaml")] => {
            DatamonPath::Diamond { repo: own(repo), diamond: own(diamond), done: file == "diamond-done.yaml" }
        }
        ["diamonds", repo, diamond, "splits", split, file @ ("split-running.yaml" | "split-done.yaml")] => {
            DatamonPath::Split {
                repo: own(repo),
                diamond: own(diamond),
                split: own(split),
                done: file == "split-done.yaml",
            }
        }
        _ => DatamonPath::Other,
    }
}

fn check_path(path: &str, segments: &[&str], is_other: bool) -> Result<(), MalformedInput> {
    let refused = |why: &str| {
        let shown: String = path.chars().take(200).collect();
        Err(MalformedInput::new(format!("{shown:?} is not the path of a descriptor: {why}")))
    };
    if path.is_empty() || segments.contains(&"") {
        return refused("it has an empty segment");
    }
    if path.split(['/', '\\']).any(|segment| matches!(segment, "." | "..")) {
        return refused("it climbs out of its prefix");
    }
    if is_other && path.contains('\\') || path.chars().any(char::is_control) {
        return refused("it has a backslash or a control character");
    }
    if path.len() > MAX_PATH_BYTES {
        return refused("it is too long");
    }
    if segments[0] == ".tidemark" {
        return refused("the prefix is Tidemark's own");
    }
    Ok(())
}

impl DatamonPath {
    /// The path of the descriptor; `None` for [`DatamonPath::Other`].
    pub fn path(&self) -> Option<String> {
        let state = |done: &bool| if *done { "done" } else { "running" };
        Some(match self {
            Self::Repo { repo } => format!("repos/{repo}/repo.yaml"),
            Self::Bundle { repo, bundle } => format!("bundles/{repo}/{bundle}/bundle.yaml"),
            Self::Label { repo, label } => format!("labels/{repo}/{label}/label.yaml"),
            Self::Context { context } => format!("contexts/{context}/context.yaml"),
            Self::Diamond { repo, diamond, done } => {
                format!("diamonds/{repo}/{diamond}/diamond-{}.yaml", state(done))
            }
            Self::Split { repo, diamond, split, done } => {
                format!("diamonds/{repo}/{diamond}/splits/{split}/split-{}.yaml", state(done))
            }
            Self::Other => return None,
        })
    }

    /// Whether the descriptor may be overwritten.
    pub fn is_mutable(&self) -> bool {
        matches!(self, Self::Label { .. })
    }

    /// What the descriptor calls the thing that it describes, and what its path calls it.
    fn named(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::Repo { repo } => Some(("name", repo)),
            Self::Bundle { bundle, .. } => Some(("id", bundle)),
            Self::Label { label, .. } => Some(("name", label)),
            Self::Context { context } => Some(("name", context)),
            Self::Diamond { diamond, .. } => Some(("diamondID", diamond)),
            Self::Split { split, .. } => Some(("splitID", split)),
            Self::Other => None,
        }
    }
}

/// The entity whose history an operation belongs to: all operations with the same key are about the same thing.
pub fn entity_key(path: &DatamonPath) -> Option<String> {
    Some(match path {
        DatamonPath::Repo { repo } => format!("repo/{repo}"),
        DatamonPath::Bundle { repo, bundle } => format!("bundle/{repo}/{bundle}"),
        DatamonPath::Label { repo, label } => format!("label/{repo}/{label}"),
        DatamonPath::Context { context } => format!("context/{context}"),
        DatamonPath::Diamond { repo, diamond, .. } => format!("diamond/{repo}/{diamond}"),
        DatamonPath::Split { repo, diamond, split, .. } => format!("split/{repo}/{diamond}/{split}"),
        DatamonPath::Other => return None,
    })
}

/// Who contributed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Contributor {
    /// Name, may be empty.
    pub name: String,
    /// Address, may be empty.
    pub email: String,
}

/// What a descriptor says. Fields that its kind does not have are absent; everything is in `raw`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DatamonDescriptor {
    /// `id` of a bundle; of a label, the bundle that it names; `diamondID`, `splitID`.
    pub id: Option<String>,
    /// `name` of a repo, label or context.
    pub name: Option<String>,
    /// `message` of a bundle.
    pub message: Option<String>,
    /// `description` of a repo.
    pub description: Option<String>,
    /// Parents of a bundle.
    pub parents: Vec<String>,
    /// The client's own time; `endTime`, else `startTime`, of diamonds and splits. Never decides anything.
    pub timestamp: Option<ClientTime>,
    /// `contributors`, or the one `contributor` of a repo.
    pub contributors: Vec<Contributor>,
    /// Bytes of a leaf of a bundle's blobs.
    pub leaf_size: Option<u64>,
    /// Bytes of everything in a bundle, where the writer says so.
    pub size: Option<u64>,
    /// How many file lists a bundle or split has.
    pub count: Option<u64>,
    /// Version of the model.
    pub version: Option<u64>,
    /// Deduplication scheme of a bundle.
    pub deduplication: Option<String>,
    /// Run stage of a bundle.
    pub run_stage: Option<String>,
    /// State of a diamond or split.
    pub state: Option<String>,
    /// The bundle that a diamond became.
    pub bundle: Option<String>,
    /// The whole descriptor.
    pub raw: Value,
}

/// The fields whose type is part of what a descriptor is.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireDescriptor {
    id: Option<String>,
    #[serde(rename = "diamondID")]
    diamond_id: Option<String>,
    #[serde(rename = "splitID")]
    split_id: Option<String>,
    #[serde(rename = "bundleID")]
    bundle_id: Option<String>,
    name: Option<String>,
    message: Option<String>,
    description: Option<String>,
    parents: Option<Vec<Option<String>>>,
    timestamp: Option<String>,
    start_time: Option<String>,
    end_time: Option<String>,
    contributors: Option<Vec<Option<WireContributor>>>,
    contributor: Option<WireContributor>,
    deduplication: Option<String>,
    runstage: Option<String>,
    state: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireContributor {
    name: Option<String>,
    email: Option<String>,
}

impl WireContributor {
    fn take_text_of(&mut self, raw: &Value) {
        take_text(&mut self.name, &raw["name"]);
        take_text(&mut self.email, &raw["email"]);
    }
}

fn take_text(field: &mut Option<String>, raw: &Value) {
    if let Some(text) = raw.as_str() {
        *field = Some(text.to_owned());
    }
}

impl From<WireContributor> for Contributor {
    fn from(WireContributor { name, email }: WireContributor) -> Self {
        Self { name: name.unwrap_or_default(), email: email.unwrap_or_default() }
    }
}

impl WireDescriptor {
    /// As Go reads it: a number or a truth value where text is wanted is the text that it was written as, and a null is none.
    fn read(text: &str, raw: &Value) -> Result<Self, MalformedInput> {
        // The values were read within bounds, so that the text can be read again.
        Self::deserialize(raw)
            .or_else(|_| serde_norway::from_str(text).map(|wire: Self| wire.with_text_of(raw)))
            .map_err(|error| MalformedInput::new(format!("the descriptor is not what its kind says: {error}")))
    }

    /// Text where `raw` has text too: what follows from tags was read only there.
    fn with_text_of(mut self, raw: &Value) -> Self {
        let fields = [
            ("id", &mut self.id),
            ("diamondID", &mut self.diamond_id),
            ("splitID", &mut self.split_id),
            ("bundleID", &mut self.bundle_id),
            ("name", &mut self.name),
            ("message", &mut self.message),
            ("description", &mut self.description),
            ("timestamp", &mut self.timestamp),
            ("startTime", &mut self.start_time),
            ("endTime", &mut self.end_time),
            ("deduplication", &mut self.deduplication),
            ("runstage", &mut self.runstage),
            ("state", &mut self.state),
        ];
        for (name, field) in fields {
            take_text(field, &raw[name]);
        }
        for (number, parent) in self.parents.iter_mut().flatten().enumerate() {
            take_text(parent, &raw["parents"][number]);
        }
        for (number, person) in self.contributors.iter_mut().flatten().enumerate() {
            if let Some(person) = person {
                person.take_text_of(&raw["contributors"][number]);
            }
        }
        if let Some(person) = &mut self.contributor {
            person.take_text_of(&raw["contributor"]);
        }
        self
    }

    /// What it calls the thing that it describes.
    fn named(&self, field: &str) -> Option<&str> {
        let text = match field {
            "id" => &self.id,
            "diamondID" => &self.diamond_id,
            "splitID" => &self.split_id,
            _ => &self.name,
        };
        text.as_deref()
    }
}

/// Reads the descriptor at `path`, in YAML.
///
/// It is malformed when it is no mapping, when a field has another type than its kind says, or when it names another
/// thing than its path does. Such a descriptor still completes its operation, since that rests on its existence alone.
pub fn read_descriptor(path: &DatamonPath, body: &[u8]) -> Result<DatamonDescriptor, MalformedInput> {
    let text = std::str::from_utf8(body).map_err(|_| MalformedInput::new("the descriptor is not UTF-8 text"))?;
    let raw = read_yaml(text)?;
    if !raw.is_object() {
        return Err(MalformedInput::new("the descriptor is not a mapping"));
    }
    let wire = WireDescriptor::read(text, &raw)?;
    if let Some((field, expected)) = path.named() {
        check_name(wire.named(field), field, expected)?;
    }
    Ok(DatamonDescriptor::of(wire, raw))
}

/// A list of files as far as it is read.
#[derive(Deserialize)]
struct WireFileList {
    #[serde(rename = "BundleEntries", default)]
    entries: Vec<WireFile>,
}

#[derive(Deserialize)]
struct WireFile {
    name: String,
}

/// The paths in a `bundle-files-{n}.yaml`, the list of some files of a bundle.
pub(crate) fn read_file_list(body: &[u8]) -> Result<Vec<String>, MalformedInput> {
    let text = std::str::from_utf8(body).map_err(|_| MalformedInput::new("the list is not UTF-8 text"))?;
    let list: WireFileList = serde_json::from_value(read_yaml(text)?)
        .map_err(|error| MalformedInput::new(format!("it is not a list of files: {error}")))?;
    Ok(list.entries.into_iter().map(|file| file.name).collect())
}

/// A name that is there must be the path's; Datamon leaves empty ones out.
fn check_name(found: Option<&str>, field: &str, expected: &str) -> Result<(), MalformedInput> {
    match found {
        Some(found) if !found.is_empty() && found != expected => {
            let shown: String = found.chars().take(200).collect();
            Err(MalformedInput::new(format!("the descriptor's {field} is {shown:?}, its path says {expected:?}")))
        }
        _ => Ok(()),
    }
}

impl DatamonDescriptor {
    fn of(wire: WireDescriptor, raw: Value) -> Self {
        let number = |field: &str| raw.get(field).and_then(Value::as_u64);
        let times = [wire.timestamp, wire.end_time, wire.start_time];
        let contributors = match wire.contributors {
            Some(several) => several.into_iter().map(|one| one.unwrap_or_default().into()).collect(),
            None => wire.contributor.into_iter().map(Contributor::from).collect(),
        };
        let (leaf_size, size, count, version) =
            (number("leafSize"), number("size"), number("count"), number("version"));
        Self {
            id: wire.id.or(wire.diamond_id).or(wire.split_id),
            name: wire.name,
            message: wire.message,
            description: wire.description,
            parents: wire.parents.into_iter().flatten().map(Option::unwrap_or_default).collect(),
            timestamp: times.iter().flatten().find_map(|text| client_time(text)),
            contributors,
            leaf_size,
            size,
            count,
            version,
            deduplication: wire.deduplication,
            run_stage: wire.runstage,
            state: wire.state,
            bundle: wire.bundle_id,
            raw,
        }
    }
}

/// A time as Go prints it; its zero time, the first second of the year 1, means none, as does what is no time.
fn client_time(text: &str) -> Option<ClientTime> {
    let time: ClientTime = text.trim().parse().ok()?;
    (time.as_second() > -62_135_596_800).then_some(time)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BUNDLE: &str = "leafSize: 2097152\nid: 1INzQ5TV4vAAfU2PbRFgPfnzEwR\nmessage: first\nparents:\n- p\n\
        timestamp: 2019-03-12T22:10:24.159704Z\ncontributors:\n- name: Ada\n  email: ada@example.org\ncount: 3\nversion: 4\n\
        deduplication: blake\nrunstage: \"\"\n";

    fn bundle() -> DatamonPath {
        DatamonPath::Bundle { repo: "r".to_owned(), bundle: "1INzQ5TV4vAAfU2PbRFgPfnzEwR".to_owned() }
    }

    #[test]
    fn reads_a_bundle() {
        let read = read_descriptor(&bundle(), BUNDLE.as_bytes()).unwrap();
        assert_eq!(read.message.as_deref(), Some("first"));
        assert_eq!(read.parents, ["p"]);
        assert_eq!(read.timestamp, Some("2019-03-12T22:10:24.159704Z".parse().unwrap()));
        assert_eq!(read.contributors[0].email, "ada@example.org");
        assert_eq!((read.leaf_size, read.count, read.version), (Some(2_097_152), Some(3), Some(4)));
    }

    #[test]
    fn reads_the_other_kinds() {
        let repo = read_descriptor(
            &parse_datamon_path("repos/r/repo.yaml").unwrap(),
            b"name: r\ndescription: d\ncontributor: {name: n, email: e}\ntimestamp: 0001-01-01T00:00:00Z\n",
        );
        let repo = repo.unwrap();
        assert_eq!((repo.description.as_deref(), repo.timestamp), (Some("d"), None));
        assert_eq!(repo.contributors[0].name, "n");
        let label =
            read_descriptor(&parse_datamon_path("labels/r/v1/label.yaml").unwrap(), b"id: b\ncontributors: []\n")
                .unwrap();
        assert_eq!(label.id.as_deref(), Some("b"));
        let diamond = parse_datamon_path("diamonds/r/d/diamond-done.yaml").unwrap();
        let diamond =
            read_descriptor(&diamond, b"diamondID: d\nstartTime: 2020-01-01T00:00:00Z\nstate: done\nbundleID: b\n");
        let diamond = diamond.unwrap();
        assert_eq!((diamond.state.as_deref(), diamond.bundle.as_deref()), (Some("done"), Some("b")));
        assert!(diamond.timestamp.is_some());
        // A cancelled diamond made no bundle.
        let diamond = parse_datamon_path("diamonds/r/d/diamond-done.yaml").unwrap();
        let diamond = read_descriptor(&diamond, b"diamondID: d\nstartTime: 2020-01-01T00:00:00Z\nstate: canceled\n");
        let diamond = diamond.unwrap();
        assert_eq!((diamond.state.as_deref(), diamond.bundle.as_deref()), (Some("canceled"), None));
    }

    #[test]
    fn refuses_what_is_not_what_its_kind_says() {
        for body in ["", "- a list", "text", "id: another", "message: [1]", "contributors: 5", "\u{0}", "id: {a: b}"] {
            assert!(read_descriptor(&bundle(), body.as_bytes()).is_err(), "{body:?}");
        }
        assert!(read_descriptor(&bundle(), &[0xff, 0xfe]).is_err());
    }

    #[test]
    fn scalars_where_text_is_wanted_are_read_as_go_reads_them() {
        let body = "id: 1INzQ5TV4vAAfU2PbRFgPfnzEwR\nmessage: 42\nparents: [7, ~]\ncontributors:\n- name: 1.50\n  email:\n\
            - ~\n- {name: true}\nrunstage: ~\n";
        let read = read_descriptor(&bundle(), body.as_bytes()).unwrap();
        assert_eq!((read.message.as_deref(), read.run_stage), (Some("42"), None));
        assert_eq!(read.parents, ["7", ""]);
        let person = |name: &str| Contributor { name: name.to_owned(), email: String::new() };
        assert_eq!(read.contributors, [person("1.50"), person(""), person("true")]);
        let label = parse_datamon_path("labels/r/0x1F/label.yaml").unwrap();
        assert_eq!(read_descriptor(&label, b"name: 0x1F\n").unwrap().name.as_deref(), Some("0x1F"));
        assert!(read_descriptor(&label, b"name: 31\n").is_err());
    }

    #[test]
    fn text_that_is_no_utf_8_is_decoded() {
        let body =
            b"message: !!binary bGF0aW4xIGNhZuk=\ncontributors:\n- name: !!binary |\n    bGF0aW4x\n    IGNhZuk=\n\
            description: \"not !!binary here\"\n";
        let read = read_descriptor(&bundle(), body).unwrap();
        assert_eq!(read.message.as_deref(), Some("latin1 caf\u{fffd}"));
        assert_eq!(read.contributors[0].name, "latin1 caf\u{fffd}");
        assert_eq!(read.description.as_deref(), Some("not !!binary here"));
        let beside_a_number =
            b"message: !!binary bGF0aW4xIGNhZuk=\nrunstage: 7\nparents: [!!binary bGF0aW4x, 1.50]\ncontributors:\n\
            - name: !!binary bGF0aW4xIGNhZuk=\n  email: 5\n";
        let read = read_descriptor(&bundle(), beside_a_number).unwrap();
        assert_eq!(read.message.as_deref(), Some("latin1 caf\u{fffd}"));
        assert_eq!(
            (read.run_stage.as_deref(), read.parents),
            (Some("7"), vec!["latin1".to_owned(), "1.50".to_owned()])
        );
        assert_eq!(
            (read.contributors[0].name.as_str(), read.contributors[0].email.as_str()),
            ("latin1 caf\u{fffd}", "5")
        );
        assert!(read_descriptor(&bundle(), b"message: !!binary '?'\n").is_err());
        assert!(read_descriptor(&bundle(), b"message: !other x\n").is_err());
    }

    #[test]
    fn names_in_datamons_layout_may_have_any_characters() {
        let label = |label: &str| Ok(DatamonPath::Label { repo: "r".to_owned(), label: label.to_owned() });
        for name in ["with space", "nb\u{a0}sp", "back\\slash", "sub/label", "label.yaml", &"x".repeat(1000)] {
            let path = format!("labels/r/{name}/label.yaml");
            assert_eq!(parse_datamon_path(&path), label(name));
            assert_eq!(parse_datamon_path(&path).unwrap().path(), Some(path));
        }
        for name in ["tab\there", "..", "a/../b", "..\\x", "", "a//b"] {
            assert!(parse_datamon_path(&format!("labels/r/{name}/label.yaml")).is_err(), "{name}");
        }
        assert_eq!(parse_datamon_path("labels/r/label.yaml"), Ok(DatamonPath::Other));
    }

    #[test]
    fn refuses_paths_that_climb_out() {
        for path in [
            "",
            "/",
            "/bundles/r/b/bundle.yaml",
            "../x.yaml",
            "bundles/../../x.yaml",
            "bundles//b/bundle.yaml",
            "a/./b.yaml",
            "bundles/r/b/",
            "a\\b.yaml",
            "a/\0.yaml",
            "a/\n.yaml",
            ".tidemark/root/1",
            "..",
        ] {
            assert!(parse_datamon_path(path).is_err(), "{path:?}");
        }
        assert!(parse_datamon_path(&"x".repeat(1025)).is_err() && parse_datamon_path(&"x".repeat(1024)).is_ok());
        assert!(parse_datamon_path(&"x/".repeat(600)).is_err());
    }

    proptest! {
        #[test]
        fn paths_round_trip(a in "[a-zA-Z0-9_.-]{1,20}x", b in "[^/\\\\.\\p{C}]{1,20}", done: bool) {
            let (repo, diamond, split) = (a.clone(), b.clone(), a.clone());
            for one in [
                DatamonPath::Repo { repo: a.clone() },
                DatamonPath::Bundle { repo: a.clone(), bundle: b.clone() },
                DatamonPath::Label { repo: a.clone(), label: b.clone() },
                DatamonPath::Context { context: a.clone() },
                DatamonPath::Diamond { repo: repo.clone(), diamond: diamond.clone(), done },
                DatamonPath::Split { repo, diamond, split, done },
            ] {
                prop_assert_eq!(parse_datamon_path(&one.path().unwrap()).unwrap(), one);
            }
        }

        #[test]
        fn any_path_is_read_without_a_panic(path: String) {
            if let Ok(found) = parse_datamon_path(&path) {
                prop_assert!(found == DatamonPath::Other || found.path() == Some(path));
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(body: Vec<u8>) {
            let _ = read_descriptor(&bundle(), &body);
        }

        #[test]
        fn damaged_descriptors_are_read_without_a_panic(at in 0usize..200, with in proptest::collection::vec(any::<u8>(), 0..4)) {
            let mut body = BUNDLE.as_bytes().to_vec();
            let at = at.min(body.len());
            body.splice(at..(at + with.len()).min(body.len()), with);
            let _ = read_descriptor(&bundle(), &body);
        }
    }
}
