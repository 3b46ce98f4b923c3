//! The house's rule for files: no file of a crate uses another one that leads back to it, so that each can be read, tested and
//! moved to another crate without the files that use it.
//!
//! A file uses each file of its crate that defines what one of its paths names, in a `use` or anywhere else in its code, macros
//! and attributes included:
//! - a path begins with `crate`, `self`, `super`, a module that the file declares or a module that it imports;
//! - a re-export is followed to the definition: `use super::Thing` uses the file that defines `Thing`, not the one that hands it on;
//! - a file uses what it re-exports only if its own code names it;
//! - `mod` is no use, nor is what `#[cfg(test)]` marks; a program in `bin/`, or beside a library, is another crate.
//!
//! Names that reach a file without a path in it (a method, a trait's implementation, a name that a macro of another file writes) are
//! not seen.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    iter,
};

use crate::product_sources::{CrateSources, product_crates};

/// The segments of a path.
type PathSegments = Vec<String>;

/// What one file uses: by file, one of the paths that lead there.
type UsedFiles<'a> = BTreeMap<&'a str, String>;

/// One name that a `use` brings in.
#[derive(Debug, PartialEq)]
struct ImportedName {
    is_reexport: bool,
    path: PathSegments,
    /// The last segment, or what follows `as`.
    name: String,
}

struct ModuleFile<'a> {
    file: &'a str,
    module: PathSegments,
    imports: Vec<ImportedName>,
    /// The words outside of the `use` declarations.
    body: Vec<&'a str>,
}

impl<'a> ModuleFile<'a> {
    fn new(file: &'a str, module: PathSegments, words: &'a [String]) -> Self {
        let mut found = Self { file, module, imports: Vec::new(), body: Vec::new() };
        let mut words = words.iter().map(String::as_str).peekable();
        while let Some(word) = words.next() {
            // `impl Trait + use<'a>` imports nothing.
            if word == "use" && words.peek() != Some(&"<") {
                let is_reexport = ends_with_visibility(&found.body);
                found.imports.extend(read_imports(is_reexport, words.by_ref().take_while(|word| *word != ";")));
            } else {
                found.body.push(word);
            }
        }
        found
    }

    /// The paths of two and more segments in the body.
    fn paths(&self) -> impl Iterator<Item = PathSegments> {
        let is_name = |word: &str| word.starts_with(|letter: char| letter.is_alphabetic() || letter == '_');
        let starts = (0..self.body.len()).filter(move |&at| {
            let is_head = is_name(self.body[at]) && !self.body[at].starts_with(char::is_uppercase);
            is_head && (at == 0 || self.body[at - 1] != "::") && self.body.get(at + 1) == Some(&"::")
        });
        let path = move |at: usize| {
            let tail = self.body[at + 1..].chunks_exact(2).take_while(|pair| pair[0] == "::" && is_name(pair[1]));
            iter::once(self.body[at]).chain(tail.map(|pair| pair[1])).map(str::to_owned).collect::<PathSegments>()
        };
        starts.map(path).filter(|path| path.len() > 1)
    }

    fn defines(&self, name: &str) -> bool {
        let keywords = ["struct", "enum", "trait", "fn", "const", "type", "static", "union"];
        self.body.windows(2).any(|pair| keywords.contains(&pair[0]) && pair[1] == name)
    }
}

/// Whether the words end with `pub` or `pub(...)`.
fn ends_with_visibility(words: &[&str]) -> bool {
    let words = match words {
        [before @ .., ")"] => before.iter().rposition(|word| *word == "(").map_or(words, |open| &before[..open]),
        _ => words,
    };
    words.last() == Some(&"pub")
}

/// The names of one `use`, from the words between `use` and the semicolon.
fn read_imports<'a>(is_reexport: bool, words: impl Iterator<Item = &'a str>) -> Vec<ImportedName> {
    let mut found = Vec::new();
    let mut path: Vec<&str> = Vec::new();
    let mut alias = None;
    // How many segments stand before each open brace.
    let mut prefixes = vec![0];
    let mut words = words.chain([","]);
    while let Some(word) = words.next() {
        match word {
            "::" => {}
            "{" => prefixes.push(path.len()),
            "as" => alias = words.next(),
            "," | "}" => {
                let prefix = *prefixes.last().expect("braces are paired");
                if path.len() > prefix {
                    if path.len() > 1 {
                        path.pop_if(|last| *last == "self");
                    }
                    let name = alias.take().or(path.last().copied()).unwrap_or_default();
                    let path = path.iter().copied().map(str::to_owned).collect();
                    found.push(ImportedName { is_reexport, path, name: name.to_owned() });
                }
                if word == "}" {
                    prefixes.pop();
                }
                // The list as a whole is done with its brace, a name in it with its comma.
                path.truncate(*prefixes.last().expect("braces are paired"));
            }
            segment => path.push(segment),
        }
    }
    found
}

/// The modules of one crate that are files.
struct ModuleFiles<'a>(BTreeMap<PathSegments, ModuleFile<'a>>);

impl<'a> ModuleFiles<'a> {
    fn new(sources: &'a CrateSources) -> Self {
        let has_library = sources.files.contains_key("lib.rs");
        let files =
            sources.files.iter().filter(|(file, _)| !(file.starts_with("bin/") || has_library && *file == "main.rs"));
        let modules = files.map(|(file, words)| {
            let mut module: PathSegments = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
            module.pop_if(|last| ["lib", "main", "mod"].contains(&last.as_str()));
            (module.clone(), ModuleFile::new(file, module, words))
        });
        Self(modules.collect())
    }

    /// The path from the crate's top, if it leads into the crate.
    fn absolute(&self, from: &ModuleFile, path: &[String]) -> Option<PathSegments> {
        let (head, tail) = path.split_first()?;
        if head == "crate" {
            return Some(tail.to_vec());
        }
        let steps = path.iter().take_while(|segment| ["self", "super"].contains(&segment.as_str())).count();
        let levels = path[..steps].iter().filter(|segment| *segment == "super").count();
        let module = &from.module[..from.module.len().checked_sub(levels)?];
        let absolute = [module, &path[steps..]].concat();
        let is_child = self.0.contains_key(absolute.get(..=module.len()).unwrap_or_default());
        (steps > 0 || is_child).then_some(absolute)
    }

    /// The file that defines what a path from the crate's top names, with re-exports followed.
    fn defining(&self, path: &[String], seen: &mut BTreeSet<PathSegments>) -> Option<&ModuleFile<'a>> {
        let depth = (0..path.len()).take_while(|depth| self.0.contains_key(&path[..=*depth])).count();
        let (module, rest) = path.split_at(depth);
        let file = self.0.get(module)?;
        let Some((name, tail)) = rest.split_first() else { return Some(file) };
        if !seen.insert([module, std::slice::from_ref(name)].concat()) {
            return Some(file);
        }
        let mut named = file.imports.iter().filter(|import| import.name == *name);
        if let Some(onward) = named.find_map(|import| self.absolute(file, &import.path)) {
            return self.defining(&[&onward, tail].concat(), seen);
        }
        let globs = file.imports.iter().filter(|import| import.is_reexport && import.name == "*");
        let within = globs.filter_map(|import| self.absolute(file, &import.path[..import.path.len() - 1]));
        for folder in within.collect::<Vec<_>>() {
            if let Some(found) = self.defining(&[&folder, rest].concat(), seen).filter(|found| found.defines(name)) {
                return Some(found);
            }
        }
        Some(file)
    }

    fn used_by(&self, file: &ModuleFile) -> UsedFiles<'a> {
        let mut targets = Vec::new();
        let mut imported_modules = BTreeMap::new();
        for import in &file.imports {
            let Some(target) = self.absolute(file, &import.path) else { continue };
            if import.is_reexport && !file.body.contains(&import.name.as_str()) {
                continue;
            }
            // A module is used where something in it is named.
            if self.0.contains_key(&target) {
                imported_modules.insert(import.name.as_str(), target);
            } else {
                targets.push(target);
            }
        }
        targets.extend(file.paths().filter_map(|path| match imported_modules.get(path[0].as_str()) {
            Some(module) => Some([module, &path[1..]].concat()),
            None => self.absolute(file, &path),
        }));
        let mut used = UsedFiles::new();
        for target in targets {
            if let Some(found) = self.defining(&target, &mut BTreeSet::new()).filter(|found| found.file != file.file) {
                used.entry(found.file).or_insert_with(|| target.join("::"));
            }
        }
        used
    }
}

/// For each file that leads back to itself the shortest way, as lines of text; each circle once.
fn circles(sources: &CrateSources) -> BTreeSet<String> {
    let modules = ModuleFiles::new(sources);
    let uses: BTreeMap<&str, UsedFiles> = modules.0.values().map(|file| (file.file, modules.used_by(file))).collect();
    let shortest = uses.keys().filter_map(|file| shortest_circle(&uses, file));
    let text = |circle: Vec<&str>| {
        let next = circle.iter().cycle().skip(1);
        let steps = circle.iter().zip(next).map(|(from, to)| format!("{from} uses {to} (crate::{})", uses[from][to]));
        format!("{}: {}", sources.name, steps.collect::<Vec<_>>().join(", "))
    };
    shortest.map(text).collect()
}

/// The files of a shortest way from a file back to it, the first by name at the front.
fn shortest_circle<'a>(uses: &BTreeMap<&'a str, UsedFiles<'a>>, start: &'a str) -> Option<Vec<&'a str>> {
    let mut reached_from: BTreeMap<&str, &str> = BTreeMap::new();
    let mut waiting = VecDeque::from([start]);
    while let Some(file) = waiting.pop_front() {
        for &used in uses[file].keys() {
            if !reached_from.contains_key(used) {
                reached_from.insert(used, file);
                waiting.push_back(used);
            }
        }
    }
    let mut circle = vec![*reached_from.get(start)?];
    while let Some(&last) = circle.last().filter(|last| **last != start) {
        circle.push(reached_from[last]);
    }
    circle.reverse();
    let first = circle.iter().enumerate().min_by_key(|(_, file)| **file).map_or(0, |(at, _)| at);
    circle.rotate_left(first);
    Some(circle)
}

#[test]
fn no_files_of_a_crate_use_each_other_in_a_circle() {
    let crates = product_crates();
    let arrows = |sources: &CrateSources| {
        let modules = ModuleFiles::new(sources);
        modules.0.values().map(|file| modules.used_by(file).len()).sum::<usize>()
    };
    let uses: Vec<_> = crates.iter().map(|sources| (&sources.name, sources.files.len(), arrows(sources))).collect();
    assert!(uses.iter().all(|(_, files, uses)| uses >= files), "too few uses are found to mean something: {uses:?}");
    let circles: Vec<_> = crates.iter().flat_map(circles).collect();
    assert!(circles.is_empty(), "move what both need into a file of its own:\n{}", circles.join("\n"));
}

/// The circles of a crate of these files.
fn planted(texts: &[(&str, &str)]) -> Vec<String> {
    circles(&CrateSources::from_texts("planted", texts.iter().copied())).into_iter().collect()
}

#[test]
fn planted_circles_are_found() {
    let two = ["planted: a.rs uses b.rs (crate::b::Second), b.rs uses a.rs (crate::a::first)"];
    let second = ("b.rs", "pub struct Second; fn f() { crate::a::first(); }");
    assert_eq!(
        planted(&[("a.rs", "use crate::b::Second; pub fn first() {}"), second]),
        two,
        "by a use and an expression"
    );
    assert_eq!(
        planted(&[("a.rs", "use super::{b::{self, Other}}; fn f() -> b::Second {}"), second])[0][..20],
        two[0][..20]
    );
    assert_eq!(
        planted(&[("a.rs", "#[serde(with = \"crate::b::Second\")] struct First;"), second]),
        two,
        "by an attribute"
    );
    assert_eq!(planted(&[("a.rs", "fn f() { log!(crate::b::Second) }"), second]), two, "within a macro");
    let of_three = [
        ("lib.rs", "mod a; pub(crate) mod b; mod c; pub use a::First; pub(crate) use c::*;"),
        ("a.rs", "use crate::b::Second as Other; pub struct First;"),
        ("b.rs", "pub struct Second(crate::Third);"),
        ("c.rs", "use super::First; pub struct Third;"),
    ];
    assert_eq!(
        planted(&of_three),
        ["planted: a.rs uses b.rs (crate::b::Second), b.rs uses c.rs (crate::Third), c.rs uses a.rs (crate::First)"],
        "through the crate's facade, by name and by a list of all"
    );
    let with_child =
        [("a.rs", "mod inner; struct Part; fn f() { inner::g() }"), ("a/inner.rs", "use super::Part; fn g() {}")];
    assert_eq!(
        planted(&with_child),
        ["planted: a.rs uses a/inner.rs (crate::a::inner::g), a/inner.rs uses a.rs (crate::a::Part)"],
        "a parent and its child"
    );
}

#[test]
fn what_is_no_circle_is_none() {
    let facade = ("a.rs", "mod inner; mod part; pub use inner::Inner; pub use part::Part;");
    let texts = [facade, ("a/inner.rs", "use super::Part; pub struct Inner;"), ("a/part.rs", "pub struct Part;")];
    assert_eq!(planted(&texts), [""; 0], "a parent that only hands names on");
    let texts =
        [("a.rs", "use crate::b::f; #[cfg(test)] mod tests {}"), ("b.rs", "#[cfg(test)] use crate::a::g; fn f() {}")];
    assert_eq!(planted(&texts), [""; 0], "what is for tests only");
    let texts = [
        ("lib.rs", "mod b; use b::f;"),
        ("b.rs", "fn f() {}"),
        ("bin/c.rs", "use planted::f;"),
        ("main.rs", "use planted::f;"),
    ];
    assert_eq!(planted(&texts), [""; 0], "programs beside a library");
    let texts = [
        ("a.rs", "/// [`crate::b::f`]\nfn g() -> impl T + use<> { \"see crate::b::f\" }"),
        ("b.rs", "use crate::a::g; fn f() {}"),
    ];
    assert_eq!(planted(&texts), [""; 0], "comments and texts");
}

#[test]
fn imports_are_read() {
    let words = "a :: { self , b :: { C , D as E , } , f :: * } , g";
    let found = read_imports(true, words.split(' '));
    let found: Vec<_> = found.iter().map(|import| format!("{} = {}", import.name, import.path.join("::"))).collect();
    assert_eq!(found, ["a = a", "C = a::b::C", "E = a::b::D", "* = a::f::*", "g = g"]);
    assert!(ends_with_visibility(&["pub"]) && ends_with_visibility(&["x", "pub", "(", "in", "a", ")"]));
    assert!(!ends_with_visibility(&["pub", ";"]) && !ends_with_visibility(&["f", "(", ")"]));
}
