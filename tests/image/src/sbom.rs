//! What programs are made of, as a `CycloneDX` document.
//!
//! The graph is the one that `cargo tree` resolves for the programs alone. `cargo metadata` would name more: it turns on
//! the features that the workspace's tests ask for.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use anyhow::{Context, bail, ensure};
use cyclonedx_bom::{
    models::{
        component::Classification,
        dependency::{Dependencies, Dependency},
        hash::{Hash, HashAlgorithm, HashValue, Hashes},
        license::{LicenseChoice, Licenses},
        tool::{Tool, Tools},
    },
    prelude::{Bom, Component, Components, Metadata, Purl, SpdxExpression, SpecVersion, Validate},
};
use purl::GenericPurl;
use toml_edit::Document;

/// What the document is about.
#[derive(Clone, Debug)]
pub struct BillOfMaterials {
    /// The product's name.
    pub name: String,
    /// The packages of the workspace whose programs are in the product. The first one's version is the product's.
    pub packages: Vec<String>,
    /// The cargo features that the programs were built with, as cargo takes them; empty for none.
    pub features: String,
    /// Package URLs of what comes from the operating system, such as `pkg:deb/debian/libc6@2.36-9?distro=debian-12`.
    pub system: Vec<String>,
}

/// A crate by name and version.
type CrateVersion = (String, String);

/// What `cargo tree` says: each crate's licence, and what it depends on.
#[derive(Debug, Default, PartialEq)]
struct DependencyGraph {
    licences: BTreeMap<CrateVersion, String>,
    edges: BTreeMap<CrateVersion, BTreeSet<CrateVersion>>,
}

impl BillOfMaterials {
    /// The document for the workspace in `folder`, and for this machine's platform: every crate that the programs need
    /// at build time or later except those of build scripts and tests, with its licence and its checksum in the
    /// registry. It bears neither time nor serial number: the same lock file gives the same bytes.
    ///
    /// # Errors
    /// When cargo cannot resolve the workspace with its lock file as it is, or when the document is not valid.
    pub fn json(&self, folder: &Path) -> anyhow::Result<Vec<u8>> {
        let lock = folder.join("Cargo.lock");
        let lock = std::fs::read_to_string(&lock).with_context(|| format!("\"{}\" is not readable", lock.display()))?;
        let graph = DependencyGraph::parse(&tree(folder, &self.packages, &self.features)?)?;
        let bom = self.document(&graph, &checksums(&lock)?)?;
        let valid = bom.validate();
        ensure!(valid.passed(), "the document is not valid: {valid:?}");
        let mut bytes = Vec::new();
        bom.output_as_json(&mut bytes, SpecVersion::V1_5)?;
        Ok(bytes)
    }

    fn document(&self, graph: &DependencyGraph, checksums: &BTreeMap<CrateVersion, String>) -> anyhow::Result<Bom> {
        let roots = self.packages.iter().map(|package| graph.named(package)).collect::<anyhow::Result<Vec<_>>>()?;
        let (_, version) = roots.first().context("no package is named")?;
        let product = Component::new(Classification::Application, &self.name, version, Some(self.name.clone()));

        let mut components = Vec::new();
        for (krate, licence) in &graph.licences {
            let kind = if roots.contains(&krate) { Classification::Application } else { Classification::Library };
            components.push(component(krate, kind, licence, checksums.get(krate))?);
        }
        let mut below: Vec<_> = roots.into_iter().map(reference).collect();
        for url in &self.system {
            let component = system(url)?;
            below.extend(component.bom_ref.clone());
            components.push(component);
        }
        let mut dependencies = vec![Dependency { dependency_ref: self.name.clone(), dependencies: below }];
        dependencies.extend(graph.edges.iter().map(|(from, to)| Dependency {
            dependency_ref: reference(from),
            dependencies: to.iter().map(reference).collect(),
        }));
        Ok(Bom {
            serial_number: None,
            metadata: Some(Metadata {
                component: Some(product),
                tools: Some(Tools::List(vec![Tool::new("Tidemark", "sbom", env!("CARGO_PKG_VERSION"))])),
                ..Metadata::default()
            }),
            components: Some(Components(components)),
            dependencies: Some(Dependencies(dependencies)),
            spec_version: SpecVersion::V1_5,
            ..Bom::default()
        })
    }
}

impl DependencyGraph {
    /// Reads lines such as `2 quote v1.0.47<tab>MIT OR Apache-2.0`: the depth, the package, its licence.
    fn parse(tree: &str) -> anyhow::Result<Self> {
        let mut graph = Self::default();
        let mut above: Vec<CrateVersion> = Vec::new();
        for line in tree.lines().filter(|line| !line.is_empty()) {
            // A package that was shown before is marked, and shown without what is below it.
            let (package, licence) = line.trim_end_matches(" (*)").split_once('\t').context("a line has no licence")?;
            let mut words = package.split(' ');
            let (Some(depth), Some(name), Some(version)) = (words.next(), words.next(), words.next()) else {
                bail!("cargo tree printed \"{line}\"");
            };
            let krate = (name.to_owned(), version.trim_start_matches('v').to_owned());
            above.truncate(depth.parse().with_context(|| format!("cargo tree printed \"{line}\""))?);
            if let Some(parent) = above.last() {
                graph.edges.entry(parent.clone()).or_default().insert(krate.clone());
            }
            graph.edges.entry(krate.clone()).or_default();
            graph.licences.insert(krate.clone(), licence.to_owned());
            above.push(krate);
        }
        Ok(graph)
    }

    fn named(&self, package: &str) -> anyhow::Result<&CrateVersion> {
        let found = self.licences.keys().find(|(name, _)| name == package);
        found.with_context(|| format!("the workspace has no package \"{package}\""))
    }
}

fn tree(folder: &Path, packages: &[String], features: &str) -> anyhow::Result<String> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(folder).args(["tree", "--locked", "--edges", "normal", "--prefix", "depth"]);
    cargo.args(["--format", " {p}\t{l}"]).args(packages.iter().flat_map(|package| ["--package", package]));
    cargo.args(["--features", features]);
    let output = cargo.output().context("cargo does not start")?;
    ensure!(output.status.success(), "cargo tree failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// The registry's checksums; crates of the workspace have none.
fn checksums(lock: &str) -> anyhow::Result<BTreeMap<CrateVersion, String>> {
    let lock = Document::parse(lock).context("the lock file is not readable")?;
    let packages = lock.get("package").and_then(|packages| packages.as_array_of_tables());
    let packages = packages.context("the lock file has no packages")?;
    let text = |table: &toml_edit::Table, key| table.get(key).and_then(|value| value.as_str()).map(str::to_owned);
    let checksum = |table| Some(((text(table, "name")?, text(table, "version")?), text(table, "checksum")?));
    Ok(packages.iter().filter_map(checksum).collect())
}

fn reference((name, version): &CrateVersion) -> String {
    format!("{name}@{version}")
}

fn component(
    krate: &CrateVersion,
    kind: Classification,
    licence: &str,
    checksum: Option<&String>,
) -> anyhow::Result<Component> {
    let (name, version) = krate;
    let licence = (!licence.is_empty()).then(|| {
        // Old crates write "MIT/Apache-2.0".
        SpdxExpression::parse_lax(licence.to_owned())
            .map_or_else(|_| LicenseChoice::license(licence), LicenseChoice::Expression)
    });
    // What is in no registry has no URL there.
    let purl = checksum.map(|_| Purl::new("cargo", name, version)).transpose()?;
    let hash = |sha256: &String| Hash { alg: HashAlgorithm::SHA_256, content: HashValue(sha256.clone()) };
    Ok(Component {
        licenses: licence.map(|licence| Licenses(vec![licence])),
        hashes: checksum.map(|sha256| Hashes(vec![hash(sha256)])),
        purl,
        ..Component::new(kind, name, version, Some(reference(krate)))
    })
}

fn system(url: &str) -> anyhow::Result<Component> {
    let parsed: GenericPurl<String> = url.parse().with_context(|| format!("\"{url}\" is no package URL"))?;
    let version = parsed.version().with_context(|| format!("\"{url}\" has no version"))?;
    let url = parsed.to_string();
    Ok(Component {
        purl: url.parse().ok(),
        ..Component::new(Classification::Library, parsed.name(), version, Some(url))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn krate(name: &str) -> CrateVersion {
        (name.to_owned(), "1.0.0".to_owned())
    }

    #[test]
    fn a_tree_becomes_a_graph() {
        let tree = "0 a v1.0.0 (/somewhere/a)\tMIT\n1 b v1.0.0 (proc-macro)\tISC\n2 c v1.0.0\t\n1 d v1.0.0\tMIT\n\
            2 b v1.0.0 (proc-macro)\tISC (*)\n\n0 e v1.0.0 (/somewhere/e)\tMIT\n1 a v1.0.0 (/somewhere/a)\tMIT (*)\n";
        let graph = DependencyGraph::parse(tree).expect("it is one");
        let edges = [("a", vec!["b", "d"]), ("b", vec!["c"]), ("c", vec![]), ("d", vec!["b"]), ("e", vec!["a"])];
        let edges = edges.into_iter().map(|(from, to)| (krate(from), to.into_iter().map(krate).collect()));
        assert_eq!(graph.edges, edges.collect());
        assert_eq!(graph.licences[&krate("b")], "ISC");
        assert_eq!(graph.licences[&krate("c")], "");
        assert!(DependencyGraph::parse("a v1.0.0\tMIT").is_err(), "no depth");
        assert!(DependencyGraph::parse("0 a v1.0.0").is_err(), "no licence");
    }

    #[test]
    fn a_document_is_valid_and_says_where_each_part_is_from() {
        let tree = "0 a v1.0.0 (/somewhere/a)\tMIT\n1 b v1.0.0\tMIT/Apache-2.0\n1 c v1.0.0\tsome words\n";
        let graph = DependencyGraph::parse(tree).expect("it is one");
        let lock = format!("[[package]]\nname = \"b\"\nversion = \"1.0.0\"\nchecksum = \"{}\"\n", "ab".repeat(32));
        let system = "pkg:deb/debian/libc6@2.36-9+deb12u10?distro=debian-12";
        let sbom = BillOfMaterials {
            name: "p".to_owned(),
            packages: vec!["a".to_owned()],
            features: String::new(),
            system: vec![system.to_owned()],
        };
        let bom = sbom.document(&graph, &checksums(&lock).expect("a lock file")).expect("a document");
        assert!(bom.validate().passed(), "{:?}", bom.validate());
        let mut json = Vec::new();
        bom.output_as_json(&mut json, SpecVersion::V1_5).expect("it is written");
        let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        let purls: Vec<_> = (0..4).map(|n| json["components"][n]["purl"].as_str()).collect();
        assert_eq!(purls, [None, Some("pkg:cargo/b@1.0.0"), None, Some(system)]);
        assert_eq!(json["components"][1]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(json["components"][2]["licenses"][0]["license"]["name"], "some words");
        assert_eq!(json["components"][3]["version"], "2.36-9+deb12u10");
        assert_eq!(json["dependencies"][0]["dependsOn"], serde_json::json!(["a@1.0.0", system]));
        let missing = BillOfMaterials { packages: vec!["b".to_owned(), "z".to_owned()], ..sbom };
        assert!(missing.document(&graph, &BTreeMap::new()).is_err(), "no such package");
    }
}
