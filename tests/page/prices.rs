//! The example `prices` in Chromium: a page with a slow CPU keeps up, since newer prices replace what it has not taken.

use std::{fs, path::Path, thread, time::Duration};

use serde_json::{Value, json};

use crate::{
    browser::{Browser, Page},
    example::Example,
};

/// A slow page ends at the last prices, as a fast one beside it does, and each knows how many updates it has not got.
pub(crate) fn a_slow_page_keeps_up(browser: &mut Browser) {
    let example = Example::start("prices", &["--rate", "100", "--updates", "1500", "--interval", "20"]);
    let mut fast = open(browser, &example);
    let mut slow = open(browser, &example);
    throttle(&mut slow);
    let last = last_prices(&example);
    assert_eq!(last.as_object().map(|last| last.len()), Some(SYMBOLS));
    let [of_fast, of_slow] = [&mut fast, &mut slow].map(|page| {
        page.until(&format!("({SHOWN}) === {}", json!(texts(&last))));
        let figures = page.eval("figures()");
        let number = |key: &str| figures[key].as_u64().unwrap_or_else(|| panic!("no {key} in {figures}"));
        // What the page has received and was told of is all that was published since it subscribed.
        assert_eq!(number("received") + number("missing"), number("last") - number("first"), "{figures}");
        assert_eq!(figures["state"], "open");
        assert_eq!(page.take_seen().errors, [""; 0]);
        number("received")
    });
    // The slow page has cost the fast one nothing.
    assert!(of_slow < of_fast, "{of_slow} updates received by the slow page, {of_fast} by the fast one");
}

/// Takes a screenshot of a slow page after some seconds; `docs/prices-screenshot` calls this.
pub(crate) fn screenshot(browser: &mut Browser, program: &Path, file: &Path, seconds: u64) {
    let example = Example::start_program(program, &[]);
    let mut page = open(browser, &example);
    page.screen(1_200, 640, "light");
    throttle(&mut page);
    thread::sleep(Duration::from_secs(seconds));
    fs::write(file, page.screenshot()).unwrap();
    example.interrupt();
    while let Some(line) = example.line() {
        println!("{line}");
    }
}

/// Opens the page of the example, which then shows all prices.
fn open(browser: &mut Browser, example: &Example) -> Page {
    let mut page = browser.page();
    page.open(&format!("http://{}/", example.address()));
    page.until(&format!("document.querySelectorAll('#prices div').length === {SYMBOLS}"));
    page
}

fn throttle(page: &mut Page) {
    page.call("Emulation.setCPUThrottlingRate", json!({"rate": THROTTLING}));
}

/// Returns the last prices, in cents, when all updates are published. Before, newer prices have replaced some that
/// waited for a slow page.
fn last_prices(example: &Example) -> Value {
    let mut has_replaced = false;
    loop {
        let line = example.line().expect("the example prints the last prices");
        if let Some(prices) = line.strip_prefix("the last prices: ") {
            assert!(has_replaced, "the slow page has taken all prices at once");
            return serde_json::from_str(prices).unwrap();
        }
        has_replaced |= !line.ends_with(" 0 later");
    }
}

/// Returns the text of the prices as the page shows it.
fn texts(prices: &Value) -> String {
    let text = |(symbol, cents): (&String, &Value)| {
        let cents = cents.as_u64().unwrap();
        format!("{symbol}{}.{:02}", cents / 100, cents % 100)
    };
    prices.as_object().unwrap().iter().map(text).collect::<Vec<_>>().join(" ")
}

/// The text of the prices on the page.
const SHOWN: &str = "[...document.querySelectorAll('#prices div')].map(cell => cell.textContent).join(' ')";

const SYMBOLS: usize = 200;

/// How much slower than the machine the CPU of a slow page is, in Chromium's emulation.
const THROTTLING: u32 = 20;
