//! The last head of a connection: a head that comes again byte for byte is not parsed again.
//!
//! A program that publishes by HTTP keeps its connection, and its requests differ only in their bodies. To parse the
//! head and to free it costs a fifth of the control thread's work for such a request.

use std::{fmt, sync::Arc};

use crate::proto::{HeadScan, HttpError, RequestHead};

/// The last head of a connection, with its bytes.
#[derive(Default)]
pub(super) struct LastHead {
    bytes: Vec<u8>,
    head: Option<Arc<RequestHead>>,
}

impl LastHead {
    /// Reads the head at the front of `received` as [`RequestHead::decode_with`] does, and keeps it.
    ///
    /// # Errors
    ///
    /// See [`HttpError`].
    pub(super) fn decode(
        &mut self,
        scan: &mut HeadScan,
        received: &[u8],
    ) -> Result<Option<(Arc<RequestHead>, usize)>, HttpError> {
        // A head follows from its bytes alone, whatever `scan` has seen of them.
        if let Some(head) = self.head.as_ref().filter(|_| received.starts_with(&self.bytes)) {
            return Ok(Some((Arc::clone(head), self.bytes.len())));
        }
        let Some((head, length)) = RequestHead::decode_with(scan, received)? else { return Ok(None) };
        let head = Arc::new(head);
        self.head = (length <= KEPT_BYTES_MAX).then(|| Arc::clone(&head));
        if self.head.is_some() {
            self.bytes.clear();
            self.bytes.extend_from_slice(&received[..length]);
        }
        Ok(Some((head, length)))
    }
}

/// Leaves out the head, which may have a token.
impl fmt::Debug for LastHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LastHead").finish_non_exhaustive()
    }
}

/// The longest head that is kept: those of programs are short, and an idle connection keeps its last head.
const KEPT_BYTES_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "POST /t/news HTTP/1.1\r\nHost: hub\r\nContent-Length: 5\r\n\r\n";

    /// Checks that the head at the front of `received` is read as if it was the first. Returns it.
    fn check(last: &mut LastHead, received: &str) -> Option<Arc<RequestHead>> {
        let read = last.decode(&mut HeadScan::default(), received.as_bytes());
        let first = RequestHead::decode(received.as_bytes());
        assert_eq!(
            read.clone().map(|read| read.map(|(head, length)| ((*head).clone(), length))),
            first,
            "{received:?}"
        );
        read.ok().flatten().map(|(head, _)| head)
    }

    #[test]
    fn a_head_that_comes_again_is_parsed_once() {
        let mut last = LastHead::default();
        let first = check(&mut last, &format!("{HEAD}hello")).unwrap();
        let second = check(&mut last, &format!("{HEAD}other")).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
    }

    #[test]
    fn any_other_head_is_parsed() {
        let long = format!("GET /long HTTP/1.1\r\nHost: hub\r\nX: {}\r\n\r\n", "x".repeat(KEPT_BYTES_MAX));
        let others = [
            HEAD.replace("news", "sewn"),
            HEAD.replace("Content-Length: 5", "Content-Length: 6"),
            HEAD.replace("\r\n\r\n", "\r\nX-A: b\r\n\r\n"),
            HEAD[..HEAD.len() - 1].to_owned(),
            HEAD[..HEAD.len() - 2].to_owned(),
            format!("\r\n{HEAD}"),
            "GET / HTTP/1.1\r\nHost hub\r\n\r\n".to_owned(),
            long,
            String::new(),
        ];
        for other in &others {
            let mut last = LastHead::default();
            let first = check(&mut last, HEAD).unwrap();
            if let Some(read) = check(&mut last, other) {
                assert!(!Arc::ptr_eq(&first, &read), "{other:?}");
            }
            check(&mut last, HEAD).unwrap();
            check(&mut last, other);
        }
    }

    /// A head may come in parts, whichever head was the last.
    #[test]
    fn a_head_comes_in_parts() {
        let mut last = LastHead::default();
        let first = check(&mut last, HEAD).unwrap();
        for other in [HEAD.to_owned(), HEAD.replace("news", "sewn")] {
            let mut scan = HeadScan::default();
            for end in 0..other.len() {
                assert_eq!(last.decode(&mut scan, &other.as_bytes()[..end]), Ok(None));
            }
            let (head, length) = last.decode(&mut scan, other.as_bytes()).unwrap().unwrap();
            assert_eq!((Arc::ptr_eq(&head, &first), length), (other == HEAD, HEAD.len()));
        }
    }

    #[test]
    fn a_long_head_is_not_kept() {
        let mut last = LastHead::default();
        check(&mut last, &format!("GET / HTTP/1.1\r\nHost: hub\r\nX: {}\r\n\r\n", "x".repeat(KEPT_BYTES_MAX))).unwrap();
        assert!(last.head.is_none() && last.bytes.capacity() == 0);
    }
}
