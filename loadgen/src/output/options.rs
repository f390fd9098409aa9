//! The flags that say what is printed.

use clap::Args;

/// What is printed, beside the verdict in the exit status.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputOptions {
    /// Report one JSON object.
    #[arg(long)]
    pub json: bool,
}
