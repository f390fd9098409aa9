//! Reads the query of a request's target, once for all uses.

use std::borrow::Cow;

use super::syntax::percent_decode;

/// A key and its value; `None` for one that is not percent-encoded UTF-8.
pub(crate) type QueryPair<'a> = (Option<Cow<'a, str>>, Option<Cow<'a, str>>);

/// Returns the pairs of a query in their order, keys and values percent-decoded (RFC 3986 2.1); a `+` stays a `+`. A
/// key without `=` has an empty value. A key or a value that is not percent-encoded UTF-8 is `None`.
pub(crate) fn query_pairs(query: Option<&str>) -> impl Iterator<Item = QueryPair<'_>> {
    let pairs = query.into_iter().flat_map(|query| query.split('&')).filter(|pair| !pair.is_empty());
    pairs.map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (percent_decode(key), percent_decode(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs() {
        let found: Vec<_> = query_pairs(Some("a=1&&%62=%C3%BC+&c&=d&%=e&f=%ff&g=h=i")).collect();
        let pair = |key, value| (Some(Cow::from(key)), Some(Cow::from(value)));
        let broken_key = (None, Some("e".into()));
        let broken_value = (Some("f".into()), None);
        let rest = [broken_key, broken_value, pair("g", "h=i")];
        assert_eq!(found[..4], [pair("a", "1"), pair("b", "ü+"), pair("c", ""), pair("", "d")]);
        assert_eq!(found[4..], rest);
        assert_eq!(query_pairs(None).chain(query_pairs(Some(""))).count(), 0);
    }
}
