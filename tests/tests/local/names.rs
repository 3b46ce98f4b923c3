//! The house's rule for names of types: one name stands once in a crate, so that one `git grep` finds what it means.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use tidemark_tests::root;

/// The sources of the product's crates.
const SOURCES: [&str; 8] = [
    "crds/src",
    "operator/src",
    "indexer/src",
    "indexer/store/src",
    "indexer/wal/src",
    "indexer/catalog/src",
    "indexer/ingest/src",
    "indexer/search/src",
];

/// Where a crate's types are defined: by name, each file as often as it defines the name.
type TypeDefinitions = BTreeMap<String, Vec<PathBuf>>;

/// The Rust files of a folder and of those in it.
fn rust_files(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("\"{}\": {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("it is readable").path());
    paths
        .flat_map(|path| match path.extension() {
            _ if path.is_dir() => rust_files(&path),
            Some(extension) if extension == "rs" => [path].into(),
            _ => BTreeSet::new(),
        })
        .collect()
}

/// The modules in files of their own that a file declares for tests only.
fn test_modules(file: &Path, text: &str) -> Vec<PathBuf> {
    let stem = file.file_stem().and_then(|stem| stem.to_str()).expect("a file has a name");
    let beside = file.parent().expect("a file is in a folder");
    let folder = if ["lib", "main", "mod"].contains(&stem) { beside.to_owned() } else { beside.join(stem) };
    let lines = text.lines().zip(text.lines().skip(1)).filter(|(line, _)| line.trim() == "#[cfg(test)]");
    let modules =
        lines.filter_map(|(_, next)| next.trim().strip_suffix(';')?.rsplit_once("mod ")).map(|(_, name)| name);
    modules.map(|name| folder.join(name)).collect()
}

/// The name of the type that a line defines, if it defines one. An indented alias belongs to a trait or its
/// implementation.
fn type_name(line: &str) -> Option<&str> {
    let code = line.trim_start();
    let visible = code.strip_prefix("pub").map_or(code, |rest| match rest.strip_prefix('(') {
        Some(rest) => rest.split_once(')').map_or(rest, |(_, rest)| rest),
        None => rest,
    });
    let (keyword, rest) = visible.trim_start().split_once(' ')?;
    let defines =
        ["struct", "enum", "trait", "union"].contains(&keyword) || keyword == "type" && code.len() == line.len();
    let name = rest.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next()?;
    (defines && name.starts_with(char::is_uppercase)).then_some(name)
}

/// The lines of a file without the modules of tests in it.
fn product_lines(text: &str) -> impl Iterator<Item = &str> {
    let mut skipped_until: Option<String> = None;
    let mut before = "";
    text.lines().filter(move |line| {
        if let Some(end) = &skipped_until {
            if *line == end.as_str() {
                skipped_until = None;
            }
            return false;
        }
        // As rustfmt writes it: the module ends with a brace below its first letter.
        let indent = &line[..line.len() - line.trim_start().len()];
        let tests = before.trim() == "#[cfg(test)]" && line.contains("mod ") && line.ends_with('{');
        if tests {
            skipped_until = Some(format!("{indent}}}"));
        }
        before = line;
        !tests
    })
}

fn types_of(source: &Path) -> TypeDefinitions {
    let files = rust_files(source);
    let texts: Vec<_> = files.iter().map(|file| (file, fs::read_to_string(file).expect("it is text"))).collect();
    let tests: Vec<_> = texts.iter().flat_map(|(file, text)| test_modules(file, text)).collect();
    let product =
        texts.iter().filter(|(file, _)| !tests.iter().any(|module| file.with_extension("").starts_with(module)));
    let mut types = TypeDefinitions::new();
    for (file, text) in product {
        for name in product_lines(text).filter_map(type_name) {
            types.entry(name.to_owned()).or_default().push((*file).clone());
        }
    }
    types
}

#[test]
fn no_name_of_a_type_stands_twice_in_a_crate() {
    let mut found = 0;
    let mut twice = Vec::new();
    for source in SOURCES {
        let types = types_of(&root().join(source));
        assert!(types.len() > 10, "only {types:?} were found in \"{source}\"");
        found += types.len();
        twice.extend(types.into_iter().filter(|(_, files)| files.len() > 1));
    }
    assert!(found > 500, "only {found} types were found");
    assert!(twice.is_empty(), "give each type a name that no other type of its crate has: {twice:#?}");
}

#[test]
fn types_of_the_product_are_found_and_those_of_tests_are_not() {
    let text = "pub struct One;\nimpl T for One {\n    type Assoc = u8;\n}\nfn f() {\n    enum Two {}\n}\n\
        pub(crate) type Three<T> = Vec<T>;\npub(in crate::a) trait Four: Copy {}\nstructural();\n\
        #[cfg(test)]\nmod tests {\n    struct Hidden;\n}\nstruct Five(u8);\n#[cfg(test)]\npub(crate) mod testing;\n";
    let names: Vec<_> = product_lines(text).filter_map(type_name).collect();
    assert_eq!(names, ["One", "Two", "Three", "Four", "Five"]);
    assert_eq!(test_modules(Path::new("src/a.rs"), text), [Path::new("src/a/testing")]);
    assert_eq!(test_modules(Path::new("src/lib.rs"), text), [Path::new("src/testing")]);
}
