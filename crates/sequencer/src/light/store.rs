//! What a light client keeps between runs.
//!
//! | file | holds |
//! |---|---|
//! | `light.state` | the checkpoint that the first run started from; a final header below which nothing is open or failed, with the committee that makes the next ones final |
//! | `light.condemned` | in words, a final block on which nothing may be built, and why; only after a run that found one |
//!
//! While the second one is there no run starts: what was found is true whatever nodes are asked and however often. It is for
//! the user to find out what became of the chain, and to remove the file.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use cascade_light::{Chain, Checkpoint, Condemned, Start};
use cascade_primitives::{Decode, Encode, Reader, SigningContext};

use crate::{cli::Failure, exit::ExitCode, home::write_atomically};

const FILE: &str = "light.state";
const CONDEMNED: &str = "light.condemned";
/// Length of an encoded checkpoint, in bytes.
const CHECKPOINT_BYTES: usize = 8 + 32 + 32;

/// The files in a light client's directory.
#[derive(Clone, Debug)]
pub struct Store {
    state: PathBuf,
    condemned: PathBuf,
}

impl Store {
    /// In this directory, which is made if it is not there.
    ///
    /// # Errors
    /// If it cannot be made, or if an earlier run found that the chain must not be relied on.
    pub fn new(dir: &Path) -> Result<Self, Failure> {
        std::fs::create_dir_all(dir).map_err(|error| Failure::io(dir.display(), &error))?;
        let store = Self { state: dir.join(FILE), condemned: dir.join(CONDEMNED) };
        match std::fs::read(&store.condemned) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(store),
            Err(error) => Err(Failure::io(store.condemned.display(), &error)),
            Ok(found) => {
                let found = String::from_utf8_lossy(&found);
                let path = store.condemned.display();
                let message = format!(
                    "an earlier run found: {}\nThat stays so whatever nodes are asked. Find out from people whom you trust \
                     what became of the chain; to go on after that, remove {path} and give a --checkpoint that they vouch for",
                    found.trim_end()
                );
                Err(Failure { code: ExitCode::Unavailable, message })
            }
        }
    }

    /// Keeps in mind that nothing may be built on a block.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn condemn(&self, condemned: &Condemned) -> Result<(), Failure> {
        let text = format!("block {} {}\n{}\n", condemned.height, condemned.hash, condemned.why);
        let written = write_atomically(&self.condemned, text.as_bytes());
        written.map_err(|error| Failure::io(self.condemned.display(), &error))
    }

    /// Forgets what was saved of the chain.
    ///
    /// # Errors
    /// If the file cannot be removed.
    pub fn forget(&self) -> Result<(), Failure> {
        match std::fs::remove_file(&self.state) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Failure::io(self.state.display(), &error)),
            _ => Ok(()),
        }
    }

    /// What an earlier run saved; none if there is none.
    ///
    /// # Errors
    /// If the file cannot be read, or is damaged or of another chain.
    pub fn load(&self, signing: SigningContext) -> Result<Option<Start>, Failure> {
        let bytes = match std::fs::read(&self.state) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::io(self.state.display(), &error)),
        };
        let damaged = |what: String| Failure {
            code: ExitCode::Corrupt,
            message: format!(
                "{}: {what}; remove it and start again from a checkpoint that you trust",
                self.state.display()
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
        write_atomically(&self.state, &bytes).map_err(|error| Failure::io(self.state.display(), &error))
    }
}

#[cfg(test)]
mod tests {
    use cascade_light::Stop;
    use cascade_primitives::{BlockHash, Height};

    use super::*;

    #[test]
    fn what_a_run_found_keeps_the_next_one_from_starting_until_the_file_is_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::new(dir.path()).expect("nothing was found yet");
        let why = Stop::Withheld { height: Height(7), missing: 2, samples: 16, peers: 4 };
        store.condemn(&Condemned { height: Height(7), hash: BlockHash([9; 32]), why }).expect("it can be written");
        let refused = Store::new(dir.path()).expect_err("block 7 is withheld");
        assert_eq!(refused.code, ExitCode::Unavailable);
        let hash = BlockHash([9; 32]).to_string();
        for part in
            ["block 7", hash.as_str(), "is withheld: 2 of 16 samples", "remove", "light.condemned", "--checkpoint"]
        {
            assert!(refused.message.contains(part), "{part}: {}", refused.message);
        }
        std::fs::remove_file(dir.path().join(CONDEMNED)).expect("it is there");
        store.forget().expect("that nothing was saved is no failure");
        assert!(Store::new(dir.path()).is_ok());
    }
}
