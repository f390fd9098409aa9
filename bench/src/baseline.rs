//! Builds the hub of another commit.
//!
//! The commit is checked out into a git worktree below [`OUTPUT`], and built in release into its own target folder.
//! Toolchain and flags are those of this tree. Both folders are kept, so the next run need not build again.

use crate::record::git;
use crate::tools::{OUTPUT, cargo, succeed};
use serde::Serialize;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

/// The hub of another commit, to be compared with.
#[derive(Serialize)]
pub(crate) struct Baseline {
    /// The user's choice: a revision, or a file whose first word is one.
    asked: String,
    commit: String,
    pub(crate) program: PathBuf,
    /// The program of `two_topics.rs` with the library of that commit, if a scenario needs it.
    pub(crate) two_topics: Option<PathBuf>,
}

impl Baseline {
    /// Checks out and builds the commit that `asked` names. Without `build` it takes the program of the last build.
    ///
    /// # Errors
    /// An error is returned if git or the commit is missing, if the kept checkout was changed, or if the commit does
    /// not build.
    pub(crate) fn prepare(asked: &str, build: bool) -> Result<Baseline, Box<dyn Error>> {
        let commit = commit_of(asked)?;
        let tree = folder_of(&commit).join("tree");
        if build {
            check_out(&commit, &tree)?;
        }
        let program = program(&commit, "ringhub", build)?;
        Ok(Baseline { asked: asked.to_owned(), commit, program, two_topics: None })
    }

    /// Builds the server whose subscribers have two topics, with the library of the baseline. Without `build` it takes
    /// the program of the last build.
    ///
    /// # Errors
    /// An error is returned if the library of that commit lacks something that the server needs.
    pub(crate) fn prepare_two_topics(&mut self, build: bool) -> Result<(), Box<dyn Error>> {
        // Cargo finds the source there, and builds it with the dependencies, the profile and the lock file of the
        // baseline.
        let source = folder_of(&self.commit).join("tree").join(TWO_TOPICS_SOURCE);
        if build && fs::read_to_string(&source).ok().as_deref() != Some(TWO_TOPICS) {
            fs::create_dir_all(source.parent().ok_or("a source has a folder")?)?;
            fs::write(&source, TWO_TOPICS)?;
        }
        self.two_topics = Some(program(&self.commit, "two_topics", build)?);
        Ok(())
    }

    /// Returns a line for people.
    pub(crate) fn line(&self) -> String {
        let Baseline { asked, commit, program, .. } = self;
        let asked = if asked == commit { String::new() } else { format!(" ({asked})") };
        format!("baseline {}{asked}, {}", &commit[..commit.len().min(12)], program.display())
    }
}

/// Returns the folder of a baseline.
fn folder_of(commit: &str) -> PathBuf {
    Path::new(OUTPUT).join("baseline").join(commit)
}

/// Returns a program of a baseline that is checked out, and builds it first if `build`.
fn program(commit: &str, name: &str, build: bool) -> Result<PathBuf, Box<dyn Error>> {
    let (tree, target) = (folder_of(commit).join("tree"), folder_of(commit).join("target"));
    let program = target.join("release").join(name);
    if build {
        eprintln!("building {name} of the baseline {commit} into {}", target.display());
        // Cargo runs from this folder, since the folder decides which toolchain and configuration cargo uses.
        let mut build = cargo();
        build.args(["build", "--release", "--locked", "--quiet", "-p", "ringhub", "--bin", name]);
        build.arg("--manifest-path").arg(tree.join("Cargo.toml")).arg("--target-dir").arg(&target);
        succeed(&mut build)?;
    }
    if program.exists() { Ok(program) } else { Err(format!("{} is not built", program.display()).into()) }
}

/// Returns the revision `asked`, or the first word of the file `asked`.
fn revision(asked: &str) -> Result<String, String> {
    if !Path::new(asked).is_file() {
        return Ok(asked.to_owned());
    }
    let text = fs::read_to_string(asked).map_err(|error| format!("--baseline {asked}: {error}"))?;
    let word = text.split_whitespace().next().map(str::to_owned);
    word.ok_or_else(|| format!("--baseline {asked}: the file is empty; its first word must be a commit"))
}

fn commit_of(asked: &str) -> Result<String, String> {
    let revision = revision(asked)?;
    git(&["rev-parse", "--git-dir"]).map_err(|why| format!("--baseline needs a git repository: {why}"))?;
    let commit = format!("{revision}^{{commit}}");
    git(&["rev-parse", "--verify", "--quiet", "--end-of-options", &commit]).map_err(|_| {
        format!(
            "--baseline {asked}: `{revision}` names no commit of this repository; fetch it first (a shallow clone \
             needs `git fetch --unshallow`)"
        )
    })
}

/// Makes `tree` a checkout of `commit`, unless it is one already.
fn check_out(commit: &str, tree: &Path) -> Result<(), String> {
    let path = tree.to_str().ok_or("the target folder's name is not UTF-8")?;
    if !tree.exists() {
        // `--force` is needed, since git still lists a worktree whose folder was removed.
        git(&["worktree", "add", "--force", "--detach", path, commit])
            .map_err(|why| format!("the baseline cannot be checked out: {why}"))?;
        return Ok(());
    }
    let head = git(&["-C", path, "rev-parse", "HEAD"]);
    // The file that `prepare_two_topics` adds is no change; it is written again if it differs.
    let but_ours = format!(":(exclude){TWO_TOPICS_SOURCE}");
    let changes = git(&["-C", path, "status", "--porcelain", "--untracked-files=all", "--", ".", &but_ours]);
    if head.as_deref() != Ok(commit) || changes.as_deref() != Ok("") {
        return Err(format!(
            "{path} is no clean checkout of {commit}: remove it, `git worktree remove --force {path}`"
        ));
    }
    Ok(())
}

/// The server's source, and its place below a baseline's checkout.
const TWO_TOPICS: &str = concat!(
    include_str!("two_topics.rs"),
    r#"
fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, listen, cpu] = &arguments[..] else { return Err("usage: two_topics ADDRESS CPU".into()) };
    serve(listen.parse()?, cpu.parse()?).map(drop)
}
"#
);
const TWO_TOPICS_SOURCE: &str = "src/bin/two_topics.rs";

#[cfg(test)]
mod tests {
    use super::*;

    /// The path from the package's folder, in which unit tests run.
    const ANCHOR: &str = "ANCHOR";

    #[test]
    fn a_file_gives_its_first_word_and_anything_else_itself() {
        let anchor = revision(ANCHOR).unwrap();
        assert!(anchor.len() == 40 && anchor.bytes().all(|byte| byte.is_ascii_hexdigit()), "{anchor}");
        assert_eq!(revision("HEAD~3").as_deref(), Ok("HEAD~3"));
        // A folder is not read as a file.
        assert_eq!(revision("src").as_deref(), Ok("src"));
    }

    #[test]
    fn a_file_without_a_word_is_named() {
        let empty = std::env::temp_dir().join(format!("ringhub-bench-{}", std::process::id()));
        fs::write(&empty, " \n").unwrap();
        let why = revision(empty.to_str().unwrap()).unwrap_err();
        fs::remove_file(&empty).unwrap();
        assert!(why.contains("first word"), "{why}");
    }

    #[test]
    fn a_missing_commit_is_named_with_what_to_do() {
        let missing = "0123456789012345678901234567890123456789";
        let why = commit_of(missing).unwrap_err();
        let has_repository = git(&["rev-parse", "--git-dir"]).is_ok();
        let expected = if has_repository { "names no commit" } else { "needs a git repository" };
        assert!(why.contains(expected), "{why}");
        // An option is taken as a revision, which does not exist.
        assert!(commit_of("--all").is_err());
    }
}
