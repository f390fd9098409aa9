//! `ringhub completions` and `ringhub man`: what a shell and a reader are told about the command line, made from its
//! definition.

use std::{error::Error, fmt, io};

use clap::Command;
use clap_complete::Shell;

/// The shell to complete for.
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    #[arg(value_enum)]
    shell: Shell,
}

/// The page to print.
#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// A subcommand, such as check-config [default: the page about all of them].
    command: Option<String>,
}

/// A page about a subcommand that is none.
#[derive(Debug)]
struct NoCommand {
    name: String,
    known: Vec<String>,
}

impl fmt::Display for NoCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no subcommand {:?}; there are {}", self.name, self.known.join(", "))
    }
}

impl Error for NoCommand {}

/// Returns the script that completes the program's command line in a shell.
pub(crate) fn completions(Completions { shell }: Completions, mut program: Command) -> String {
    let mut script = Vec::new();
    let name = program.get_name().to_string();
    clap_complete::generate(shell, &mut program, name, &mut script);
    text(script)
}

/// Returns a manual page in roff.
///
/// # Errors
///
/// If there is no such subcommand.
pub(crate) fn page(Man { command }: Man, mut program: Command) -> Result<String, Box<dyn Error>> {
    // The names of subcommands become those of their pages: ringhub-serve.
    program.build();
    let command = match command {
        None => program,
        Some(name) => match program.find_subcommand(&name) {
            Some(command) => command.clone(),
            None => {
                let known = program.get_subcommands().map(|command| command.get_name().to_string()).collect();
                return Err(NoCommand { name, known }.into());
            }
        },
    };
    Ok(render(command)?)
}

fn render(command: Command) -> io::Result<String> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    Ok(text(page))
}

/// Returns what a generator has written, which is UTF-8 like the definition that it was made from.
fn text(written: Vec<u8>) -> String {
    String::from_utf8_lossy(&written).into_owned()
}
