//! The `cascade` command.

fn main() -> std::process::ExitCode {
    cascade_sequencer::cli::run(std::env::args_os()).code().into()
}
