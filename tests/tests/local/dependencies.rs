//! What may come into the product, by `deny.toml`: licences, names and sources of every dependency, with every feature and
//! on every platform. `cargo deny` reads the same file and knows more, the texts of licences and advisories; but it takes
//! minutes to build, and advisories are in no package registry.

use cargo_metadata::{CargoOpt, MetadataCommand, Package, semver::VersionReq};
use serde::{Deserialize, de::IgnoredAny};
use spdx::{Expression, Licensee, ParseMode};

/// `deny.toml`. A key or a value that this test does not know is an error: nothing is checked less than it says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
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
    _multiple_versions: Allow,
    #[serde(rename = "wildcards")]
    _wildcards: Deny,
    allow_wildcard_paths: bool,
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct SourcePolicy {
    #[serde(rename = "unknown-registry")]
    _unknown_registry: Deny,
    #[serde(rename = "unknown-git")]
    _unknown_git: Deny,
    allow_registry: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Allow {
    Allow,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Deny {
    Deny,
}

fn policy() -> Policy {
    let text = std::fs::read_to_string(tidemark_tests::root().join("deny.toml")).expect("it is readable");
    toml_edit::de::from_str(&text).unwrap_or_else(|error| panic!("deny.toml: {error}"))
}

fn packages() -> Vec<Package> {
    let mut command = MetadataCommand::new();
    command.current_dir(tidemark_tests::root()).features(CargoOpt::AllFeatures);
    command.other_options(["--locked".to_owned()]);
    command.exec().expect("cargo knows the workspace").packages
}

/// What the policy says against a package.
fn objections(policy: &Policy, package: &Package) -> Vec<String> {
    let said = [
        against_license(&policy.licenses, package),
        against_name(&policy.bans, package),
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

fn against_name(policy: &BanPolicy, package: &Package) -> Option<String> {
    let ban = policy.deny.iter().find(|ban| ban.name == package.name.as_str())?;
    Some(format!("it is banned: {}", ban.reason))
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
    let objections: Vec<_> = packages.iter().flat_map(|package| objections(&policy, package)).collect();
    assert!(objections.is_empty(), "deny.toml is against:\n{}", objections.join("\n"));
}

#[test]
fn what_deny_toml_is_against_is_found() {
    let (mut policy, packages) = (policy(), packages());
    policy
        .licenses
        .exceptions
        .push(LicenseException { name: "excepted".to_owned(), allow: vec!["GPL-3.0-only".to_owned()] });
    let package = |change: &dyn Fn(&mut serde_json::Value)| -> Package {
        let one = packages.iter().find(|package| package.name.as_str() == "serde").expect("it is there");
        let mut one = serde_json::to_value(one).expect("it is JSON");
        change(&mut one);
        serde_json::from_value(one).expect("it is a package")
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
    assert!(against(&set("name", "openssl-sys")).contains("it is banned: TLS is rustls"));
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
