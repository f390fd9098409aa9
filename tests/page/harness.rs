//! Runs tests that share a browser, with the arguments and the output of libtest.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
};

use crate::browser::Browser;

pub(crate) type Test = (&'static str, fn(&mut Browser));

/// Runs the tests that the arguments choose, or lists them. `missing` returns the program without which a test of this
/// name is ignored; without a Chromium all are.
pub(crate) fn run(tests: &[Test], arguments: &[String], missing: impl Fn(&str) -> Option<&'static str>) -> ExitCode {
    let chosen = chosen(tests, arguments);
    if arguments.iter().any(|argument| argument == "--list") {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", chosen.len());
    let mut counts = [0; 3];
    let mut browser = Browser::find().map(Browser::start);
    for (name, test) in &chosen {
        let outcome = match (browser.as_mut(), missing(name)) {
            (None, _) => Err("ignored, there is no Chromium".into()),
            (_, Some(program)) => Err(format!("ignored, there is no {program}")),
            (Some(browser), None) => Ok(catch_unwind(AssertUnwindSafe(|| test(browser)))),
        };
        let (kind, word) = match outcome {
            Ok(Ok(())) => (PASSED, "ok".into()),
            Ok(Err(_)) => (FAILED, "FAILED".into()),
            Err(reason) => (IGNORED, reason),
        };
        counts[kind] += 1;
        println!("test {name} ... {word}");
    }
    let [passed, failed, ignored] = counts;
    let (word, code) = if failed == 0 { ("ok", ExitCode::SUCCESS) } else { ("FAILED", ExitCode::FAILURE) };
    let filtered = tests.len() - chosen.len();
    let rest = format!("{ignored} ignored; 0 measured; {filtered} filtered out");
    println!("\ntest result: {word}. {passed} passed; {failed} failed; {rest}\n");
    code
}

/// Returns the tests that these arguments of libtest choose.
fn chosen<'a>(tests: &'a [Test], arguments: &[String]) -> Vec<&'a Test> {
    let (mut filters, mut skipped) = (Vec::new(), Vec::new());
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match &**argument {
            "--skip" => skipped.extend(arguments.next()),
            "--color" | "--format" | "--logfile" | "--test-threads" | "-Z" => _ = arguments.next(),
            flag if flag.starts_with('-') => {}
            _ => filters.push(argument),
        }
    }
    let names = |some: &[&String], name: &str| some.iter().any(|part| name.contains(part.as_str()));
    let is_chosen = |name: &str| (filters.is_empty() || names(&filters, name)) && !names(&skipped, name);
    tests.iter().filter(|(name, _)| is_chosen(name)).collect()
}

const PASSED: usize = 0;
const FAILED: usize = 1;
const IGNORED: usize = 2;
