//! What may come into the product, by `deny.toml`: licences, names and sources of every dependency, with every feature and
//! on every platform. `cargo deny` reads the same file and knows more, the texts of licences and advisories; but it takes
//! minutes to build, and advisories are in no package registry.
//!
//! And what each crate may stand on: the ingest on no search engine and no server, the product on one crypto stack.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use cargo_metadata::{CargoOpt, MetadataCommand, Package, semver::VersionReq};
use serde::{Deserialize, de::IgnoredAny};
use spdx::{Expression, Licensee, ParseMode};

/// `deny.toml`. A key or a value that this test does not know is an error: nothing is checked less than it says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DenyPolicy {
    /// All features are looked at.
    #[serde(rename = "graph")]
    _graph: IgnoredAny,
    licenses: LicensePolicy,
    bans: BanPolicy,
    sources: SourcePolicy,
    /// They need a database.
    #[serde(rename = "advisories")]
    _advisories: IgnoredAny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LicensePolicy {
    allow: Vec<String>,
    #[serde(default)]
    exceptions: Vec<LicenseException>,
    /// It is about texts.
    #[serde(rename = "confidence-threshold")]
    _confidence: IgnoredAny,
}

/// Licences that one crate may have besides.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LicenseException {
    #[serde(rename = "crate")]
    name: String,
    allow: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct BanPolicy {
    #[serde(rename = "multiple-versions")]
    _multiple_versions: AllowOnly,
    #[serde(rename = "wildcards")]
    _wildcards: DenyOnly,
    allow_wildcard_paths: bool,
    deny: Vec<BannedCrate>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BannedCrate {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
    /// Crates that may depend on it all the same.
    #[serde(default)]
    wrappers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct SourcePolicy {
    #[serde(rename = "unknown-registry")]
    _unknown_registry: DenyOnly,
    #[serde(rename = "unknown-git")]
    _unknown_git: DenyOnly,
    allow_registry: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum AllowOnly {
    Allow,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum DenyOnly {
    Deny,
}

fn policy() -> DenyPolicy {
    let text = std::fs::read_to_string(tidemark_tests::root().join("deny.toml")).expect("it is readable");
    toml_edit::de::from_str(&text).unwrap_or_else(|error| panic!("deny.toml: {error}"))
}

/// A package, and the names of the packages that depend on it directly.
struct UsedPackage {
    package: Package,
    dependents: BTreeSet<String>,
}

fn packages() -> Vec<UsedPackage> {
    let mut command = MetadataCommand::new();
    command.current_dir(tidemark_tests::root()).features(CargoOpt::AllFeatures);
    command.other_options(["--locked".to_owned()]);
    let metadata = command.exec().expect("cargo knows the workspace");
    let names: BTreeMap<_, _> =
        metadata.packages.iter().map(|package| (package.id.clone(), package.name.to_string())).collect();
    let mut dependents: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for node in metadata.resolve.expect("cargo has resolved it").nodes {
        for on in node.dependencies {
            dependents.entry(on).or_default().insert(names[&node.id].clone());
        }
    }
    let used =
        |package: Package| UsedPackage { dependents: dependents.remove(&package.id).unwrap_or_default(), package };
    metadata.packages.into_iter().map(used).collect()
}

/// What the policy says against a package.
fn objections(policy: &DenyPolicy, used: &UsedPackage) -> Vec<String> {
    let package = &used.package;
    let said = [
        against_license(&policy.licenses, package),
        against_name(&policy.bans, used),
        against_source(&policy.sources, package),
    ];
    let wildcards = against_wildcards(&policy.bans, package);
    said.into_iter()
        .flatten()
        .chain(wildcards)
        .map(|said| format!("{} {}: {said}", package.name, package.version))
        .collect()
}

fn against_license(policy: &LicensePolicy, package: &Package) -> Option<String> {
    let Some(license) = &package.license else { return Some("it names no licence".to_owned()) };
    let expression = match Expression::parse_mode(license, ParseMode::LAX) {
        Ok(expression) => expression,
        Err(error) => return Some(format!("its licence \"{license}\" is no expression of SPDX: {error}")),
    };
    let exceptions = policy.exceptions.iter().filter(|exception| exception.name == package.name.as_str());
    let allowed = policy.allow.iter().chain(exceptions.flat_map(|exception| &exception.allow));
    let allowed: Vec<_> =
        allowed.map(|name| Licensee::parse(name).expect("deny.toml names licences of SPDX")).collect();
    let accepted = expression.evaluate(|wanted| allowed.iter().any(|licensee| licensee.satisfies(wanted)));
    (!accepted).then(|| format!("its licence \"{license}\" is not allowed"))
}

fn against_name(policy: &BanPolicy, used: &UsedPackage) -> Option<String> {
    let ban = policy.deny.iter().find(|ban| ban.name == used.package.name.as_str())?;
    let dependents: Vec<_> = used.dependents.iter().filter(|name| !ban.wrappers.contains(name)).collect();
    let wrapped = dependents.is_empty() && !ban.wrappers.is_empty();
    (!wrapped).then(|| format!("it is banned, and {dependents:?} depend on it: {}", ban.reason))
}

/// A dependency of any version at all, but for a crate of this workspace.
fn against_wildcards<'a>(policy: &'a BanPolicy, package: &'a Package) -> impl Iterator<Item = String> {
    let ours = package.source.is_none();
    let wild = package.dependencies.iter().filter(move |on| ours && on.req == VersionReq::STAR);
    let wild = wild.filter(|on| !(policy.allow_wildcard_paths && on.path.is_some()));
    wild.map(|on| format!("it takes any version of \"{}\"", on.name))
}

fn against_source(policy: &SourcePolicy, package: &Package) -> Option<String> {
    // A crate of this workspace has none.
    let source = &package.source.as_ref()?.repr;
    let known =
        source.strip_prefix("registry+").is_some_and(|url| policy.allow_registry.iter().any(|allowed| allowed == url));
    (!known).then(|| format!("it comes from \"{source}\""))
}

#[test]
fn licences_names_and_sources_of_every_dependency_are_allowed() {
    let (policy, packages) = (policy(), packages());
    assert!(packages.len() > 100, "only {} packages were found", packages.len());
    let objections: Vec<_> = packages.iter().flat_map(|used| objections(&policy, used)).collect();
    assert!(objections.is_empty(), "deny.toml is against:\n{}", objections.join("\n"));
}

#[test]
fn what_deny_toml_is_against_is_found() {
    let (mut policy, packages) = (policy(), packages());
    policy
        .licenses
        .exceptions
        .push(LicenseException { name: "excepted".to_owned(), allow: vec!["GPL-3.0-only".to_owned()] });
    let package = |change: &dyn Fn(&mut serde_json::Value)| -> UsedPackage {
        let one = packages.iter().find(|used| used.package.name.as_str() == "serde").expect("it is there");
        let mut one = serde_json::to_value(&one.package).expect("it is JSON");
        change(&mut one);
        let package = serde_json::from_value(one).expect("it is a package");
        UsedPackage { package, dependents: ["rustls-webpki".to_owned()].into() }
    };
    let against = |change: &dyn Fn(&mut serde_json::Value)| objections(&policy, &package(change)).join("\n");
    let set = |key: &'static str, value: &'static str| move |one: &mut serde_json::Value| one[key] = value.into();
    assert_eq!(against(&|_| {}), "");
    assert_eq!(against(&set("license", "MIT/Apache-2.0")), "");
    assert_eq!(against(&set("license", "GPL-3.0-only OR (MIT AND Zlib)")), "");
    for license in ["GPL-3.0-only", "MIT AND GPL-3.0-only", "MIT WITH Bison-exception-2.2"] {
        assert!(against(&set("license", license)).contains("is not allowed"), "{license}");
    }
    assert!(against(&set("license", "my own")).contains("no expression of SPDX"));
    assert!(against(&|one| one["license"] = serde_json::Value::Null).contains("names no licence"));
    let excepted = |one: &mut serde_json::Value| {
        set("license", "GPL-3.0-only")(one);
        set("name", "excepted")(one);
    };
    assert_eq!(against(&excepted), "");
    assert!(
        against(&set("name", "openssl-sys"))
            .contains("it is banned, and [\"rustls-webpki\"] depend on it: TLS is rustls")
    );
    assert_eq!(against(&set("name", "ring")), "", "only a crate that may name it does");
    let mut ring = package(&set("name", "ring"));
    ring.dependents.insert("rustls".to_owned());
    assert!(objections(&policy, &ring).join("\n").contains("it is banned, and [\"rustls\"] depend on it"));
    for source in ["git+https://github.com/serde-rs/serde", "registry+https://example.org/index"] {
        assert!(against(&set("source", source)).contains(source), "{source}");
    }
    let wild = |path: serde_json::Value| {
        move |one: &mut serde_json::Value| {
            one["source"] = serde_json::Value::Null;
            one["dependencies"][0]["req"] = "*".into();
            one["dependencies"][0]["path"] = path.clone();
        }
    };
    assert!(against(&wild(serde_json::Value::Null)).contains("any version"));
    assert_eq!(against(&wild("/here".into())), "");
}

/// What programs of Linux are made of that are built of some packages of this workspace alone: each crate with its features.
/// `cargo metadata` would not do: it turns on what any crate of the workspace asks for.
fn linked(packages: &[&str]) -> BTreeMap<String, BTreeSet<String>> {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(tidemark_tests::root()).args(["tree", "--locked", "--edges", "normal", "--no-dedupe"]);
    command.args(["--target", "x86_64-unknown-linux-gnu", "--prefix", "none", "--format", "{p}\t{f}"]);
    command.args(packages.iter().flat_map(|package| ["--package", package]));
    let output = command.output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut crates: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in String::from_utf8(output.stdout).expect("text").lines().filter(|line| !line.is_empty()) {
        let (package, features) = line.split_once('\t').expect("the features follow");
        let name = package.split(' ').next().expect("a line begins with a name");
        let features = features.split(',').filter(|feature| !feature.is_empty());
        crates.entry(name.to_owned()).or_default().extend(features.map(str::to_owned));
    }
    for package in packages {
        assert!(crates.contains_key(*package), "cargo tree shows \"{package}\"");
    }
    crates
}

#[test]
fn ingest_and_simulation_stand_on_no_search_engine_and_no_server() {
    for package in ["tidemark-ingest", "tidemark-sim"] {
        let crates = linked(&[package]);
        for barred in ["tantivy", "axum", "utoipa"] {
            let found: Vec<_> = crates.keys().filter(|name| name.starts_with(barred)).collect();
            assert!(found.is_empty(), "{package} depends on {found:?}");
        }
        // The client of the object stores is made of the same crates as a server.
        for shared in ["hyper", "hyper-util"] {
            let serving: Vec<_> = crates[shared].iter().filter(|feature| feature.starts_with("server")).collect();
            assert!(serving.is_empty(), "{package} depends on {shared} with {serving:?}");
        }
    }
    let product = linked(&["tidemark-indexer"]);
    assert!(
        ["tantivy", "axum", "utoipa"].iter().all(|name| product.contains_key(*name)),
        "they are found where they are"
    );
    assert!(product["hyper"].contains("server"), "they are found where they are");
}

#[test]
fn the_product_has_one_crypto_stack() {
    let crates = linked(&["tidemark-indexer", "tidemark-operator"]);
    assert!(crates.contains_key("aws-lc-rs"), "{:?}", crates.keys());
    for other in ["ring", "openssl", "openssl-sys", "native-tls"] {
        assert!(!crates.contains_key(other), "{other} beside aws-lc-rs");
    }
}
