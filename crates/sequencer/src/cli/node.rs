//! `cascade node`.

use clap::Args;

use super::{Failure, NodeFlags, flags};
use crate::{
    config::{Resolved, RunOptions},
    logging,
};

/// Runs a node until it is told to stop (SIGINT, SIGTERM).
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cascade node --data /var/lib/cascade\n  \
                        cascade node --data sixth --bootstrap 127.0.0.1:30330 --rpc-listen 127.0.0.1:0\n\n\
                        Every key of the configuration has an environment variable too: docs/configuration.md")]
pub struct NodeArgs {
    #[command(flatten)]
    flags: NodeFlags,
    /// Stop once this height is final and executed.
    #[arg(long, value_name = "HEIGHT")]
    until_height: Option<u64>,
    /// Stop when stdin is closed.
    #[arg(long, hide = true)]
    exit_with_parent: bool,
}

#[cfg(test)]
impl NodeArgs {
    pub(super) fn resolve_for_tests(&self) -> crate::config::NodeConfig {
        self.flags.resolve().expect("the flags are valid").config
    }
}

/// Runs the command.
pub fn run(args: NodeArgs) -> Result<(), Failure> {
    let Resolved { mut config, ignored, .. } = args.flags.resolve_quietly()?;
    config.run = RunOptions { until_height: args.until_height, exit_with_parent: args.exit_with_parent };
    logging::init(&config.log);
    for variable in &ignored {
        tracing::warn!("{}", flags::ignored(variable));
    }
    Ok(crate::node::run(config)?)
}
