//! Checks that pages quote no figure that is not in `bench/RESULTS.md`, which is made from measurements.

use std::{collections::BTreeSet, fs};

use crate::{assert_none, files::root};

/// The pages that quote figures.
const PAGES: [&str; 2] = ["README.md", "docs/performance.md"];

/// The marks of a page's part with figures.
const BEGIN: &str = "<!-- figures of bench/RESULTS.md -->";
const END: &str = "<!-- end -->";

/// Words that say a figure, which nobody can look up.
const WORDS: &[&str] = &[
    "twice", "half", "third", "quarter", "tenth", "two", "three", "four", "five", "six", "seven", "eight", "nine",
    "ten", "hundred", "thousand", "million",
];

#[test]
fn pages_quote_only_figures_of_the_results() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let results = read("bench/RESULTS.md");
    // A page on which nothing is judged yet has no figures to be quoted.
    let is_measured = has_figures(&results).expect("bench/RESULTS.md has a summary");
    for path in PAGES {
        let page = read(path);
        let quoted = marked(&page).unwrap_or_else(|| panic!("{path} marks its figures"));
        if is_measured {
            assert_none(&unfounded(quoted, &results));
        }
    }
}

/// Returns the marked part of a page.
fn marked(page: &str) -> Option<&str> {
    let (_, part) = page.split_once(BEGIN)?;
    let (part, rest) = part.split_once(END)?;
    assert!(!rest.contains(BEGIN), "one part is marked");
    Some(part)
}

/// Returns whether a page of results has a bar that is judged, by its summary: `40 bars: 1 met, 2 met within 3 %, 0
/// missed, 37 not judged`. Returns `None` if the page has no summary.
fn has_figures(results: &str) -> Option<bool> {
    let summary = results.lines().find_map(|line| line.strip_prefix("**")?.split_once(" bars: "))?.1;
    let judged = summary.split(", ").filter(|part| !part.contains("not judged"));
    Some(judged.filter_map(|part| part.split(' ').next()).any(|count| count != "0"))
}

/// Returns the numbers of a text that are not in the results, and the words that say a figure.
fn unfounded(text: &str, results: &str) -> Vec<String> {
    let known: BTreeSet<String> = numbers(results).collect();
    let words = text.split(|letter: char| !letter.is_alphabetic());
    let words = words.filter(|word| WORDS.contains(&word.to_lowercase().as_str())).map(ToString::to_string);
    numbers(text).filter(|number| !known.contains(number)).chain(words).collect()
}

/// Returns the numbers of a text, such as `0.92` and `15 000`.
fn numbers(text: &str) -> impl Iterator<Item = String> + '_ {
    let mut rest = text;
    std::iter::from_fn(move || {
        let start = rest.find(|letter: char| letter.is_ascii_digit())?;
        rest = &rest[start..];
        let length = number_length(rest);
        let number = rest[..length].to_string();
        rest = &rest[length..];
        Some(number)
    })
}

/// Returns the length of the number at the start: digits, groups of three digits after a space, and a fraction.
fn number_length(text: &str) -> usize {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let mut length = digits(text);
    while length <= 11 && text[length..].strip_prefix(' ').is_some_and(|group| digits(group) == 3) {
        length += 4;
    }
    match text[length..].strip_prefix('.').map(digits) {
        Some(fraction) if fraction > 0 => length + 1 + fraction,
        _ => length,
    }
}

#[test]
fn a_figure_without_a_result_is_found() {
    let results = "**3 bars: 1 met, 0 met within 3 %, 0 missed, 2 not judged.**\n| 0.92× | 15 000 connections |\n";
    let check = |text: &str, expected: &[&str]| assert_eq!(unfounded(text, results), expected, "{text}");
    check("0.92 times the CPU with 15 000 connections.", &[]);
    check("0.9 times the CPU with 15 000 connections.", &["0.9"]);
    check("0.921 times, 15 connections", &["0.921", "15"]);
    check("almost four times, a Quarter of the CPU, often", &["four", "Quarter"]);
    assert_eq!(numbers("1 000 of 128 B, 4.5× in 2026.").collect::<Vec<_>>(), ["1 000", "128", "4.5", "2026"]);
}

#[test]
fn a_page_without_a_judged_bar_has_no_figures() {
    let page = |counts: &str| format!("# Results\n\n**{counts}.**\n");
    assert_eq!(has_figures(&page("3 bars: 0 met, 0 met within 3 %, 0 missed, 3 not judged")), Some(false));
    assert_eq!(has_figures(&page("3 bars: 0 met, 0 met within 3 %, 1 missed, 2 not judged")), Some(true));
    assert_eq!(has_figures(&page("3 bars: 0 met, 2 met within 3 %, 0 missed, 1 not judged")), Some(true));
    assert_eq!(has_figures("# Results\n"), None);
}

#[test]
fn the_marked_part_is_between_the_marks() {
    assert_eq!(marked(&format!("1 {BEGIN} 2 {END} 3")), Some(" 2 "));
    assert_eq!(marked("1 2 3"), None);
    assert_eq!(marked(&format!("{BEGIN} 2")), None);
}
