//! The product's source files as tokens, without what is compiled for tests only. Comments, texts and the layout of lines are gone,
//! so that a rule over the sources is a search in a list of words.

use std::{
    collections::BTreeMap,
    fs,
    iter::Peekable,
    path::{Path, PathBuf},
};

use cargo_metadata::MetadataCommand;
use proc_macro2::{Delimiter, Group, Spacing, TokenStream, TokenTree, token_stream};

/// One crate of the product.
pub(crate) struct CrateSources {
    pub(crate) name: String,
    /// The words of each file, by its path in the crate's `src`: identifiers, signs (`::` is one), brackets; a literal
    /// is `""`, unless it is a path.
    pub(crate) files: BTreeMap<String, Vec<String>>,
}

impl CrateSources {
    /// The sources of a crate whose files, by path in `src`, have these texts.
    pub(crate) fn from_texts<'a>(name: &str, texts: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut test_modules = Vec::new();
        let mut files = BTreeMap::new();
        for (path, text) in texts {
            let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{name}: \"{path}\": {error}"));
            let mut file = SourceWords::default();
            file.read(tokens);
            test_modules.extend(file.test_modules.iter().map(|module| children_folder(path).join(module)));
            files.insert(path.to_owned(), file.words);
        }
        files.retain(|path, _| {
            let module = Path::new(path).with_extension("");
            !test_modules.iter().any(|test_module| module.starts_with(test_module))
        });
        Self { name: name.to_owned(), files }
    }
}

/// The crates that a plain `cargo build` builds.
pub(crate) fn product_crates() -> Vec<CrateSources> {
    let mut command = MetadataCommand::new();
    command.current_dir(tidemark_tests::root()).no_deps().other_options(["--locked".to_owned()]);
    let metadata = command.exec().expect("cargo knows the workspace");
    let packages = metadata.workspace_default_packages();
    let crates = packages.into_iter().map(|package| {
        let source = package.manifest_path.parent().expect("a manifest is in a folder").join("src");
        let files = rust_files(source.as_std_path());
        let texts: Vec<_> = files.iter().map(|file| fs::read_to_string(file).expect("it is text")).collect();
        let path_in_source = |file: &'_ PathBuf| {
            let path = file.strip_prefix(&source).expect("it is in the folder");
            path.to_str().expect("a source's path is text").to_owned()
        };
        let paths: Vec<_> = files.iter().map(path_in_source).collect();
        let texts = paths.iter().map(String::as_str).zip(texts.iter().map(String::as_str));
        CrateSources::from_texts(&package.name, texts)
    });
    crates.collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("\"{}\": {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("it is readable").path());
    paths
        .flat_map(|path| match path.extension() {
            _ if path.is_dir() => rust_files(&path),
            Some(extension) if extension == "rs" => vec![path],
            _ => Vec::new(),
        })
        .collect()
}

/// The folder of the modules that a file declares.
fn children_folder(path: &str) -> PathBuf {
    let path = Path::new(path).with_extension("");
    if ["lib", "main", "mod"].iter().any(|stem| path.ends_with(stem)) {
        path.parent().expect("it has a name").to_owned()
    } else {
        path
    }
}

/// What is read of one file.
#[derive(Default)]
struct SourceWords {
    words: Vec<String>,
    /// The modules in files of their own that are declared for tests only.
    test_modules: Vec<String>,
}

impl SourceWords {
    fn read(&mut self, tokens: TokenStream) {
        let mut tokens = tokens.into_iter().peekable();
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Punct(mark) if mark.as_char() == '#' => {
                    tokens.next_if(|token| matches!(token, TokenTree::Punct(mark) if mark.as_char() == '!'));
                    let Some(TokenTree::Group(attribute)) = tokens.peek() else { continue };
                    match text_without_spaces(attribute) {
                        documentation if documentation.starts_with("[doc=") => drop(tokens.next()),
                        condition if is_for_tests(&condition) => self.skip_item(&mut tokens),
                        _ => {}
                    }
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' && mark.spacing() == Spacing::Joint => {
                    tokens.next();
                    self.words.push("::".to_owned());
                }
                TokenTree::Group(group) => {
                    let (open, close) = match group.delimiter() {
                        Delimiter::Parenthesis => ("(", ")"),
                        Delimiter::Brace => ("{", "}"),
                        Delimiter::Bracket => ("[", "]"),
                        Delimiter::None => ("", ""),
                    };
                    self.words.push(open.to_owned());
                    self.read(group.stream());
                    self.words.push(close.to_owned());
                }
                TokenTree::Literal(literal) => match path_in(&literal.to_string()) {
                    Some(path) => self.read(path),
                    None => self.words.push("\"\"".to_owned()),
                },
                TokenTree::Ident(_) | TokenTree::Punct(_) => self.words.push(token.to_string()),
            }
        }
    }

    /// Leaves out what an attribute for tests stands before: up to its body, its semicolon, or the comma behind a field.
    fn skip_item(&mut self, tokens: &mut Peekable<token_stream::IntoIter>) {
        let mut before: Option<String> = None;
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Punct(mark) if mark.as_char() == ';' || mark.as_char() == ',' => return,
                TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => return,
                TokenTree::Ident(name) => {
                    let declared = matches!(tokens.peek(), Some(TokenTree::Punct(mark)) if mark.as_char() == ';');
                    if declared && before.as_deref() == Some("mod") {
                        self.test_modules.push(name.to_string());
                    }
                    before = Some(name.to_string());
                }
                _ => {}
            }
        }
    }
}

fn text_without_spaces(group: &Group) -> String {
    group.to_string().split_whitespace().collect()
}

/// Whether an attribute is `cfg(test)`, or `cfg` of `any` or `all` that begins with `test`.
fn is_for_tests(attribute: &str) -> bool {
    let after = |start: &str| attribute.strip_prefix(start).is_some_and(|rest| rest.starts_with([',', ')']));
    ["[cfg(test", "[cfg(any(test", "[cfg(all(test"].into_iter().any(after)
}

/// The path that a literal is, as in `#[serde(with = "crate::text")]`.
fn path_in(literal: &str) -> Option<TokenStream> {
    let path = literal.strip_prefix('"')?.strip_suffix('"')?;
    let is_path = path.contains("::") && path.chars().all(|letter| letter.is_alphanumeric() || "_:".contains(letter));
    if is_path { path.parse().ok() } else { None }
}

#[test]
fn what_is_for_tests_only_is_left_out() {
    let lib = r#"
        //! use crate::comment;
        #[cfg(test)]
        mod fakes;
        #[cfg(any(test, feature = "x"))]
        #[derive(Debug)]
        struct Hidden { field: u8 }
        struct Shown {
            #[cfg(test)]
            hidden: u8,
            /// Documented by crate::text.
            #[serde(with = "crate::text")]
            shown: [u8; 2],
        }
        #[cfg(not(test))]
        fn text() { "see crate::literal" }
    "#;
    let texts =
        [("lib.rs", lib), ("fakes.rs", "struct A;"), ("fakes/more.rs", "struct B;"), ("fakes_not.rs", "mod c;")];
    let sources = CrateSources::from_texts("planted", texts);
    assert_eq!(sources.files.keys().collect::<Vec<_>>(), ["fakes_not.rs", "lib.rs"]);
    assert_eq!(
        sources.files["lib.rs"].join(" "),
        "struct Shown { [ serde ( with = crate :: text ) ] shown : [ u8 ; \"\" ] , } [ cfg ( not ( test ) ) ] fn text ( ) { \"\" }"
    );
}
