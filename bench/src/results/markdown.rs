//! The page in Markdown, `bench/RESULTS.md`.

use super::view::{Line, REAL_PRESETS, ROUNDS, Row, SCRIPTED_PRESETS, View};
use std::fmt::Write as _;

/// Returns the page.
pub(crate) fn page(view: &View) -> String {
    let mut out = format!(
        "# Results\n\n`bench/run results` writes this page from its records; [README.md](README.md) says how it \
         measures.\n\n**{}.**\n\n",
        view.summary()
    );
    let mut facts = vec![vec!["fact".to_owned(), "value".to_owned()]];
    facts.extend(view.facts.iter().map(|(name, value)| vec![(*name).to_owned(), value.clone()]));
    out += &table(&facts);
    // Writing to a string does not fail, here and below.
    _ = write!(
        out,
        "\n## Bars\n\nA value with × is the ratio of two medians, the measured server's divided by the other one's. In \
         parentheses\nare the least and the greatest value of a round. A bar is judged from {ROUNDS} interleaved \
         rounds on, all in one placement of\nthe CPUs. A value that misses its bar by at most 3 % counts as met.\n\n"
    );
    let head = ["row", "figure", "server", "compared with", "bar", "value", "verdict"].map(str::to_owned).to_vec();
    let lines = view.rows.iter().flat_map(|row| row.lines.iter().map(|line| bar(row, line)));
    out += &table(&[head].into_iter().chain(lines).collect::<Vec<_>>());
    out += "\n## Rows\n";
    for row in &view.rows {
        out += &section(row);
    }
    out += "\n## Servers\n\n";
    let head = ["server", "version", "setting"].map(str::to_owned).to_vec();
    let servers = view.servers.iter().map(|server| {
        let version =
            server.version.clone().or(server.obstacle.as_ref().map(|why| format!("cannot start here: {why}")));
        vec![server.name.clone(), version.unwrap_or_else(|| "of this repository".to_owned()), server.setting.clone()]
    });
    out += &table(&[head].into_iter().chain(servers).collect::<Vec<_>>());
    out + &presets()
}

/// Returns the part about the generator's presets.
fn presets() -> String {
    format!(
        "\n## Presets of the generator\n\nTested against a server of the kind: {}.\nTested only against a peer that \
         plays the server's part by a script:\n{}.\n",
        REAL_PRESETS.join(", "),
        SCRIPTED_PRESETS.join(", ")
    )
}

/// Returns the cells of a bar.
fn bar(row: &Row, line: &Line) -> Vec<String> {
    let value = if line.spread.is_empty() { line.value.clone() } else { format!("{} ({})", line.value, line.spread) };
    let link = format!("[{}](#{})", row.name, row.name);
    vec![link, line.what.clone(), line.of.clone(), line.against.clone(), line.must.clone(), value, line.verdict()]
}

fn section(row: &Row) -> String {
    let mut out = format!("\n### {}\n\n{}.\n", row.name, row.load);
    if !row.notes.is_empty() {
        _ = write!(out, "{}.\n\n", row.notes.join(".\n"));
        out += &table(&row.cells());
    }
    _ = write!(out, "\n```sh\n{}\n```\n", row.commands.join("\n"));
    out
}

/// Returns a table whose first row is its head.
fn table(rows: &[Vec<String>]) -> String {
    let mut out = String::new();
    for (place, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|").replace('\n', " ")).collect();
        _ = writeln!(out, "| {} |", cells.join(" | "));
        if place == 0 {
            _ = writeln!(out, "|{}", " --- |".repeat(row.len()));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::view::testing::view;
    use super::*;

    /// The page of one row with a bar of each result.
    #[test]
    fn the_page_is_as_expected() {
        let page = page(&view());
        let (start, rest) = page.split_once("| row | figure | ").unwrap();
        assert!(start.contains("**4 bars: 1 met, 1 met within 3 %, 1 missed, 1 not judged.**"), "{start}");
        assert!(start.contains("| programs | abc |\n"), "{start}");
        let expected = "\
server | compared with | bar | value | verdict |
| --- | --- | --- | --- | --- | --- | --- |
| [rate-100](#rate-100) | ns of CPU per delivery | hub | k2 | ≤ 1.03× | 1.00× (0.980×–1.02×) | met |
| [rate-100](#rate-100) | ns of CPU per delivery | hub | bun | ≤ 0.92× | 0.930× (0.900×–0.950×) | met within 3 % |
| [rate-100](#rate-100) | ns of CPU per delivery | hub | kore | ≤ 0.95× | 1.10× (1.00×–1.20×) | MISSED |
| [rate-100](#rate-100) | ns of CPU per delivery | shards2 | hub | ≤ 1.08× | – | not run: a \\| reason |

## Rows

### rate-100

1 000 subscribers, 128 B, 100 messages/s.
9 rounds.

| median (least–greatest) | ns of CPU per delivery |
| --- | --- |
| hub | 900 (880–920) |
| kore | – |
| hub / bun | 0.930× |

```sh
bench/run results --only rate-100
ringhub serve
```

## Servers

| server | version | setting |
| --- | --- | --- |
| hub | of this repository | one shard |
| kore | cannot start here: no package | one worker |
";
        assert!(rest.starts_with(expected), "{rest}");
        assert!(rest.contains("by a script") && rest.ends_with("\npusher, centrifuge.\n"), "{rest}");
    }

    #[test]
    fn the_kept_page_has_every_row() {
        // Unit tests run in the package's folder.
        let page = std::fs::read_to_string("RESULTS.md").unwrap();
        for row in crate::table::rows() {
            assert!(page.contains(&format!("\n### {}\n\n{}.\n", row.name, row.description())), "{}", row.line());
            for bar in row.bars {
                let (name, of, must) = (row.name, bar.of.name(), bar.must());
                let begin = format!("| [{name}](#{name}) | {} | {of} | ", bar.metric.title());
                let is_there = |line: &str| line.starts_with(&begin) && line.contains(&format!(" | {must} | "));
                assert!(
                    page.lines().any(is_there),
                    "{begin}… {must}: write the page again, `bench/run results --no-run`"
                );
            }
        }
    }
}
