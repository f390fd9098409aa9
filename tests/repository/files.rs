//! The project's own files and their paths.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Returns the path from the root and the text of each file of the project: the files that git tracks, or without git
/// all files.
pub(crate) fn texts() -> impl Iterator<Item = (PathBuf, String)> {
    let mut paths = tracked().unwrap_or_else(|| lying_under(&root()));
    paths.retain(|path| path.file_name().is_some_and(|name| name != "Cargo.lock") && !path.starts_with("fuzz/corpus"));
    assert!(paths.len() > 20, "only {} files", paths.len());
    paths.into_iter().filter_map(|path| Some((path.clone(), fs::read_to_string(root().join(path)).ok()?)))
}

fn tracked() -> Option<Vec<PathBuf>> {
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().ok()?;
    let names = String::from_utf8(output.stdout).ok().filter(|names| output.status.success() && !names.is_empty())?;
    Some(names.split_terminator('\0').map(PathBuf::from).collect())
}

fn lying_under(root: &Path) -> Vec<PathBuf> {
    let (mut open, mut files) = (vec![root.to_path_buf()], Vec::new());
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if !path.is_dir() {
                files.push(path.strip_prefix(root).unwrap().to_path_buf());
            } else if entry.file_name() != ".git" && entry.file_name() != "target" {
                open.push(path);
            }
        }
    }
    files
}

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}
