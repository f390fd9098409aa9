//! The page in HTML, `bench/results.html`: one file, without scripts.

use super::view::{Line, REAL_PRESETS, ROUNDS, Row, SCRIPTED_PRESETS, View};
use crate::scenario::Verdict;
use ringhub_loadgen::escape;
use std::fmt::Write as _;

/// Returns the page.
pub(crate) fn page(view: &View) -> String {
    let mut out = String::from(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>ringhub: results</title>\n<style>\n",
    );
    out += STYLE;
    // Writing to a string does not fail, here and below.
    _ = write!(
        out,
        "</style>\n</head>\n<body>\n<h1>Results</h1>\n<p class=\"summary\">{}</p>\n<dl>\n",
        escape(&view.summary())
    );
    for (name, value) in &view.facts {
        _ = writeln!(out, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
    }
    _ = write!(
        out,
        "</dl>\n<p>Each drawn bar is a value as a multiple of its limit; the upright mark is the limit. With ≤ the bar \
         must not pass the mark, with ≥ it must reach the mark. The thin line is the spread of the rounds. A bar is \
         judged from {ROUNDS} rounds on; one that misses by at most 3 % counts as met.</p>\n"
    );
    for row in &view.rows {
        out += &section(row);
    }
    out += "<section>\n<h2>Servers</h2>\n<dl>\n";
    for server in &view.servers {
        let version = server.version.as_deref().or(server.obstacle.as_deref()).unwrap_or("of this repository");
        _ = writeln!(out, "<dt>{}</dt><dd>{}; {}</dd>", escape(&server.name), escape(version), escape(&server.setting));
    }
    _ = write!(
        out,
        "</dl>\n<p>Presets of the generator that were tested against a server of the kind: {}. Tested only against a \
         peer that plays the server's part by a script: {}.</p>\n</section>\n</body>\n</html>\n",
        REAL_PRESETS.join(", "),
        SCRIPTED_PRESETS.join(", ")
    );
    out
}

fn section(row: &Row) -> String {
    let mut out = format!("<section>\n<h2 id=\"{0}\">{0}</h2>\n<p>{1}</p>\n", escape(row.name), escape(&row.load));
    for line in &row.lines {
        let class = class(line);
        let sides = match line.against.as_str() {
            "absolute" => line.of.clone(),
            against => format!("{} / {against}", line.of),
        };
        let sides = sides.replace(" / above ", " above ");
        _ = writeln!(
            out,
            "<div class=\"bar {class}\"><div>{} <b>{}</b></div>{}<div><b>{}</b> <small>{}</small> must be {}</div>\
             <div class=\"verdict\">{}</div></div>",
            escape(&line.what),
            escape(&sides),
            drawing(line),
            escape(&line.value),
            escape(&line.spread),
            escape(&line.must),
            escape(&line.verdict())
        );
    }
    let notes = if row.notes.is_empty() { "How to measure it".to_owned() } else { row.notes.join("; ") };
    _ = writeln!(out, "<details><summary>{}</summary>", escape(&notes));
    if !row.medians.is_empty() {
        out += &table(&row.cells());
    }
    _ = write!(out, "<pre>{}</pre>\n</details>\n</section>\n", escape(&row.commands.join("\n")));
    out
}

/// Returns a table whose first row is its head.
fn table(rows: &[Vec<String>]) -> String {
    let mut out = String::from("<div class=\"wide\"><table>\n");
    for (number, row) in rows.iter().enumerate() {
        out += "<tr>";
        for (place, cell) in row.iter().enumerate() {
            let (begin, end) = match (number, place) {
                (0, _) => ("<th scope=\"col\">", "</th>"),
                (_, 0) => ("<th scope=\"row\">", "</th>"),
                _ => ("<td>", "</td>"),
            };
            _ = write!(out, "{begin}{}{end}", escape(cell));
        }
        out += "</tr>\n";
    }
    out + "</table></div>\n"
}

/// Returns the drawing of a value: a bar, the mark of its limit, and the spread.
fn drawing(line: &Line) -> String {
    let label = escape(&format!("{}, must be {}", line.value, line.must));
    let mut out = format!("<svg viewBox=\"0 0 {WIDTH} 20\" role=\"img\" aria-label=\"{label}\">");
    _ = write!(out, "<rect class=\"track\" y=\"5\" width=\"{WIDTH}\" height=\"10\"/>");
    if let Some((of_limit, found)) = line.of_limit.zip(line.found) {
        let place = |value: f64| (value * of_limit / found.value * WIDTH / LIMITS_WIDE).clamp(0.0, WIDTH);
        let [least, most] = found.spread.map(place);
        _ = write!(out, "<rect class=\"value\" y=\"5\" width=\"{:.1}\" height=\"10\"/>", place(found.value));
        _ = write!(out, "<path class=\"spread\" d=\"M{least:.1} 10H{most:.1}\"/>");
    }
    let mark = WIDTH / LIMITS_WIDE;
    _ = write!(out, "<path class=\"mark\" d=\"M{mark:.1} 1V19\"/></svg>");
    out
}

fn class(line: &Line) -> &'static str {
    match line.result {
        Ok(Verdict::Met) => "met",
        Ok(Verdict::WithinNoise) => "near",
        Ok(Verdict::Missed) => "missed",
        Err(_) => "open",
    }
}

const STYLE: &str = include_str!("style.css");
const WIDTH: f64 = 200.0;

/// The width of a drawing in limits.
const LIMITS_WIDE: f64 = 1.5;

#[cfg(test)]
mod tests {
    use super::super::view::testing::view;
    use super::*;

    #[test]
    fn the_page_needs_nothing_from_outside() {
        let page = page(&view());
        for word in ["<script", "<link", "src=", "href=", "url(", "@import", "http:", "https:"] {
            assert!(!page.contains(word), "{word}");
        }
        for word in ["prefers-color-scheme: dark", "width=device-width", "<svg ", "max-width"] {
            assert!(page.contains(word), "{word}");
        }
        assert_eq!(page.matches("<svg ").count(), page.matches("</svg>").count());
        assert_eq!(page.matches("<section>").count(), page.matches("</section>").count());
        assert_eq!(page.matches("<div").count(), page.matches("</div>").count());
    }

    #[test]
    fn each_result_has_its_class_and_its_words() {
        let page = page(&view());
        for (class, verdict) in
            [("met", "met"), ("near", "met within 3 %"), ("missed", "MISSED"), ("open", "not run: a")]
        {
            let line = page.lines().find(|line| line.starts_with(&format!("<div class=\"bar {class}\">"))).unwrap();
            assert!(line.contains(&format!("<div class=\"verdict\">{verdict}")), "{line}");
        }
        assert!(page.contains("ns of CPU per delivery <b>shards2 / hub</b>"));
        assert!(page.contains("<td>900 (880–920)</td>") && page.contains("<td>–</td>"));
        assert!(page.contains("<th scope=\"row\">hub / bun</th><td>0.930×</td>"));
    }

    #[test]
    fn a_bar_ends_where_its_value_is() {
        let view = view();
        let drawn = |place: usize| drawing(&view.rows[0].lines[place]);
        // The limit is at two thirds of 200; the values are 1.00 of 1.03, and 1.10 of 0.95.
        assert!(drawn(0).contains("class=\"mark\" d=\"M133.3 1V19\""), "{}", drawn(0));
        assert!(drawn(0).contains("class=\"value\" y=\"5\" width=\"129.4\""), "{}", drawn(0));
        assert!(drawn(2).contains("class=\"value\" y=\"5\" width=\"154.4\""), "{}", drawn(2));
        assert!(drawn(2).contains("class=\"spread\" d=\"M140.4 10H168.4\""), "{}", drawn(2));
        assert!(!drawn(3).contains("class=\"value\"") && drawn(3).contains("class=\"mark\""), "{}", drawn(3));
    }

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escape("<a b='c'>\"&\"\u{7}"), "&lt;a b=&#39;c&#39;&gt;&quot;&amp;&quot;\u{fffd}");
    }
}
