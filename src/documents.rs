//! Static documents: the files of a folder over plain HTTP.
//!
//! tower-http's `ServeDir` does the part of HTTP: content types, validators, conditions and ranges. [`Documents`]
//! decides which files are opened.

#![forbid(unsafe_code)]

use std::{
    fmt, fs,
    future::Future,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
};
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};
use tower_http::services::{
    ServeDir,
    fs::{Backend, DefaultServeDirFallback, File as DocumentFile},
};

use crate::proto::Refusal;

/// The body of an answer: whole, or a file that is read while it is sent.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Returns a body that is in memory.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// The documents of a folder, for GET and HEAD.
///
/// - The path of a folder with a slash at the end is answered with its `index.html`; without the slash, with a redirect
///   to the path that has it.
/// - Content types follow from names, and that of text has `charset=utf-8`. Every file has a strong `ETag` and a
///   `Last-Modified`, so a request may have conditions such as `If-None-Match` (RFC 9110 13) and a range of bytes (RFC
///   9110 14), also with `If-Range`. A request for several ranges, or for more last bytes than the file has, gets the
///   whole file.
/// - `Cache-Control` is `no-cache` unless [`Documents::cache_control`] sets another value: a cache may keep the file,
///   but has to revalidate it for each use.
/// - A file is read in pieces of 64 KiB while it is sent, on threads that may wait.
///
/// # What is not served
///
/// Names that begin with a dot, other than `/.well-known/` (RFC 8615). Files that are not regular. Paths with a segment
/// that is empty and not the last, or has a slash, a backslash or NUL in it. A symbolic link is followed while it stays
/// within the folder, which the kernel checks when it opens a file (`openat2` with `RESOLVE_BENEATH`); a link that
/// leads out of it, or is absolute, is not followed. All of these are answered 404, and so are files without permission
/// to read.
///
/// The folder is opened once. If it is renamed, it is still served; another folder under the old name is not. So
/// replace the folder's contents, or a link within it, and not the folder.
///
/// ```
/// # let folder = std::env::temp_dir().join(format!("documents-{}", std::process::id()));
/// # std::fs::create_dir(&folder)?;
/// # std::fs::write(folder.join("hello.txt"), "hello")?;
/// use hyper::Request;
/// use ringhub::{documents::Documents, proto::RequestPath};
/// let documents = Documents::new(&folder)?;
/// let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// let request = Request::get("/site/hello.txt").body(())?;
/// let path = RequestPath::parse(request.uri().path())?;
/// let below: Vec<&str> = path.segments().skip(1).collect();
/// let answer = runtime.block_on(documents.answer(&request, &below)).map_err(|refusal| refusal.error)?;
/// assert_eq!(answer.headers()["content-type"], "text/plain; charset=utf-8");
/// let request = Request::get("/site/nothing").body(())?;
/// assert_eq!(runtime.block_on(documents.answer(&request, &["nothing"])).unwrap_err().status, 404);
/// # std::fs::remove_dir_all(folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Documents {
    root: Arc<Path>,
    files: ServeDir<DefaultServeDirFallback, Folder>,
    cache_control: HeaderValue,
}

impl Documents {
    /// Returns the documents of a folder.
    ///
    /// # Errors
    ///
    /// If `root` is no folder, may not be read, or `openat2` is refused.
    pub fn new(root: impl AsRef<Path>) -> Result<Documents, DocumentsError> {
        let root = root.as_ref();
        let fail = |error: io::Error| DocumentsError { root: root.into(), error };
        let canonical = root.canonicalize().map_err(fail)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&canonical, flags, Mode::empty()).map_err(|error| fail(error.into()))?;
        let folder = Folder(Arc::new(folder));
        // If `openat2` fails, it fails here and not at the first request.
        drop(folder.open_beneath(Path::new(".")).map_err(fail)?);
        let files = ServeDir::with_backend("", folder).ignore_multi_range_requests(true);
        let cache_control = HeaderValue::from_static("no-cache");
        Ok(Documents { root: canonical.into(), files, cache_control })
    }

    /// Sets `Cache-Control` of documents and redirects, such as `public, max-age=3600` (RFC 9111 5.2).
    ///
    /// # Errors
    ///
    /// A sentence, if the value cannot be sent in a header line.
    pub fn cache_control(mut self, value: &str) -> Result<Documents, String> {
        let is_visible = !value.is_empty() && value.bytes().all(|octet| octet.is_ascii_graphic() || octet == b' ');
        let checked = HeaderValue::from_str(value).ok().filter(|_| is_visible);
        self.cache_control = checked.ok_or_else(|| format!("{value:?} cannot be sent as Cache-Control"))?;
        Ok(self)
    }

    /// Returns the path of the folder, without symbolic links.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Answers a request for a document. `below` has the segments of the request's path after the place of the folder,
    /// as [`RequestPath`](crate::proto::RequestPath) has them. If `below` is empty, the path names the folder without a
    /// slash at the end, and the answer is a redirect.
    ///
    /// # Errors
    ///
    /// 404 for a path without a document, 405 for another method, 412 for a condition that does not hold, 416 for a
    /// range that is malformed or beyond the end, 500 for a file that exists and cannot be opened.
    pub async fn answer<B>(&self, request: &Request<B>, below: &[impl AsRef<str>]) -> Result<Response<Body>, Refusal> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return Err(Refusal::new(405, "documents take GET and HEAD").header("Allow", "GET, HEAD"));
        }
        let not_found = || Refusal::new(404, format!("no document is at {:?}", request.uri().path()));
        if below.is_empty() {
            return Ok(self.redirect_into(request.uri()));
        }
        if !is_servable(below) {
            return Err(not_found());
        }
        // `ServeDir` decodes the path, so it gets the same segments.
        let encoded = below.iter().map(|segment| utf8_percent_encode(segment.as_ref(), NON_ALPHANUMERIC));
        let inner = encoded.fold(String::new(), |inner, segment| format!("{inner}/{segment}"));
        let inner: Uri = inner.parse().map_err(|_| not_found())?;
        let mut headers = request.headers().clone();
        let if_range = headers.remove(header::IF_RANGE);
        if request.method() == Method::HEAD || !has_byte_range(&headers) {
            // RFC 9110 14.2: a range holds for GET only, and one in an unknown unit is ignored.
            headers.remove(header::RANGE);
        }
        let mut answer = self.answer_file(&inner, &headers).await?;
        let is_range = [StatusCode::PARTIAL_CONTENT, StatusCode::RANGE_NOT_SATISFIABLE].contains(&answer.status());
        // RFC 9110 13.1.5: the client has another version, so the range is ignored. A date is never accepted, since
        // every file has an ETag.
        let is_other_version = if_range.is_some_and(|validator| Some(&validator) != answer.headers().get(header::ETAG));
        // RFC 9110 14.1.2: the last 100 bytes of a file of 10 are all 10, but tower-http answers 416. An empty file has
        // no range, but tower-http answers 206.
        let is_longer_suffix = answer.status() == StatusCode::RANGE_NOT_SATISFIABLE && has_suffix_range(&headers);
        let is_empty = answer.headers().get(header::CONTENT_LENGTH).is_some_and(|length| length == "0");
        if is_range && (is_other_version || is_longer_suffix || is_empty) {
            headers.remove(header::RANGE);
            // Closes the first file: one descriptor is reserved for each request.
            drop(answer);
            answer = self.answer_file(&inner, &headers).await?;
        }
        match answer.status() {
            StatusCode::NOT_FOUND => Err(not_found()),
            StatusCode::PRECONDITION_FAILED => Err(Refusal::new(412, "the document is not the one that was meant")),
            StatusCode::RANGE_NOT_SATISFIABLE => {
                let length = answer.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
                let refusal = Refusal::new(416, "the document has no such range of bytes");
                Err(length.iter().fold(refusal, |refusal, length| refusal.header("Content-Range", length)))
            }
            StatusCode::TEMPORARY_REDIRECT => Ok(self.redirect_into(request.uri())),
            _ => {
                self.complete(answer.headers_mut());
                if request.method() == Method::HEAD {
                    *answer.body_mut() = whole("");
                }
                Ok(answer)
            }
        }
    }

    /// Answers GET and HEAD from an open file. `answer` drops the body for HEAD, so HEAD has the header lines of a GET
    /// without `Range`.
    async fn answer_file(&self, uri: &Uri, headers: &HeaderMap) -> Result<Response<Body>, Refusal> {
        let mut request = Request::get(uri.clone()).body(Full::<Bytes>::default()).expect("a path that was parsed");
        *request.headers_mut() = headers.clone();
        match self.files.clone().try_call(request).await {
            Ok(answer) => Ok(answer.map(|body| body.boxed_unsync())),
            Err(error) if is_absence(&error) => {
                let mut answer = Response::new(whole(""));
                *answer.status_mut() = StatusCode::NOT_FOUND;
                Ok(answer)
            }
            Err(error) => {
                tracing::warn!(%error, root = %self.root.display(), path = uri.path(), "a document cannot be opened");
                Err(Refusal::new(500, "the document cannot be read"))
            }
        }
    }

    /// Returns a redirect to the same path with a slash, so that relative links in the page work. The target is
    /// relative, so it cannot lead to another host.
    fn redirect_into(&self, uri: &Uri) -> Response<Body> {
        let folder = uri.path().rsplit('/').next().unwrap_or_default();
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let mut answer = Response::new(whole(""));
        *answer.status_mut() = StatusCode::TEMPORARY_REDIRECT;
        if let Ok(location) = HeaderValue::from_str(&format!("./{folder}/{query}")) {
            answer.headers_mut().insert(header::LOCATION, location);
        }
        answer.headers_mut().insert(header::CACHE_CONTROL, self.cache_control.clone());
        answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(0));
        answer
    }

    /// Completes the header lines of a document.
    fn complete(&self, headers: &mut HeaderMap) {
        headers.insert(header::CACHE_CONTROL, self.cache_control.clone());
        headers.insert(NO_SNIFFING.0, NO_SNIFFING.1);
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if let Some(text) = content_type.filter(|value| value.starts_with("text/") && !value.contains(';'))
            && let Ok(value) = HeaderValue::from_str(&format!("{text}; charset=utf-8"))
        {
            headers.insert(header::CONTENT_TYPE, value);
        }
    }
}

impl fmt::Debug for Documents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Documents").field(&self.root).finish()
    }
}

/// A folder that cannot be served.
#[derive(Debug)]
pub struct DocumentsError {
    root: PathBuf,
    error: io::Error,
}

impl fmt::Display for DocumentsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DocumentsError { root, error } = self;
        write!(f, "the folder {root:?} cannot be served: {error}")?;
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOSYS | Errno::PERM) => f.write_str(" (does the container's seccomp profile allow openat2?)"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for DocumentsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Returns whether a document may be below these segments. A document has no second path by empty or dot segments.
fn is_servable(below: &[impl AsRef<str>]) -> bool {
    let last = below.len() - 1;
    below.iter().map(AsRef::as_ref).enumerate().all(|(at, name)| {
        let is_hidden = name.starts_with('.') && !(at == 0 && name == ".well-known");
        let is_folder = name.is_empty() && at == last;
        (!name.is_empty() || is_folder) && !is_hidden && !name.contains(['/', '\\', '\0'])
    })
}

/// Returns whether the request has one range in bytes. Other units are ignored (RFC 9110 14.2).
fn has_byte_range(headers: &HeaderMap) -> bool {
    let mut ranges = headers.get_all(header::RANGE).iter();
    ranges.next().is_some_and(|value| value.as_bytes().starts_with(b"bytes=")) && ranges.next().is_none()
}

/// Returns whether the range is a suffix of at least one byte.
fn has_suffix_range(headers: &HeaderMap) -> bool {
    let suffix = headers.get(header::RANGE).and_then(|value| value.to_str().ok()?.strip_prefix("bytes=-"));
    suffix.is_some_and(|count| count.bytes().all(|c| c.is_ascii_digit()) && count.bytes().any(|c| c != b'0'))
}

/// Returns whether the error is answered 404.
fn is_absence(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidFilename, NotADirectory, NotFound, PermissionDenied};
    [NotFound, PermissionDenied, NotADirectory, InvalidFilename].contains(&error.kind())
}

const NO_SNIFFING: (HeaderName, HeaderValue) = (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));

/// The open folder, from which `ServeDir` opens files.
#[derive(Debug, Clone)]
struct Folder(Arc<OwnedFd>);

impl Folder {
    /// Opens a file, and does not wait, not even for the other end of a pipe.
    fn open_beneath(&self, path: &Path) -> io::Result<fs::File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..ATTEMPTS {
            match rustix::fs::openat2(&*self.0, path, flags, Mode::empty(), resolve) {
                Ok(file) => return Ok(file.into()),
                // A file or folder was renamed meanwhile, and the kernel cannot tell whether the path stays within the
                // folder.
                Err(Errno::AGAIN | Errno::INTR) => {}
                // The path leads out of the folder, in circles, or to a socket.
                Err(Errno::XDEV | Errno::LOOP | Errno::NXIO) => return Err(io::ErrorKind::NotFound.into()),
                Err(error) => return Err(error.into()),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// Opens a file on a thread that may wait.
    async fn open_elsewhere(self, path: PathBuf) -> io::Result<fs::File> {
        tokio::task::spawn_blocking(move || self.open_beneath(&path)).await?
    }
}

const ATTEMPTS: usize = 16;

type Opening<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

impl Backend for Folder {
    type File = Document;
    type Metadata = fs::Metadata;
    type OpenFuture = Opening<Document>;
    type MetadataFuture = Opening<fs::Metadata>;

    fn open(&self, path: PathBuf) -> Self::OpenFuture {
        let folder = self.clone();
        Box::pin(async move {
            let file = tokio::fs::File::from_std(folder.open_elsewhere(path).await?);
            let metadata = file.metadata().await?;
            if !metadata.is_file() {
                return Err(io::ErrorKind::NotFound.into());
            }
            Ok(Document { file, metadata })
        })
    }

    fn metadata(&self, path: PathBuf) -> Self::MetadataFuture {
        let folder = self.clone();
        Box::pin(async move { tokio::fs::File::from_std(folder.open_elsewhere(path).await?).metadata().await })
    }
}

/// An open file, with its metadata from the time of the opening.
struct Document {
    file: tokio::fs::File,
    metadata: fs::Metadata,
}

impl DocumentFile for Document {
    type Metadata = fs::Metadata;
    type MetadataFuture<'a> = std::future::Ready<io::Result<fs::Metadata>>;

    fn metadata(&self) -> Self::MetadataFuture<'_> {
        std::future::ready(Ok(self.metadata.clone()))
    }
}

impl AsyncRead for Document {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_read(cx, buffer)
    }
}

impl AsyncSeek for Document {
    fn start_seek(mut self: Pin<&mut Self>, position: io::SeekFrom) -> io::Result<()> {
        Pin::new(&mut self.file).start_seek(position)
    }

    fn poll_complete(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Pin::new(&mut self.file).poll_complete(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let good: [&[&str]; 10] = [
            &[""],
            &["a"],
            &["a", ""],
            &["a", "b.html"],
            &["a b"],
            &["ü"],
            &["a..b"],
            &["a."],
            &[".well-known", "x"],
            &["a:b", "~", "a%"],
        ];
        for below in good {
            assert!(is_servable(below), "{below:?}");
        }
        let bad: [&[&str]; 15] = [
            &["", "a"],
            &["a", "", "b"],
            &["", ""],
            &[".."],
            &["a", ".."],
            &["..", "a"],
            &["."],
            &["a", ".", "b"],
            &[".git", "config"],
            &["a", ".b"],
            &["a/b"],
            &["a\\b"],
            &["a\0"],
            &["a", ".well-known", "x"],
            &[".well-known2"],
        ];
        for below in bad {
            assert!(!is_servable(below), "{below:?}");
        }
    }
}
