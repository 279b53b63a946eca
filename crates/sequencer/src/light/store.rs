//! What a light client keeps between runs: the checkpoint that its first run started from, and the newest final header
//! with the committee that makes the next ones final.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use cascade_light::{Chain, Checkpoint, Start};
use cascade_primitives::{Decode, Encode, Reader, SigningContext};

use crate::{cli::Failure, exit::ExitCode, home::write_atomically};

const FILE: &str = "light.state";
/// Length of an encoded checkpoint, in bytes.
const CHECKPOINT_BYTES: usize = 8 + 32 + 32;

/// The state file in a light client's directory.
#[derive(Clone, Debug)]
pub struct Store(PathBuf);

impl Store {
    /// In this directory, which is made if it is not there.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(dir: &Path) -> Result<Self, Failure> {
        std::fs::create_dir_all(dir).map_err(|error| Failure::io(dir.display(), &error))?;
        Ok(Self(dir.join(FILE)))
    }

    /// What an earlier run saved; none if there is none.
    ///
    /// # Errors
    /// If the file cannot be read, or is damaged or of another chain.
    pub fn load(&self, signing: SigningContext) -> Result<Option<Start>, Failure> {
        let bytes = match std::fs::read(&self.0) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::io(self.0.display(), &error)),
        };
        let damaged = |what: String| Failure {
            code: ExitCode::Corrupt,
            message: format!(
                "{}: {what}; remove it and start again from a checkpoint that you trust",
                self.0.display()
            ),
        };
        let (head, chain) =
            bytes.split_at_checked(CHECKPOINT_BYTES).ok_or_else(|| damaged("it is too short".to_owned()))?;
        let checkpoint = Checkpoint::decode(&mut Reader::new(head)).map_err(|error| damaged(error.to_string()))?;
        let chain = Chain::restore(signing, chain).map_err(|error| damaged(error.to_string()))?;
        Ok(Some(Start::Saved(Box::new(chain), checkpoint)))
    }

    /// Saves.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, checkpoint: &Checkpoint, chain: &Chain) -> Result<(), Failure> {
        let mut bytes = checkpoint.to_bytes();
        chain.encode(&mut bytes);
        write_atomically(&self.0, &bytes).map_err(|error| Failure::io(self.0.display(), &error))
    }
}
