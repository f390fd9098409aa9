//! The output of a run: the progress, the report in all its forms, and the exit status.

mod assertion;
mod command_line;
mod comparison;
mod files;
mod hgrm;
mod interrupt;
mod live;
mod options;
mod page;
mod text;
pub(crate) mod units;

#[cfg(test)]
mod schema_test;
#[cfg(test)]
pub(crate) mod testing;

pub(crate) use assertion::mistakes;
pub use assertion::{Assertion, CheckedAssertion, Verdict, verdict};
pub(crate) use command_line::masked;
pub use command_line::without_secrets;
pub use comparison::Comparison;
pub use files::FileError;
pub use hgrm::hgrm;
pub use interrupt::Interrupt;
pub use live::Live;
pub use options::OutputOptions;
pub use page::{comparison_page, escape, page};
pub(crate) use text::above_zero;

use crate::report::Report;
use files::Pending;
use std::io::{self, IsTerminal as _, Write as _};

/// The output of a run, made before the run.
#[derive(Debug)]
pub struct Output {
    options: OutputOptions,
    hgrm: Option<Pending>,
    page: Option<Pending>,
}

impl Output {
    /// Opens the files that the report will be written to.
    ///
    /// # Errors
    /// An error is returned for the first file that cannot be opened.
    pub fn open(options: OutputOptions) -> Result<Output, FileError> {
        let hgrm = options.hgrm.as_deref().map(|path| Pending::open("--hgrm", path)).transpose()?;
        let page = options.report.as_deref().map(|path| Pending::open("--report", path)).transpose()?;
        Ok(Output { options, hgrm, page })
    }

    /// Returns the watcher of the run, which draws on standard error if that is a terminal and the flags allow it.
    /// `window_ns` is the length of the window, if it is known before the run.
    ///
    /// # Errors
    /// An error is returned if the thread that draws cannot start.
    pub fn watcher(&self, interrupt: Interrupt, window_ns: Option<u64>) -> io::Result<Live> {
        let is_dumb = std::env::var_os("TERM").is_some_and(|name| name == "dumb");
        if self.options.json || self.options.quiet || is_dumb || !io::stderr().is_terminal() {
            return Ok(Live::quiet(interrupt));
        }
        let columns = || match rustix::termios::tcgetwinsize(io::stderr()) {
            Ok(size) if size.ws_col > 0 => usize::from(size.ws_col),
            _ => 80,
        };
        Live::drawing(interrupt, io::stderr(), columns, window_ns)
    }

    /// Checks the assertions, and writes the report to standard output and to all files.
    ///
    /// # Errors
    /// An error is returned if standard output or a file cannot be written.
    pub fn finish(self, report: &mut Report) -> Result<Verdict, Box<dyn std::error::Error>> {
        report.assertions = self.options.assertions.iter().map(|assertion| assertion.check(report)).collect();
        let verdict = verdict(report, &self.options.assertions);
        let text = if self.options.json { format!("{}\n", report.to_json()) } else { report.to_string() };
        match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
            // A reader such as `head` may have closed the pipe. The exit status has the verdict even then.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(format!("cannot write the report to standard output: {error}").into());
            }
            _ => {}
        }
        if let Some(why) = text::complaint(report, verdict).filter(|_| self.options.json) {
            // If standard error is closed, the exit status still says it.
            drop(writeln!(io::stderr(), "ringhub-loadgen: {why}"));
        }
        if let Some(file) = self.page {
            file.write(&page(report))?;
        }
        if let Some(file) = self.hgrm {
            match report.figures.as_ref().and_then(|figures| figures.distribution.as_ref()) {
                Some(distribution) => file.write(&hgrm(distribution))?,
                None => {
                    let why = format!("--hgrm {}: no latency was measured", file.path().display());
                    // An earlier content would be taken for that of this run.
                    file.write("")?;
                    // Another verdict says more than this error.
                    if verdict == Verdict::Passed {
                        return Err(why.into());
                    }
                }
            }
        }
        // A run that ended before its window measured nothing.
        let has_figures = report.figures.is_some() || report.scenario_figures.is_some();
        if report.interrupted && !has_figures && verdict == Verdict::Passed {
            return Err("interrupted before anything was measured".into());
        }
        Ok(verdict)
    }
}
