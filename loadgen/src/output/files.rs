//! Files that a report is written to. They are opened before the run, so that a wrong path costs no run.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// A file that waits for its text.
#[derive(Debug)]
pub(crate) struct Pending {
    flag: &'static str,
    path: PathBuf,
    file: File,
}

/// A file that could not be opened or written.
#[derive(Debug)]
pub struct FileError {
    /// The flag that names the file.
    flag: &'static str,
    /// What was attempted: `open` or `write`.
    attempt: &'static str,
    path: PathBuf,
    error: io::Error,
}

impl fmt::Display for FileError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FileError { flag, attempt, path, error } = self;
        write!(out, "{flag} {}: cannot {attempt} the file: {error}", path.display())
    }
}

impl std::error::Error for FileError {}

impl Pending {
    /// Opens the file of a flag. The file's earlier content stays until [`Self::write`].
    pub(crate) fn open(flag: &'static str, path: &Path) -> Result<Pending, FileError> {
        if path == Path::new("-") {
            let error = io::Error::other("- is no file; standard output is /dev/stdout");
            return Err(FileError { flag, attempt: "open", path: path.to_owned(), error });
        }
        match OpenOptions::new().create(true).write(true).truncate(false).open(path) {
            Ok(file) => Ok(Pending { flag, path: path.to_owned(), file }),
            Err(error) => Err(FileError { flag, attempt: "open", path: path.to_owned(), error }),
        }
    }

    /// Returns the path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the content.
    pub(crate) fn write(mut self, text: &str) -> Result<(), FileError> {
        let truncated = match self.file.metadata() {
            // A device or a pipe has no length.
            Ok(metadata) if !metadata.is_file() => Ok(()),
            _ => self.file.set_len(0),
        };
        let written = truncated.and_then(|()| self.file.write_all(text.as_bytes())).and_then(|()| self.file.flush());
        written.map_err(|error| FileError { flag: self.flag, attempt: "write", path: self.path, error })
    }
}
