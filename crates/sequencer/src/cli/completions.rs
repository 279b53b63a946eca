//! `cascade completions`.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, Failure};

/// Prints the completions of a shell.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  cascade completions bash > ~/.local/share/bash-completion/completions/cascade\n  \
                        cascade completions zsh > ~/.zfunc/_cascade"
)]
pub struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// Runs the command.
pub fn run(args: CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "cascade", &mut script);
    super::output::line(String::from_utf8_lossy(&script).trim_end())
}
