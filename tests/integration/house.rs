//! Whether the code is built as ARCHITECTURE.md says: which room may use which, and no file in a circle.
//!
//! A room is a top-level module of the program. An arrow is a path in its code (`use crate::…`, `super::…`) that leads
//! to another room. A name that a module hands on (`pub use`) counts as one of the file that defines it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

/// The block of ARCHITECTURE.md that lists the arrows.
const ARROWS: &str = "```arrows\n";

/// A module's path in its crate; the crate's root has none.
type Module = Vec<String>;

/// One crate: the file of each module, what each refers to, which names it hands on.
struct Crate {
    files: BTreeMap<Module, PathBuf>,
    paths: BTreeMap<Module, Vec<Vec<String>>>,
    handed_on: BTreeMap<(Module, String), Vec<String>>,
}

/// Collects the paths in a file.
#[derive(Default)]
struct Paths {
    used: Vec<Vec<String>>,
    handed_on: Vec<Vec<String>>,
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Ident>()
                .is_ok_and(|what| what == "test")
    })
}

/// The paths of a `use`, as written.
fn flatten(tree: &syn::UseTree, before: &[String], into: &mut Vec<Vec<String>>) {
    let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
    match tree {
        syn::UseTree::Path(path) => flatten(&path.tree, &with(&path.ident), into),
        syn::UseTree::Name(name) if name.ident == "self" => into.push(before.to_vec()),
        syn::UseTree::Name(name) => into.push(with(&name.ident)),
        syn::UseTree::Rename(rename) => into.push(with(&rename.ident)),
        syn::UseTree::Glob(_) => into.push(before.to_vec()),
        syn::UseTree::Group(group) => {
            for tree in &group.items {
                flatten(tree, before, into);
            }
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_test(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if is_test(&item.attrs) {
            return;
        }
        let into = match item.vis {
            syn::Visibility::Inherited => &mut self.used,
            _ => &mut self.handed_on,
        };
        flatten(&item.tree, &[], into);
    }

    // The path in `pub(super)` is no use of anything.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        if matches!(names[0].as_str(), "crate" | "super") {
            self.used.push(names);
        }
        visit::visit_path(self, path);
    }
}

impl Crate {
    fn read(src: &Path) -> Self {
        let mut files = BTreeMap::new();
        collect(src, &[], &mut files);
        let (mut paths, mut handed_on) = (BTreeMap::new(), BTreeMap::new());
        for (module, file) in &files {
            let text = std::fs::read_to_string(file).unwrap();
            let parsed = syn::parse_file(&text).unwrap_or_else(|e| panic!("{file:?}: {e}"));
            let mut found = Paths::default();
            found.visit_file(&parsed);
            for path in found.handed_on {
                let name = path.last().unwrap().clone();
                handed_on.insert((module.clone(), name), absolute(module, &path));
            }
            let used = found.used.iter().map(|path| absolute(module, path));
            paths.insert(module.clone(), used.collect());
        }
        Self {
            files,
            paths,
            handed_on,
        }
    }

    /// The module that defines what an absolute path names; nothing if that is no module of this crate.
    fn definer(&self, path: &[String], depth: usize) -> Option<Module> {
        let length = (0..=path.len())
            .rev()
            .find(|length| self.files.contains_key(&path[..*length]))?;
        let module = path[..length].to_vec();
        let Some(name) = path.get(length) else {
            return Some(module);
        };
        match self.handed_on.get(&(module.clone(), name.clone())) {
            Some(to) if depth < 8 => self.definer(to, depth + 1),
            _ if module.is_empty() => None,
            _ => Some(module),
        }
    }

    /// Which module uses which.
    fn arrows(&self) -> BTreeSet<(Module, Module)> {
        let mut arrows = BTreeSet::new();
        for (from, paths) in &self.paths {
            for to in paths.iter().filter_map(|path| self.definer(path, 0)) {
                if to != *from {
                    arrows.insert((from.clone(), to));
                }
            }
        }
        arrows
    }
}

/// Every file of a crate that is no test, with its module.
fn collect(dir: &Path, module: &[String], into: &mut BTreeMap<Module, PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let inner = [module, std::slice::from_ref(&name)].concat();
        if path.is_dir() {
            collect(&path, &inner, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            match name.as_str() {
                name if name.ends_with("tests") || name == "main" => {}
                "lib" | "mod" => drop(into.insert(module.to_vec(), path)),
                _ => drop(into.insert(inner, path)),
            }
        }
    }
}

/// A path as seen from the crate's root.
fn absolute(module: &[String], path: &[String]) -> Vec<String> {
    let mut at = module.to_vec();
    for (index, name) in path.iter().enumerate() {
        match name.as_str() {
            "crate" if index == 0 => at.clear(),
            "self" => {}
            "super" => drop(at.pop()),
            _ => at.push(name.clone()),
        }
    }
    at
}

/// The arrows that are part of a circle.
fn in_circles<N: Ord + Clone>(arrows: &BTreeSet<(N, N)>) -> Vec<&(N, N)> {
    let mut next: BTreeMap<&N, Vec<&N>> = BTreeMap::new();
    for (from, to) in arrows {
        next.entry(from).or_default().push(to);
    }
    let leads_back = |(from, to): &&(N, N)| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![to]);
        while let Some(node) = open.pop() {
            if node == from {
                return true;
            }
            if seen.insert(node) {
                open.extend(next.get(node).into_iter().flatten());
            }
        }
        false
    };
    arrows.iter().filter(leads_back).collect()
}

/// The arrows that ARCHITECTURE.md allows.
fn allowed() -> BTreeSet<(String, String)> {
    let page = include_str!("../../ARCHITECTURE.md");
    let block = page.split(ARROWS).nth(1).unwrap();
    let block = block.split("```").next().unwrap();
    let mut arrows = BTreeSet::new();
    for line in block.lines() {
        let (from, to) = line.split_once("->").unwrap();
        for to in to.split_whitespace() {
            arrows.insert((from.trim().to_owned(), to.to_owned()));
        }
    }
    arrows
}

#[test]
fn rooms_use_each_other_as_the_page_says() {
    let program = Crate::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let room = |module: Module| module.into_iter().next();
    let found: BTreeSet<(String, String)> = program
        .arrows()
        .into_iter()
        .filter_map(|(from, to)| Some((room(from)?, room(to)?)))
        .filter(|(from, to)| from != to)
        .collect();
    let allowed = allowed();
    let list = |arrows: Vec<&(String, String)>| -> Vec<String> {
        let words = |(from, to): &(String, String)| format!("{from} -> {to}");
        arrows.into_iter().map(words).collect()
    };
    let new = list(found.difference(&allowed).collect());
    assert!(new.is_empty(), "ARCHITECTURE.md does not allow {new:?}");
    let stale = list(allowed.difference(&found).collect());
    assert!(stale.is_empty(), "nothing in the code is {stale:?}");
    let circles = list(in_circles(&found));
    assert!(circles.is_empty(), "{circles:?}");
}

#[test]
fn no_file_is_in_a_circle() {
    for src in ["src", "images/init/src", "runner/src"] {
        let arrows = Crate::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(src)).arrows();
        let tied: Vec<String> = in_circles(&arrows)
            .into_iter()
            .map(|(from, to)| format!("{} -> {}", from.join("::"), to.join("::")))
            .collect();
        assert!(tied.is_empty(), "{src}: {tied:#?}");
    }
}

#[test]
fn a_circle_is_found() {
    let arrows = |list: &[(&str, &str)]| -> BTreeSet<(String, String)> {
        let owned = |(a, b): &(&str, &str)| (a.to_string(), b.to_string());
        list.iter().map(owned).collect()
    };
    let none = arrows(&[("a", "b"), ("b", "c"), ("a", "c")]);
    assert!(in_circles(&none).is_empty());
    let one = arrows(&[("a", "b"), ("b", "c"), ("c", "b")]);
    let found: Vec<_> = in_circles(&one).into_iter().cloned().collect();
    assert_eq!(
        BTreeSet::from_iter(found),
        arrows(&[("b", "c"), ("c", "b")])
    );
}
