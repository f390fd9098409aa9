//! HTML: text that cannot become markup, and tables.

use std::fmt::Write as _;

/// Returns text with the characters escaped that mean something in HTML, in text and in quoted attributes.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Text may come from a server: it may not hide or turn what stands beside it.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => escaped.push('\u{fffd}'),
            control if control.is_control() && control != '\n' => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// Returns a table, or nothing without rows. The first cell of each row is its header. The cells are text.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut out = String::from("<div class=\"wide\"><table>");
    if !head.is_empty() {
        out.push_str("<thead><tr>");
        for cell in head {
            // Writing to a string does not fail, here and below.
            _ = write!(out, "<th scope=\"col\">{}</th>", escape(cell));
        }
        out.push_str("</tr></thead>");
    }
    out.push_str("<tbody>");
    for row in rows {
        out.push_str("<tr>");
        for (place, cell) in row.iter().enumerate() {
            let (begin, end) = if place == 0 { ("<th scope=\"row\">", "</th>") } else { ("<td>", "</td>") };
            _ = write!(out, "{begin}{}{end}", escape(cell));
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
    out
}

/// Returns a list of names and values.
pub(crate) fn facts(facts: &[(String, String)]) -> String {
    let pairs = facts.iter().map(|(name, value)| format!("<dt>{}</dt><dd>{}</dd>", escape(name), escape(value)));
    format!("<dl>{}</dl>", pairs.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escape("<a href='x'>\"&\"</a>"), "&lt;a href=&#39;x&#39;&gt;&quot;&amp;&quot;&lt;/a&gt;");
        assert_eq!(escape("a\u{202e}b\u{0}c\nd"), "a\u{fffd}b\u{fffd}c\nd");
    }

    #[test]
    fn a_table_has_headers_and_escaped_cells() {
        let table = table(&["<", "b"], &[vec!["c".to_owned(), ">".to_owned()]]);
        let head = "<thead><tr><th scope=\"col\">&lt;</th><th scope=\"col\">b</th></tr></thead>";
        let body = "<tbody><tr><th scope=\"row\">c</th><td>&gt;</td></tr></tbody>";
        assert_eq!(table, format!("<div class=\"wide\"><table>{head}{body}</table></div>"));
    }
}
