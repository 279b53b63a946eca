//! Tells the program which commit it is built from.

use std::{path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-env-changed=CASCADE_COMMIT");
    let commit = std::env::var("CASCADE_COMMIT").ok().or_else(of_git).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=CASCADE_COMMIT={commit}");
}

/// The commit that is checked out. Its file changes with every commit, and then this runs again.
fn of_git() -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(&root).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    // A repository around an unpacked archive says nothing about what is in the archive.
    git(&["ls-files", "--error-unmatch", "crates/sequencer/build.rs"])?;
    for file in ["HEAD", "logs/HEAD"] {
        let path = root.join(git(&["rev-parse", "--git-path", file])?);
        if path.exists() {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}
