//! Which build this is, and which versions it speaks and reads.

use std::sync::LazyLock;

use cascade_network::SUPPORTED_VERSIONS;
use cascade_primitives::block::PROTOCOL_VERSION;
use cascade_storage::datadir::DATA_VERSION;

/// The version of the program.
pub const PROGRAM: &str = env!("CARGO_PKG_VERSION");
/// The commit that it was built from; `unknown` without git.
pub const COMMIT: &str = env!("CASCADE_COMMIT");

/// What `cascade --version` prints behind the program's name.
#[must_use]
pub fn text() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let network: Vec<String> = SUPPORTED_VERSIONS.iter().map(|version| version.0.to_string()).collect();
        let network = network.join(", ");
        format!("{PROGRAM}\ncommit {COMMIT}\nprotocol {PROTOCOL_VERSION} (network {network})\ndata {DATA_VERSION}")
    });
    &TEXT
}
