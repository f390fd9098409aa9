//! Values that stand in files of their own, `file:PATH`: secrets that a service manager or Kubernetes mounts.

use std::{
    cell::RefCell,
    fs::File,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use super::value::Shape;
use crate::error::{ConfigError, Origin};

/// An item's text, and its place.
pub(super) type Item = (String, Origin);

/// Reads the values that stand in files, and notes which files these are.
#[derive(Debug)]
pub(super) struct FileValues {
    /// The folder to which relative paths belong.
    folder: PathBuf,
    read: RefCell<Vec<ValueFile>>,
}

/// A file whose contents are a value.
#[derive(Debug)]
struct ValueFile {
    path: PathBuf,
    key: &'static str,
    /// The bits of its permissions.
    mode: u32,
    /// A hash of its contents, by which a reload notices that they have changed.
    digest: u64,
}

impl FileValues {
    /// Returns the reader of values whose relative paths belong to a folder.
    pub(super) fn below(folder: impl Into<PathBuf>) -> FileValues {
        FileValues { folder: folder.into(), read: RefCell::default() }
    }

    /// Returns the items of a value, with the contents of a file in the place of each item `file:PATH`. Newlines at the
    /// end of a file are dropped. Where the value is a list, each line that is not empty is an item.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, is no regular file, is too large, is not UTF-8, or has no value in it.
    pub(super) fn resolve(&self, shape: Shape, items: Vec<Item>) -> Result<Vec<Item>, ConfigError> {
        // An item of `allowed_origins` that begins with `file://` is an origin, not a file to read.
        if shape.key.ends_with("allowed_origins") || !items.iter().any(|(text, _)| text.starts_with(PREFIX)) {
            return Ok(items);
        }
        let mut resolved = Vec::with_capacity(items.len());
        for (text, origin) in items {
            let Some(path) = text.strip_prefix(PREFIX) else {
                resolved.push((text, origin));
                continue;
            };
            let contents =
                self.read(shape.key, path).map_err(|what| ConfigError::of(shape.key, what).from(origin.clone()))?;
            if shape.is_list {
                let lines = contents.lines().map(str::trim).filter(|line| !line.is_empty());
                resolved.extend(lines.map(|line| (line.to_owned(), origin.clone())));
            } else {
                resolved.push((contents, origin));
            }
        }
        Ok(resolved)
    }

    /// Returns the contents of a file without the newlines at their end.
    fn read(&self, key: &'static str, path: &str) -> Result<String, String> {
        if path.is_empty() {
            return Err(format!(
                "{PREFIX:?} is followed by the path of a file, such as \"{PREFIX}/run/secrets/token\""
            ));
        }
        let path = self.folder.join(path);
        let shown = path.display();
        let (contents, mode) =
            read_bounded(&path).map_err(|error| format!("the file {shown} of the value cannot be read: {error}"))?;
        let contents =
            String::from_utf8(contents).map_err(|_| format!("the file {shown} of the value is not UTF-8"))?;
        let value = contents.trim_end_matches(['\n', '\r']);
        if value.trim().is_empty() {
            return Err(format!("the file {shown} of the value is empty"));
        }
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        self.read.borrow_mut().push(ValueFile { path, key, mode, digest: hasher.finish() });
        Ok(value.to_owned())
    }

    /// Returns how many files have been read.
    pub(super) fn count(&self) -> usize {
        self.read.borrow().len()
    }

    /// Adds the contents of the files that were read after the first `count` to a hash.
    pub(super) fn hash_since(&self, count: usize, hasher: &mut impl std::hash::Hasher) {
        self.read.borrow()[count..].iter().for_each(|file| file.digest.hash(hasher));
    }

    /// Returns a warning for each file that every user of the machine may read. Public keys are no secrets.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for ValueFile { path, key, mode, .. } in &*self.read.borrow() {
            let warning = format!(
                "every user of the machine may read {}, the file of a value of {key}: its mode is {:04o}, and 0400 or \
                 0440 would do",
                path.display(),
                mode & 0o7777
            );
            if mode & 0o004 != 0 && *key != "issuers.public_keys" && !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        warnings
    }
}

/// Returns the contents of a regular file, and its mode.
fn read_bounded(path: &Path) -> io::Result<(Vec<u8>, u32)> {
    // Without `NONBLOCK` the open of a pipe that has no writer would never return.
    let flags = OFlags::NONBLOCK.bits() as i32;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut contents = Vec::new();
    file.take(VALUE_BYTES_MAX + 1).read_to_end(&mut contents)?;
    if contents.len() as u64 > VALUE_BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {VALUE_BYTES_MAX} bytes")));
    }
    Ok((contents, metadata.mode()))
}

/// The beginning of a value that stands in a file.
const PREFIX: &str = "file:";

/// The most bytes of a value's file: a set of public keys without certificates has fewer.
const VALUE_BYTES_MAX: u64 = 64 << 10;

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;
    use crate::error::Origin;

    /// A folder that is removed when this value is dropped.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let folder = std::env::temp_dir().join(format!("ringhub-values-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            Folder(folder)
        }

        fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
            fs::write(self.0.join(name), contents).unwrap();
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn shape(is_list: bool) -> Shape {
        Shape { key: "publish_tokens", is_list, takes_integers: false, expected: "text" }
    }

    fn resolve(values: &FileValues, is_list: bool, items: &[&str]) -> Result<Vec<String>, String> {
        let items = items.iter().map(|text| (text.to_string(), Origin::Default)).collect();
        let resolved = values.resolve(shape(is_list), items).map_err(|error| error.to_string())?;
        Ok(resolved.into_iter().map(|(text, _)| text).collect())
    }

    #[test]
    fn the_contents_stand_for_the_value() {
        let folder = Folder::new("contents");
        folder.write("one", "secret\r\n\n");
        folder.write("several", "first\n\n  second \nthird");
        let values = FileValues::below(&folder.0);
        assert_eq!(resolve(&values, false, &["file:one"]), Ok(vec!["secret".into()]));
        assert_eq!(resolve(&values, false, &["file:several"]), Ok(vec!["first\n\n  second \nthird".into()]));
        let absolute = format!("file:{}", folder.0.join("one").display());
        let all = resolve(&values, true, &["plain", "file:several", &absolute]);
        assert_eq!(all, Ok(["plain", "first", "second", "third", "secret"].map(String::from).to_vec()));
        assert_eq!(values.count(), 4);
        assert_eq!(resolve(&values, false, &["profile:x"]), Ok(vec!["profile:x".into()]));
        let origins = Shape { key: "routes.allowed_origins", ..shape(true) };
        let items = vec![("file://".to_string(), Origin::Default)];
        assert_eq!(values.resolve(origins, items.clone()), Ok(items));
    }

    #[test]
    fn a_file_that_has_no_value_is_an_error_with_its_path_and_cause() {
        let folder = Folder::new("errors");
        folder.write("empty", "\n \n");
        folder.write("binary", [0xff, 0xfe]);
        folder.write("large", vec![b'x'; VALUE_BYTES_MAX as usize + 1]);
        folder.write("largest", vec![b'x'; VALUE_BYTES_MAX as usize]);
        let values = FileValues::below(&folder.0);
        for (item, what) in [
            ("file:", "is followed by the path of a file"),
            ("file:missing", "missing of the value cannot be read: No such file"),
            ("file:empty", "empty of the value is empty"),
            ("file:binary", "binary of the value is not UTF-8"),
            ("file:large", "large of the value cannot be read: it has more than 65536 bytes"),
            ("file:.", "cannot be read: it is no regular file"),
            ("file:/dev/null", "cannot be read: it is no regular file"),
        ] {
            let error = resolve(&values, true, &[item]).expect_err(item);
            assert!(error.starts_with("publish_tokens: ") && error.contains(what), "{error}");
        }
        assert_eq!(values.count(), 0);
        assert!(resolve(&values, false, &["file:largest"]).is_ok());
    }

    /// A pipe that nobody writes to would hold the start, or a reload, for ever.
    #[test]
    fn a_pipe_is_refused_at_once() {
        let folder = Folder::new("pipe");
        let path = folder.0.join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let error = resolve(&FileValues::below(&folder.0), false, &["file:pipe"]).unwrap_err();
        assert!(error.ends_with("it is no regular file"), "{error}");
    }

    #[test]
    fn a_file_for_all_users_is_told() {
        let folder = Folder::new("modes");
        for (name, mode) in [("private", 0o400), ("of-group", 0o640), ("open", 0o644)] {
            folder.write(name, "secret");
            fs::set_permissions(folder.0.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let values = FileValues::below(&folder.0);
        resolve(&values, true, &["file:private", "file:of-group", "file:open", "file:open"]).unwrap();
        let warnings = values.warnings();
        let [warning] = &warnings[..] else { panic!("{warnings:?}") };
        let path = folder.0.join("open").display().to_string();
        let public = Shape { key: "issuers.public_keys", ..shape(false) };
        let of_keys = FileValues::below(&folder.0);
        of_keys.resolve(public, vec![("file:open".into(), Origin::Default)]).unwrap();
        assert!(of_keys.count() == 1 && of_keys.warnings().is_empty());
        assert!(warning.contains(&path) && warning.contains("0644") && !warning.contains("secret"), "{warning}");
    }

    #[test]
    fn other_contents_have_another_hash() {
        let folder = Folder::new("hashes");
        let hash = |contents: &str| {
            folder.write("value", contents);
            let values = FileValues::below(&folder.0);
            resolve(&values, true, &["file:value"]).unwrap();
            let mut hasher = DefaultHasher::new();
            values.hash_since(0, &mut hasher);
            hasher.finish()
        };
        assert_eq!(hash("one\n"), hash("one"));
        assert_ne!(hash("one"), hash("two"));
    }
}
