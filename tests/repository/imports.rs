//! The imports between the files of `src`, and the cycles among them.
//!
//! A file imports another file if it names an item that the other file defines, in a `use` or in a path. A re-export
//! (`pub use run::Run` in a `mod.rs`) leads to the file that defines the item, and counts as an import of the
//! re-exporting file only if that file uses the name itself. Test code is left out, and so are calls of methods, which
//! name no file.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::{Path, PathBuf},
};

/// The imports of each file.
pub(crate) type Imports = BTreeMap<PathBuf, BTreeSet<PathBuf>>;

/// Returns the imports of all files that `src/lib.rs` and `src/main.rs` declare, directly or through other files.
/// `files` has the words of each file.
pub(crate) fn imports(files: &BTreeMap<PathBuf, Vec<String>>) -> Imports {
    let tree = Tree::new(files);
    tree.files.iter().map(|(path, file)| (path.clone(), tree.imports_of(path, file))).collect()
}

/// Returns a shortest cycle through each file that is in a cycle, each cycle once. A cycle begins with the first of
/// its files in the order of their paths.
pub(crate) fn cycles(imports: &Imports) -> BTreeSet<Vec<PathBuf>> {
    imports.keys().filter_map(|file| shortest_cycle(imports, file)).collect()
}

fn shortest_cycle(imports: &Imports, start: &PathBuf) -> Option<Vec<PathBuf>> {
    let mut came_from: BTreeMap<&PathBuf, &PathBuf> = BTreeMap::new();
    let mut open = VecDeque::from([start]);
    while let Some(file) = open.pop_front() {
        for next in imports.get(file).into_iter().flatten() {
            if !came_from.contains_key(next) {
                came_from.insert(next, file);
                open.push_back(next);
            }
        }
    }
    let mut cycle = vec![*came_from.get(start)?];
    while *cycle.last()? != start {
        cycle.push(came_from.get(*cycle.last()?)?);
    }
    cycle.reverse();
    let first = (0..cycle.len()).min_by_key(|&at| cycle[at])?;
    cycle.rotate_left(first);
    Some(cycle.into_iter().cloned().collect())
}

/// The modules of both crates. A module's path begins with its crate's name: `ringhub::hub::run`, `main::health`.
struct Tree {
    files: BTreeMap<PathBuf, File>,
    by_module: BTreeMap<Vec<String>, PathBuf>,
}

struct File {
    module: Vec<String>,
    /// The words without test code and `use` declarations, each with the module that it is in.
    words: Vec<(Vec<String>, String)>,
    uses: Vec<Use>,
    /// The items that the file defines outside of functions, `impl` blocks and inner modules.
    items: BTreeSet<String>,
}

/// One name of a `use` declaration.
struct Use {
    /// The module that the declaration is in.
    module: Vec<String>,
    /// The path as it is written, with groups resolved.
    path: Vec<String>,
    /// The name that it brings into scope; `*` for a glob.
    name: String,
    is_reexport: bool,
}

impl Tree {
    fn new(sources: &BTreeMap<PathBuf, Vec<String>>) -> Self {
        let mut tree = Self { files: BTreeMap::new(), by_module: BTreeMap::new() };
        let roots = [("src/lib.rs", LIBRARY), ("src/main.rs", "main")];
        let mut open: Vec<_> = roots.map(|(path, name)| (PathBuf::from(path), vec![name.to_string()])).into();
        while let Some((path, module)) = open.pop() {
            let Some(words) = sources.get(&path) else { continue };
            let words = without_tests(words);
            let beside = path.parent().unwrap_or(Path::new(""));
            let stem = path.file_stem().unwrap_or_default();
            let below = match stem.to_str() {
                Some("lib" | "main" | "mod") => beside.to_path_buf(),
                _ => beside.join(stem),
            };
            let declared = words.windows(3).filter(|three| three[0] == "mod" && three[2] == ";");
            for name in declared.map(|three| three[1].clone()) {
                let child = [&module[..], std::slice::from_ref(&name)].concat();
                open.push((below.join(format!("{name}.rs")), child.clone()));
                open.push((below.join(&name).join("mod.rs"), child));
            }
            tree.by_module.insert(module.clone(), path.clone());
            tree.files.insert(path, File::new(module, &words));
        }
        tree
    }

    fn imports_of(&self, path: &Path, file: &File) -> BTreeSet<PathBuf> {
        let is_used = |name: &str| {
            let mut before = "";
            file.words.iter().any(|(_, word)| {
                let is_here = word == name && !["::", ".", "mod"].contains(&before);
                before = word;
                is_here
            })
        };
        let uses = file.uses.iter().filter(|one| !one.is_reexport || is_used(&one.name));
        let mut imports: BTreeSet<PathBuf> = uses
            .filter_map(|one| match &*one.name {
                "*" => self.by_module.get(&self.absolute(file, &one.module, &one.path, DEPTH_MAX)?),
                _ => self.definition(&self.absolute(file, &one.module, &one.path, DEPTH_MAX)?, DEPTH_MAX),
            })
            .cloned()
            .collect();
        for (module, written) in file.paths() {
            let absolute = self.absolute(file, module, &written, DEPTH_MAX);
            imports.extend(absolute.and_then(|absolute| self.definition(&absolute, DEPTH_MAX)).cloned());
        }
        imports.remove(path);
        imports
    }

    /// Returns the file that defines an item. For a path that ends at a module it returns `None`: the module's items
    /// are used by other paths.
    fn definition(&self, path: &[String], depth: usize) -> Option<&PathBuf> {
        let is_module = |len: &usize| self.by_module.contains_key(&path[..*len]);
        let len = (1..=path.len()).take_while(is_module).last()?;
        let file = self.by_module.get(&path[..len])?;
        let item = path.get(len)?;
        let source = &self.files[file];
        if source.items.contains(item) || depth == 0 {
            return Some(file);
        }
        let Some(import) = source.uses.iter().find(|one| one.name == *item && one.module == path[..len]) else {
            return Some(file);
        };
        let target = self.absolute(source, &import.module, &import.path, depth - 1)?;
        self.definition(&[&target[..], &path[len + 1..]].concat(), depth - 1)
    }

    /// Returns a written path with its crate in front; `None` for another crate's path.
    fn absolute(&self, file: &File, module: &[String], written: &[String], depth: usize) -> Option<Vec<String>> {
        let (first, rest) = written.split_first()?;
        let from = |module: &[String]| Some([module, rest].concat());
        match &**first {
            "crate" => from(&module[..1]),
            "self" => from(module),
            "super" => {
                let supers = rest.iter().take_while(|word| *word == "super").count();
                let ancestor = &module[..module.len().checked_sub(1 + supers)?];
                Some([ancestor, &rest[supers..]].concat())
            }
            LIBRARY => Some(written.to_vec()),
            name => {
                let child = [module, std::slice::from_ref(first)].concat();
                if self.by_module.contains_key(&child) || (file.items.contains(name) && module == file.module) {
                    return Some([module, written].concat());
                }
                let import = file.uses.iter().find(|one| one.name == name && one.module == module)?;
                let target = self.absolute(file, module, &import.path, depth.checked_sub(1)?)?;
                Some([&target[..], rest].concat())
            }
        }
    }
}

impl File {
    fn new(module: Vec<String>, words: &[String]) -> Self {
        let mut file = Self { module: module.clone(), words: Vec::new(), uses: Vec::new(), items: BTreeSet::new() };
        let (mut here, mut inner, mut braces, mut at) = (module, Vec::new(), 0, 0);
        while at < words.len() {
            let word = &*words[at];
            let next = words.get(at + 1).map_or("", |next| next);
            if word == "use" {
                let is_reexport = at > 0 && (words[at - 1] == "pub" || words[at - 1] == ")");
                at += 1;
                let mut names = Vec::new();
                use_tree(words, &mut at, &[], &mut names);
                let uses = names.into_iter().map(|(path, name)| Use { module: here.clone(), path, name, is_reexport });
                file.uses.extend(uses);
                continue;
            }
            match word {
                "mod" if words.get(at + 2).is_some_and(|third| third == "{") => {
                    here.push(next.into());
                    inner.push(braces);
                }
                "{" => braces += 1,
                "}" => {
                    braces -= 1;
                    if inner.pop_if(|outside| *outside == braces).is_some() {
                        here.pop();
                    }
                }
                _ if braces == 0 && ITEMS.contains(&word) => drop(file.items.insert(next.into())),
                _ => {}
            }
            file.words.push((here.clone(), word.into()));
            at += 1;
        }
        file
    }

    /// Returns every path of two words or more, each with the module that it is in.
    fn paths(&self) -> Vec<(&[String], Vec<String>)> {
        let word = |at: usize| self.words.get(at).map_or("", |(_, word)| word);
        let mut paths = Vec::new();
        for (at, (module, first)) in self.words.iter().enumerate() {
            let is_inside = at > 0 && ["::", "."].contains(&word(at - 1));
            let mut path = vec![first.clone()];
            while is_name(first) && word(at + 2 * path.len() - 1) == "::" && is_name(word(at + 2 * path.len())) {
                path.push(word(at + 2 * path.len()).into());
            }
            if path.len() > 1 && !is_inside {
                paths.push((&module[..], path));
            }
        }
        paths
    }
}

/// Reads the tree of a `use` declaration from `at`, and sets `at` to the place after it. Adds each path with its name
/// to `out`.
fn use_tree(words: &[String], at: &mut usize, prefix: &[String], out: &mut Vec<(Vec<String>, String)>) {
    let mut path = prefix.to_vec();
    while let Some(word) = words.get(*at) {
        *at += 1;
        match &**word {
            "::" => {}
            "{" => {
                while words.get(*at).is_some_and(|word| word != "}") {
                    use_tree(words, at, &path, out);
                    *at += usize::from(words.get(*at).is_some_and(|word| word == ","));
                }
                *at += 1;
                return;
            }
            "*" => return out.push((path, "*".into())),
            "self" if !path.is_empty() => {}
            name if is_name(name) => path.push(name.into()),
            // The declaration ends with `;`, or is not valid.
            _ => return,
        }
        let next = words.get(*at).map_or("", |next| next);
        if next == "as" {
            let alias = words.get(*at + 1).cloned().unwrap_or_default();
            *at += 2;
            return out.push((path, alias));
        }
        if next != "::" && word != "::" {
            let name = path.last().cloned().unwrap_or_default();
            return out.push((path, name));
        }
    }
}

/// Returns the words without the items under `#[cfg(test)]` and `#[cfg(all(test, ..))]`.
pub(crate) fn without_tests(words: &[String]) -> Vec<String> {
    let is_test = |at: usize| {
        let begins =
            |pattern: &[&str]| words[at..].iter().zip(pattern).filter(|(a, b)| a == *b).count() == pattern.len();
        begins(&["#", "[", "cfg", "(", "test", ")"]) || begins(&["#", "[", "cfg", "(", "all", "(", "test"])
    };
    let (mut kept, mut at) = (Vec::new(), 0);
    while at < words.len() {
        if is_test(at) {
            at = item_end(words, at);
        } else {
            kept.push(words[at].clone());
            at += 1;
        }
    }
    kept
}

/// Returns the end of the item that begins, with its attributes, at `at`: the place after its first `;` or closing
/// brace.
fn item_end(words: &[String], mut at: usize) -> usize {
    let mut depth = 0;
    while at < words.len() {
        match &*words[at] {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" if depth == 0 => return at,
            ")" | "]" => depth -= 1,
            "}" => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
        at += 1;
    }
    at
}

fn is_name(word: &str) -> bool {
    word.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// The name of the library in paths of the binary.
const LIBRARY: &str = "ringhub";

/// The words before the name of an item.
const ITEMS: &[&str] = &["struct", "enum", "union", "trait", "type", "fn", "const", "static"];

/// How many re-exports in a row are followed.
const DEPTH_MAX: usize = 8;

/// The files of a small crate: the path of each, and its text.
const SOURCES: &str = r"
    src/lib.rs:
        mod hub; mod wire; mod clock; #[cfg(test)] mod simulator; pub use hub::{Run, Walk as Pass};
        fn f() { std::wire::Wire }
    src/main.rs:
        mod health; use ringhub::{Pass, wire::{self}}; fn main() { health::ask(wire::Head) }
    src/health.rs:
        use crate::main; use std::hub; pub fn ask() {}
    src/hub/mod.rs:
        mod run; mod topics; mod walk; pub use {run::Run, walk::{Walk, walk}}; fn f() { run.walk() }
    src/hub/run.rs:
        use super::{Walk, walk as advance}; use crate::wire; pub struct Run; fn f() { wire::Head }
    src/hub/walk.rs:
        pub struct Walk; impl Walk { fn of(run: &crate::Run) -> impl Sized + use<'_> {} }
    src/hub/topics.rs:
        fn f() { crate::clock::Own } mod tests { use super::super::Run; }
        #[cfg(test)] mod own { use super::super::Walk; }
    src/wire.rs:
        mod head; pub use head::Head; pub struct Wire(Head); #[cfg(test)] use crate::hub::{Run, Walk};
    src/wire/head.rs:
        use super::Wire; use crate::clock::*; pub struct Head; fn wire(self) -> Clock {}
    src/clock.rs:
        mod hub { pub struct Run; use crate::wire::Head as Own; } use hub::Run;
        fn f() { self::hub::Run; super::hub::Run }
    src/simulator.rs:
        use crate::hub::Run;
";

#[test]
fn an_import_leads_to_the_file_that_defines_the_item() {
    let files = SOURCES.split("\n    src/").filter_map(|file| file.split_once(":\n"));
    let files = files.map(|(path, text)| (Path::new("src").join(path), crate::words::words(text)));
    let imports = imports(&files.collect());
    let path = |name: &str| PathBuf::from(format!("src/{name}.rs"));
    let expected = [
        ("lib", &[][..]),
        ("main", &["hub/walk", "health", "wire/head"]),
        ("health", &["main"]),
        // The file's own code uses neither `Run` nor the function `walk`.
        ("hub/mod", &[]),
        ("hub/run", &["hub/walk", "wire/head"]),
        ("hub/walk", &["hub/run"]),
        ("hub/topics", &["hub/run", "clock"]),
        ("wire", &["wire/head"]),
        ("wire/head", &["wire", "clock"]),
        ("clock", &["hub/run", "wire/head"]),
    ];
    let expected = expected.map(|(file, imported)| (path(file), imported.iter().map(|name| path(name)).collect()));
    assert_eq!(imports, Imports::from(expected));
    let expected = [&["clock", "wire/head"][..], &["health", "main"], &["hub/run", "hub/walk"], &["wire/head", "wire"]];
    assert_eq!(cycles(&imports), expected.map(|cycle| cycle.iter().map(|name| path(name)).collect()).into());
}

#[test]
fn a_cycle_is_found_from_each_of_its_files_and_reported_once() {
    let path = |name: &str| PathBuf::from(name);
    let one = |from: &str, to: &str| (path(from), BTreeSet::from([path(to)]));
    let imports = [one("b", "c"), one("c", "a"), one("a", "b"), one("d", "a")].into();
    assert_eq!(cycles(&imports), [["a", "b", "c"].map(path).to_vec()].into());
}
