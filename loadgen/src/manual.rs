//! `ringhub-loadgen completions` and `ringhub-loadgen man`: what a shell and a reader are told about the command line,
//! made from its definition.

use clap::Command;
use clap_complete::Shell;

/// The shell to complete for.
#[derive(Clone, Debug, clap::Args)]
pub struct Completions {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// The page to print.
#[derive(Clone, Debug, clap::Args)]
pub struct Man {
    /// A command, such as fanout [default: the page about all of them].
    command: Option<String>,
}

/// Returns the script that completes the program's command line in a shell.
pub fn completions(&Completions { shell }: &Completions, mut program: Command) -> String {
    let mut script = Vec::new();
    let name = program.get_name().to_owned();
    clap_complete::generate(shell, &mut program, name, &mut script);
    text(script)
}

/// Returns a manual page in roff.
///
/// # Errors
/// There is no such command.
pub fn page(Man { command }: &Man, mut program: Command) -> Result<String, String> {
    // The names of commands become those of their pages: ringhub-loadgen-fanout.
    program.build();
    let command = match command {
        None => program,
        Some(name) => match program.find_subcommand(name) {
            Some(command) => command.clone(),
            None => {
                let known: Vec<&str> = program.get_subcommands().map(Command::get_name).collect();
                return Err(format!("there is no command {name:?}; there are {}", known.join(", ")));
            }
        },
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).map_err(|error| error.to_string())?;
    Ok(text(page))
}

/// Returns what a generator has written, which is UTF-8 like the definition that it was made from.
fn text(written: Vec<u8>) -> String {
    String::from_utf8_lossy(&written).into_owned()
}
