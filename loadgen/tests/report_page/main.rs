//! The page of a report in Chromium. Without a Chromium the tests are ignored, with the reason.

#[expect(dead_code, reason = "the tests of the hub's page type and click more than these")]
#[path = "../../../tests/page/browser.rs"]
mod browser;
#[path = "../../../tests/page/harness.rs"]
mod harness;
#[expect(dead_code, reason = "these tests need no server that makes mistakes")]
#[path = "../support/mod.rs"]
mod server;
mod support;

use browser::{Browser, Page};
use harness::Test;
use ringhub_loadgen::{Moment, Report};
use serde_json::{Value, json};
use server::{Echo, broadcaster};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// All tests. They share a browser, so this program has its own `main`, with the output of libtest.
const TESTS: [Test; 5] = [
    ("the_page_draws_what_was_measured", the_page_draws_what_was_measured),
    ("the_page_fits_a_phone_in_both_themes", the_page_fits_a_phone_in_both_themes),
    ("no_two_labels_of_an_axis_touch", no_two_labels_of_an_axis_touch),
    ("two_runs_are_drawn_on_one_page", two_runs_are_drawn_on_one_page),
    ("hostile_text_stays_text", hostile_text_stays_text),
];

fn the_page_draws_what_was_measured(browser: &mut Browser) {
    let (path, report) = measured("drawn");
    let mut page = open(browser, &path);
    let seen = page.take_seen();
    assert_eq!(seen.errors, Vec::<String>::new());
    assert!(seen.requests.iter().all(|request| request["url"].as_str().unwrap().starts_with("file:")));
    assert_eq!(seen.requests.len(), 1, "{:?}", seen.requests);
    let figures = report.figures.unwrap();
    let text = page.eval("document.body.innerText");
    let text = text.as_str().unwrap();
    for part in [", each once and in order", "--rate 200", "Linux ", "200 messages"] {
        let part = part.replace("200 messages", &report.counts.published.to_string());
        assert!(text.contains(&part), "{part}\n{text}");
    }
    // Each percentile of the curve is a point, and each moment of the throughput too.
    let points = |page: &mut Page, title: &str, selector: &str| {
        let count =
            format!("{}.querySelector({}).getAttribute('d').split(/[ML]/).length - 1", figure(title), json!(selector));
        page.eval(&count).as_u64().unwrap() as usize
    };
    let rows = figures.distribution.unwrap().rows.len();
    assert_eq!(points(&mut page, "Latency by percentile", "path.line.first"), rows);
    let moments = points(&mut page, "Throughput", "path.line.first");
    // The last moment may be too short for a point.
    assert!((figures.series.len() - 1..=figures.series.len()).contains(&moments), "{moments}");
    // The heat map has a text for each moment with a delivery, and visible cells.
    let has_latency = |moment: &&Moment| !moment.latency.counts.is_empty();
    let moments = figures.series.iter().filter(has_latency).count();
    let hits = page.eval(&format!("{}.querySelectorAll('rect.hit').length", figure("Latency over time")));
    assert_eq!(hits, json!(moments));
    let cell = page.eval(&format!(
        "(({{width, height}}) => [width, height])({}.querySelector('path.cell').getBoundingClientRect())",
        figure("Latency over time")
    ));
    assert!(cell[0].as_f64() > Some(2.0) && cell[1].as_f64() > Some(2.0), "{cell}");
    // Opening the table of moments shows a row for each.
    page.click("details summary");
    let rows =
        page.eval("[...document.querySelectorAll('details tbody tr')].filter(row => row.offsetHeight > 0).length");
    assert_eq!(rows, json!(figures.series.len()));
}

fn the_page_fits_a_phone_in_both_themes(browser: &mut Browser) {
    let (path, _) = measured("phone");
    let mut page = open(browser, &path);
    let mut seen = Vec::new();
    for scheme in ["light", "dark"] {
        page.screen(360, 740, scheme);
        assert_eq!(page.eval("document.documentElement.scrollWidth"), json!(360), "{scheme}");
        // Text in drawings is readable: it shrinks with the drawing.
        let smallest = page.eval(
            "Math.min(...[...document.querySelectorAll('svg text')].map(text => \
             parseFloat(getComputedStyle(text).fontSize) * text.getCTM().a))",
        );
        assert!(smallest.as_f64() >= Some(9.0), "{scheme}: {smallest}");
        for (selector, background) in [("h1", "body"), (".verdict", "body"), ("figcaption", ".card"), ("td", ".card")] {
            let contrast = contrast(&mut page, selector, "color", background);
            assert!(contrast >= 4.5, "{scheme}: {selector} has a contrast of {contrast}");
        }
        for line in ["path.line.first", "path.line.second"] {
            let contrast = contrast(&mut page, line, "stroke", ".card");
            assert!(contrast >= 3.0, "{scheme}: {line} has a contrast of {contrast}");
        }
        seen.push(page.eval("getComputedStyle(document.body).backgroundColor"));
    }
    assert_ne!(seen[0], seen[1]);
}

fn no_two_labels_of_an_axis_touch(browser: &mut Browser) {
    let (path, _) = measured("labels");
    let mut page = open(browser, &path);
    for width in [360, 800, 1_200] {
        page.screen(width, 900, "light");
        let touching = page.eval(
            "[...document.querySelectorAll('svg')].flatMap(svg => {
                const frame = svg.getBoundingClientRect();
                const box = text => [text.textContent, text.getBoundingClientRect()];
                const boxes = [...svg.querySelectorAll('text')].map(box);
                const outside = boxes.filter(([, box]) =>
                    box.left < frame.left || box.right > frame.right ||
                    box.top < frame.top || box.bottom > frame.bottom);
                const pairs = boxes.flatMap(([text, a], place) => boxes.slice(place + 1).filter(([, b]) =>
                    a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)
                    .map(([other]) => `${text} and ${other}`));
                return [...outside.map(([text]) => `${text} is outside`), ...pairs];
            })",
        );
        assert_eq!(touching, json!([]), "{width}");
    }
}

fn two_runs_are_drawn_on_one_page(browser: &mut Browser) {
    let folder = folder();
    let files = ["a", "b"].map(|name| {
        let (_, report) = measured(name);
        let path = folder.join(format!("{name}.json"));
        fs::write(&path, report.to_json()).unwrap();
        path
    });
    let path = folder.join("compared.html");
    let mut compare = Command::new(env!("CARGO_BIN_EXE_ringhub-loadgen"));
    let output = compare.arg("compare").args(&files).arg("-o").arg(&path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut page = open(browser, &path);
    for title in ["Latency by percentile", "Throughput"] {
        let lines = page.eval(&format!("{}.querySelectorAll('path.line').length", figure(title)));
        assert_eq!(lines, json!(2), "{title}");
        let key = page.eval(&format!("{}.querySelector('.key').innerText", figure(title)));
        assert!(files.iter().all(|file| key.as_str().unwrap().contains(file.to_str().unwrap())), "{key}");
    }
    assert_eq!(page.eval("document.querySelectorAll('svg:has(path.cell)').length"), json!(2));
    page.screen(360, 740, "light");
    assert_eq!(page.eval("document.documentElement.scrollWidth"), json!(360));
    assert_eq!(page.take_seen().errors, Vec::<String>::new());
}

fn hostile_text_stays_text(browser: &mut Browser) {
    let (_, mut report) = measured("hostile");
    let hostile = "</style></title><script>document.title=1</script><img src=x onerror=alert(1)>";
    report.foreign_sample = vec![hostile.to_owned()];
    report.command_line = vec![hostile.to_owned()];
    report.scenario = hostile.to_owned();
    report.disconnections = vec![hostile.to_owned()];
    let path = folder().join("hostile.html");
    fs::write(&path, ringhub_loadgen::page(&report)).unwrap();
    let mut page = open(browser, &path);
    let text = page.eval("document.body.innerText");
    assert_eq!(text.as_str().unwrap().matches(hostile).count(), 4, "{text}");
    assert_eq!(page.eval("document.querySelectorAll('script, img').length"), json!(0));
    let seen = page.take_seen();
    assert_eq!((seen.errors, seen.requests.len()), (Vec::<String>::new(), 1));
}

/// Runs the generator against a new server, and returns the file of its page, and its report.
fn measured(name: &str) -> (PathBuf, Report) {
    let path = folder().join(format!("{name}.html"));
    let (address, _) = broadcaster(Echo::All);
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringhub-loadgen"));
    command.args([
        "--url",
        &format!("ws://{address}/t/x"),
        "--subscribers",
        "20",
        "--rate",
        "200",
        "--allow-disturbance",
    ]);
    command.args(["--warmup", "0", "--duration", "900ms", "--server-pid", &std::process::id().to_string()]);
    let output = command.args(["--json", "--report"]).arg(&path).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    (path, serde_json::from_slice(&output.stdout).unwrap())
}

fn open(browser: &mut Browser, path: &Path) -> Page {
    let mut page = browser.page();
    page.screen(1_200, 900, "light");
    page.take_seen();
    page.open(&format!("file://{}", path.display()));
    page
}

/// Returns the expression of the card with this title.
fn figure(title: &str) -> String {
    let title = json!(title);
    format!(
        "[...document.querySelectorAll('figure')].find(card => \
         card.querySelector('h2').textContent.startsWith({title}))"
    )
}

/// Returns the contrast of an element's colour with a background, as WCAG defines it.
fn contrast(page: &mut Page, selector: &str, property: &str, background: &str) -> f64 {
    let mut colour = |selector: &str, property: &str| {
        let (selector, property) = (json!(selector), json!(property));
        let style = format!("getComputedStyle(document.querySelector({selector})).getPropertyValue({property})");
        let parts = page.eval(&format!("{style}.match(/[0-9.]+/g).map(Number)"));
        luminance(&parts)
    };
    let (one, other) = (colour(selector, property), colour(background, "background-color"));
    (one.max(other) + 0.05) / (one.min(other) + 0.05)
}

fn luminance(parts: &Value) -> f64 {
    let channel = |place: usize| {
        let value = parts[place].as_f64().unwrap() / 255.0;
        if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * channel(0) + 0.7152 * channel(1) + 0.0722 * channel(2)
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

/// Writes the pictures of a page: light and wide, and dark on a phone.
fn screenshots(browser: &mut Browser, html: &str, folder: &Path) {
    let mut page = open(browser, &fs::canonicalize(html).unwrap());
    for (name, width, height, scheme) in
        [("report-light", 1_000, 1_016, "light"), ("report-dark", 1_000, 1_016, "dark")]
    {
        page.screen(width, height, scheme);
        fs::write(folder.join(format!("{name}.png")), page.screenshot()).unwrap();
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [flag, html, folder] = &arguments[..]
        && flag == "--screenshots"
    {
        let mut browser = Browser::start(Browser::find().expect("there is no Chromium"));
        screenshots(&mut browser, html, Path::new(folder));
        return ExitCode::SUCCESS;
    }
    harness::run(&TESTS, &arguments, |_| None)
}
