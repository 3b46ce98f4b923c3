//! The house's rule for names of types: one name stands once in a crate, so that one `git grep` finds what it means.
//!
//! Counted is each `struct`, `enum`, `trait`, `union`, and each `type` outside of braces: within them it belongs to a trait or its
//! implementation.

use std::collections::BTreeMap;

use crate::product_sources::{CrateSources, product_crates};

/// Where a crate's types are defined: by name, each file as often as it defines the name.
type TypeDefinitions = BTreeMap<String, Vec<String>>;

fn types_of(sources: &CrateSources) -> TypeDefinitions {
    let mut types = TypeDefinitions::new();
    for (file, words) in &sources.files {
        let mut depth = 0_usize;
        for (word, next) in words.iter().zip(words.iter().skip(1)) {
            match word.as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            let defines = ["struct", "enum", "trait", "union"].contains(&word.as_str()) || word == "type" && depth == 0;
            if defines && next.starts_with(char::is_uppercase) {
                types.entry(next.clone()).or_default().push(file.clone());
            }
        }
    }
    types
}

fn defined_twice(types: TypeDefinitions) -> TypeDefinitions {
    types.into_iter().filter(|(_, files)| files.len() > 1).collect()
}

#[test]
fn no_name_of_a_type_stands_twice_in_a_crate() {
    let mut found = 0;
    let mut twice = Vec::new();
    for sources in product_crates() {
        let types = types_of(&sources);
        assert!(types.len() > 10, "only {types:?} were found in {}", sources.name);
        found += types.len();
        twice.extend(
            defined_twice(types).into_iter().map(|(name, files)| format!("{}: {name} in {files:?}", sources.name)),
        );
    }
    assert!(found > 500, "only {found} types were found");
    assert!(twice.is_empty(), "give each type a name that no other type of its crate has:\n{}", twice.join("\n"));
}

#[test]
fn a_name_that_stands_twice_is_found() {
    let lib = "pub struct One; impl T for One { type Assoc = u8; } fn f() { enum Two {} } pub(crate) type Three<T> = Vec<T>;\n\
        pub(in crate::a) trait Four: Copy {} structural(); #[cfg(test)] mod tests { struct Hidden; } struct Five(u8);";
    let sources =
        CrateSources::from_texts("planted", [("lib.rs", lib), ("a.rs", "union Two {} type Assoc = u8; trait Six {}")]);
    let types = types_of(&sources);
    assert_eq!(types.keys().collect::<Vec<_>>(), ["Assoc", "Five", "Four", "One", "Six", "Three", "Two"]);
    assert_eq!(
        defined_twice(types),
        TypeDefinitions::from([("Two".to_owned(), vec!["a.rs".to_owned(), "lib.rs".to_owned()])])
    );
}
