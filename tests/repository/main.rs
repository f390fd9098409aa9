//! Checks of the repository's files that the compiler does not make.

mod client_js;
mod code_map;
mod deploy;
mod documents;
mod figures;
mod files;
mod floors;
mod imports;
mod names;
mod pages;
mod tidy;
mod units;
mod words;

#[track_caller]
fn assert_none(offenders: &[impl ToString]) {
    let lines: Vec<String> = offenders.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "\n{}", lines.join("\n"));
}
