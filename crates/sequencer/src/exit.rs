//! Exit codes of the `cascade` command, so that scripts and supervisors can tell what has to be done.
//!
//! `docs/exit-codes.md` is [`render_docs`], and a test holds it there.

use std::fmt::Write as _;

use cascade_storage::StorageError;

/// How a process of `cascade` ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExitCode {
    /// It did what it was asked to.
    Done = 0,
    /// It failed for a reason that no other code stands for.
    Failed = 1,
    /// The command line, the environment or the configuration file is wrong.
    Usage = 2,
    /// Another process has the data directory or the sign-state open.
    Locked = 10,
    /// The data directory belongs to another chain or is none of ours, or the genesis file is not usable.
    Foreign = 11,
    /// Another version of cascade wrote the data directory.
    Version = 12,
    /// The user may not read or write a file, or a key file can be read by others.
    Permission = 13,
    /// The disk or the quota is full.
    DiskFull = 14,
    /// Another process listens on a configured address.
    PortInUse = 15,
    /// The voting key's sign-state is missing, belongs to another key, or no longer says what the key has signed.
    SignState = 16,
    /// The clock disagrees with the chain or with its peers.
    Clock = 17,
    /// A file is not what was written to it.
    Corrupt = 18,
    /// A key file is missing.
    KeyMissing = 19,
    /// The node that was asked has no peers although its chain has other sequencers.
    NoPeers = 20,
    /// The node that was asked catches up, hears too few sequencers, or sees no block become final.
    Unhealthy = 21,
    /// No node answers at the URL.
    Unreachable = 22,
    /// The data of a block is withheld, or badly encoded.
    Unavailable = 23,
    /// What a light client starts from is older than the unstaking delay.
    TooOld = 24,
    /// A quorum contradicts what the node computed.
    Diverged = 25,
}

impl ExitCode {
    /// Every code, in order.
    pub const ALL: [Self; 19] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::Locked,
        Self::Foreign,
        Self::Version,
        Self::Permission,
        Self::DiskFull,
        Self::PortInUse,
        Self::SignState,
        Self::Clock,
        Self::Corrupt,
        Self::KeyMissing,
        Self::NoPeers,
        Self::Unhealthy,
        Self::Unreachable,
        Self::Unavailable,
        Self::TooOld,
        Self::Diverged,
    ];

    /// The number that the process ends with.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Whether a node that ended so ends so again until somebody does something: a supervisor must not start it anew.
    #[must_use]
    pub const fn is_lasting(self) -> bool {
        match self {
            Self::Usage
            | Self::Locked
            | Self::Foreign
            | Self::Version
            | Self::Permission
            | Self::SignState
            | Self::Clock
            | Self::Corrupt
            | Self::KeyMissing
            | Self::Diverged => true,
            // Room on the disk and free ports come back by themselves; the rest is not how a node ends.
            Self::Done
            | Self::Failed
            | Self::DiskFull
            | Self::PortInUse
            | Self::NoPeers
            | Self::Unhealthy
            | Self::Unreachable
            | Self::Unavailable
            | Self::TooOld => false,
        }
    }

    /// What happened, and what to do about it.
    #[must_use]
    pub const fn explain(self) -> (&'static str, &'static str) {
        match self {
            Self::Done => ("it did what it was asked to", "nothing"),
            Self::Failed => {
                ("it failed for a reason that has no code of its own", "read the message that stderr ends with")
            }
            Self::Usage => (
                "the command line, the environment or the configuration file is wrong",
                "correct the key or flag that stderr names; `cascade config` shows where each value comes from",
            ),
            Self::Locked => (
                "another process has the data directory or the sign-state open",
                "stop that process, or use another `--data`; never run one key twice",
            ),
            Self::Foreign => (
                "the data directory belongs to another chain or is none of ours, or the genesis file is not usable",
                "use the directory and the genesis file that belong together, or an empty directory",
            ),
            Self::Version => (
                "another version of cascade wrote the data directory",
                "install the version that stderr names, or sync into an empty directory",
            ),
            Self::Permission => (
                "a file may not be read or written by this user, or a key file may be read by others",
                "chown or chmod as stderr says (key files: `chmod 600`)",
            ),
            Self::DiskFull => ("the disk or the quota is full", "free some space and start again; nothing is lost"),
            Self::PortInUse => (
                "another process listens on a configured address",
                "stop it, or choose another `--listen` (UDP), `--rpc-listen` or `--metrics-listen` (TCP)",
            ),
            Self::SignState => (
                "the voting key's sign-state is missing, damaged, or another key's or chain's",
                "keep the data directory, whose vote log may be the only other record of what the key signed, and put \
                 the newest copy of the sign-state back; without one, retire the key: signing with it again could \
                 contradict an earlier vote, which is slashed",
            ),
            Self::Clock => ("the clock is off", "set it, and run an NTP client"),
            Self::Corrupt => (
                "a file is not what was written to it",
                "restore it from a copy, or remove the chain data (never keys and sign-state) and sync again",
            ),
            Self::KeyMissing => (
                "a key file is missing",
                "put it back, or create one with `cascade keys generate`; `--role full` needs no voting key",
            ),
            Self::NoPeers => (
                "`cascade status`: the node has no peers, so it neither gets nor sends blocks",
                "see that another node runs, that `network.bootstrap` names it, and that UDP passes the firewalls; the \
                 node's log says why its dials fail",
            ),
            Self::Unhealthy => (
                "`cascade status`: the node catches up, hears too few sequencers, or sees no block become final",
                "wait while it catches up; else see which sequencers are down or cut off",
            ),
            Self::Unreachable => (
                "no node answers at the URL, or what answers is no node",
                "start the node, or give its JSON-RPC with `--rpc`",
            ),
            Self::Unavailable => (
                "`cascade light`: the data of a block is withheld or badly encoded, whatever its certificates say",
                "do not rely on anything from the height on that stderr names; try other `--peer`s, and tell others",
            ),
            Self::TooOld => (
                "`cascade light`: the checkpoint or the saved state is older than the unstaking delay",
                "get a newer checkpoint from somebody you trust",
            ),
            Self::Diverged => (
                "a quorum of the sequencers contradicts what the node computed: another genesis file or version, damaged \
                 state, or a bug",
                "do not start it again; keep the data directory and the log, compare genesis file and version with the \
                 others', and report it",
            ),
        }
    }
}

impl From<&StorageError> for ExitCode {
    fn from(error: &StorageError) -> Self {
        match error {
            StorageError::Locked { .. } => Self::Locked,
            StorageError::Foreign { .. } => Self::Foreign,
            StorageError::Version { .. } => Self::Version,
            StorageError::Missing { .. } | StorageError::WrongKey { .. } | StorageError::SignStateDamaged { .. } => {
                Self::SignState
            }
            StorageError::Permission { .. } => Self::Permission,
            StorageError::DiskFull { .. } => Self::DiskFull,
            StorageError::Corrupt { .. } => Self::Corrupt,
            _ => Self::Failed,
        }
    }
}

impl ExitCode {
    /// The code that says most about an error of the system.
    #[must_use]
    pub fn of_io(error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Self::Permission,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::DiskFull,
            ErrorKind::AddrInUse => Self::PortInUse,
            _ => Self::Failed,
        }
    }
}

/// The text of `docs/exit-codes.md`.
#[must_use]
pub fn render_docs() -> String {
    let mut text = String::from(
        "# Exit codes of `cascade`\n\nWhen a command fails, stderr ends with `cascade: error:` and a message that names \
         the file, key or address, and the\nremedy. It has several lines where it quotes a file or the log of a node. \
         A wrong command line ends with `error:` and the\nusage instead. Codes never change their meaning.\n\n\
         | code | what happened | what to do |\n|---|---|---|\n",
    );
    for code in ExitCode::ALL {
        let (what, remedy) = code.explain();
        writeln!(text, "| {} | {what} | {remedy} |", code.code()).expect("writing to a string cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_lists_every_code() {
        crate::config::docs::assert_document("docs/exit-codes.md", &render_docs());
    }

    #[test]
    fn the_unit_in_the_manual_starts_no_node_again_that_would_end_the_same_way() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operating.md");
        let manual = std::fs::read_to_string(&path).expect("the manual is there");
        let unit =
            manual.lines().find_map(|line| line.strip_prefix("RestartPreventExitStatus=")).expect("it has a unit");
        let lasting: Vec<String> =
            ExitCode::ALL.iter().filter(|code| code.is_lasting()).map(|code| code.code().to_string()).collect();
        assert_eq!(unit, lasting.join(" "));
    }

    #[test]
    fn codes_are_distinct_and_in_order() {
        assert!(ExitCode::ALL.windows(2).all(|pair| pair[0].code() < pair[1].code()));
    }
}
