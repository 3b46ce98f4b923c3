//! The product's image, and that the Dockerfile makes the same one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use cyclonedx_bom::prelude::{Bom, Validate};
use serde_json::Value;
use tidemark_image::BillOfMaterials;
use tidemark_tests::cluster::images;

/// The repository's top folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("it is inside").to_owned()
}

/// The files of an archive with their modes.
fn files(archive: &[u8]) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().expect("an archive");
    let read = entries.map(|entry| {
        let mut entry = entry.expect("an entry");
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("its bytes");
        let path = entry.path().expect("its path").display().to_string();
        (path, (entry.header().mode().expect("its mode"), bytes))
    });
    read.collect()
}

/// The configuration and the layer of the image that `make image` writes.
async fn image() -> (Value, BTreeMap<String, (u32, Vec<u8>)>) {
    contents(&images::product().await.expect("it is built"))
}

/// The configuration and the layer of an image with one layer.
fn contents(archive: &Path) -> (Value, BTreeMap<String, (u32, Vec<u8>)>) {
    let archive = files(&fs::read(archive).expect("it is readable"));
    let parsed = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("JSON");
    let blob = |described: &Value| {
        let digest = described["digest"].as_str().expect("a digest").replace(':', "/");
        archive[&format!("blobs/{digest}")].1.clone()
    };
    let manifest = parsed(&blob(&parsed(&archive["index.json"].1)["manifests"][0]));
    (parsed(&blob(&manifest["config"])), files(&blob(&manifest["layers"][0])))
}

/// The instructions of the Dockerfile's last stage.
fn dockerfile() -> Vec<(String, String)> {
    let text = fs::read_to_string(root().join("Dockerfile")).expect("it is readable").replace("\\\n", "");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let words = lines.map(|line| line.split_once(' ').expect("an instruction and its words"));
    let all: Vec<_> = words.map(|(instruction, words)| (instruction.to_owned(), words.trim().to_owned())).collect();
    let last = all.iter().rposition(|(instruction, _)| instruction == "FROM").expect("it has a stage");
    all[last..].to_vec()
}

#[tokio::test]
async fn the_dockerfile_makes_the_same_image() {
    let (config, _) = image().await;
    let config = &config["config"];
    let stage = dockerfile();
    let of = |wanted: &str| -> Vec<&str> {
        stage.iter().filter(|(instruction, _)| instruction == wanted).map(|(_, words)| words.as_str()).collect()
    };
    assert_eq!(of("FROM"), ["scratch"]);
    // All files come from the one script that `make image` calls too.
    assert_eq!(of("COPY"), ["--from=build /rootfs/ /"]);
    let script = fs::read_to_string(root().join("Dockerfile")).expect("it is readable");
    assert!(script.contains("tests/tools/rootfs.sh /rootfs target/release target/debug\n"));
    assert_eq!(of("ADD").len() + of("RUN").len() + of("CMD").len(), 0, "{stage:?}");

    assert_eq!(of("USER"), [config["User"].as_str().expect("a user")]);
    assert_eq!(of("WORKDIR"), [config["WorkingDir"].as_str().expect("a folder")]);
    assert_eq!(serde_json::from_str::<Value>(of("ENTRYPOINT")[0]).expect("a list"), config["Entrypoint"]);
    let environment: BTreeSet<_> = config["Env"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert_eq!(of("ENV").into_iter().collect::<BTreeSet<_>>(), environment);
    let labels = of("LABEL").into_iter().map(|label| {
        let (key, value) = label.split_once('=').expect("a value");
        (key.to_owned(), Value::from(value.trim_matches('"')))
    });
    assert_eq!(labels.collect::<serde_json::Map<_, _>>(), *config["Labels"].as_object().expect("labels"));
}

#[tokio::test]
async fn it_holds_both_programs_what_they_load_and_nothing_to_climb_on() {
    let (config, files) = image().await;
    assert_eq!(config["config"]["User"], "65532:65532");
    for program in ["usr/bin/tidemark", "usr/bin/tidemark-operator"] {
        assert_eq!(files[program].0, 0o755, "{program}");
    }
    let programs: Vec<_> = files.keys().filter(|path| path.starts_with("usr/bin/")).collect();
    assert_eq!(programs.len(), 2, "no shell and no other program: {programs:?}");
    assert!(files.keys().any(|path| path.contains("ld-linux")), "the loader is there");
    assert!(files.keys().any(|path| path.ends_with("/libc.so.6")), "the C library is there");
    assert!(!files["etc/ssl/certs/ca-certificates.crt"].1.is_empty());
    assert!(String::from_utf8_lossy(&files["etc/passwd"].1).contains(":65532:65532:"));
    assert!(files["usr/share/doc/tidemark/LICENSE"].1.len() > 1000);
    for path in ["tmp", "var/cache/tidemark"] {
        assert_eq!(files[path].0 & 0o1777, 0o1777, "{path}");
    }
    let loose: Vec<_> = files.iter().filter(|(_, (mode, _))| mode & 0o6000 != 0).collect();
    assert!(loose.is_empty(), "nothing takes other rights than its caller's: {loose:?}");
}

/// What the image's `tidemark` says to a command line: whether it ends well, and its words.
fn said(image: &Path, arguments: &[&str]) -> (bool, String) {
    let (_, files) = contents(image);
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("tidemark");
    // Another process writes it: were it open for writing here while a test beside this one starts a child, the child would have it
    // open too, and Linux starts no program that somebody can write.
    let mut install =
        Command::new("install").args(["-m", "755", "/dev/stdin"]).arg(&program).stdin(Stdio::piped()).spawn();
    let install = install.as_mut().expect("install runs");
    install.stdin.take().expect("it is piped").write_all(&files["usr/bin/tidemark"].1).expect("it is read");
    assert!(install.wait().expect("it ends").success());
    let output = Command::new(&program).args(arguments).output().expect("it is of this machine");
    let words = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(words).expect("text"))
}

#[tokio::test]
async fn it_has_neither_the_demo_nor_the_import_of_git_and_that_of_the_demo_has_both() {
    let image = images::product().await.expect("it is built");
    let (known, words) = said(&image, &["demo", "--help"]);
    assert!(!known && words.contains("unrecognized subcommand 'demo'"), "{words}");
    let (known, words) = said(&image, &["dev", "--help"]);
    assert!(known && !words.contains("--git"), "{words}");

    let image = images::demo().await.expect("it is built");
    let (known, words) = said(&image, &["demo", "--help"]);
    assert!(known && words.contains("--every"), "{words}");
    let (known, words) = said(&image, &["dev", "--help"]);
    assert!(known && words.contains("--git"), "{words}");
}

/// Where the image says what it is made of.
const SBOM: &str = "usr/share/doc/tidemark/tidemark.cdx.json";

#[tokio::test]
async fn it_says_what_it_is_made_of() {
    let (_, files) = image().await;
    let bytes = &files[SBOM].1;
    let valid = Bom::parse_from_json(&bytes[..]).expect("it is CycloneDX").validate();
    assert!(valid.passed(), "{valid:?}");

    let sbom: Value = serde_json::from_slice(bytes).expect("JSON");
    let components = sbom["components"].as_array().expect("a list");
    let version = |name: &str| components.iter().find(|part| part["name"] == name).map(|part| part["version"].clone());
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("it is readable");
    for name in ["tidemark-wal", "tantivy", "kube", "object_store", "rustls"] {
        let version = version(name).unwrap_or_else(|| panic!("\"{name}\" is missing"));
        let locked = format!("name = \"{name}\"\nversion = {version}\n");
        assert!(lock.contains(&locked), "{name} {version}");
    }
    // Of the tests and of the demo; the last one is a feature of the product's own dependencies that only tests turn on.
    for name in ["tidemark-tests", "gix", "proptest", "s3s", "chromiumoxide", "cyclonedx-bom", "quinn"] {
        assert!(lock.contains(&format!("name = \"{name}\"\n")), "{name} exists");
        assert_eq!(version(name), None, "{name}");
    }

    let below: BTreeMap<_, _> = sbom["dependencies"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|from| (from["ref"].as_str(), from["dependsOn"].as_array().map(Vec::as_slice).unwrap_or_default()))
        .collect();
    let mut reached = BTreeSet::new();
    let mut next = vec![sbom["metadata"]["component"]["bom-ref"].as_str()];
    while let Some(part) = next.pop() {
        if reached.insert(part) {
            next.extend(below.get(&part).copied().unwrap_or_default().iter().map(Value::as_str));
        }
    }
    assert_eq!(reached.len(), components.len() + 1, "both programs lead to every part");
}

#[test]
fn what_it_is_made_of_does_not_depend_on_when_and_where() {
    let packages = ["tidemark-indexer", "tidemark-operator"].map(str::to_owned).to_vec();
    let sbom = BillOfMaterials { name: "tidemark".to_owned(), packages, features: String::new(), system: Vec::new() };
    let made = || sbom.json(&root()).expect("cargo knows the workspace");
    let first = made();
    assert!(first == made(), "twice the same");
    let here = root().display().to_string();
    assert!(!String::from_utf8_lossy(&first).contains(&here), "nothing names \"{here}\"");
}
