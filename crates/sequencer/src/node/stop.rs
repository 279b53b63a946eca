//! How a node comes to its end: asked to, or because it cannot go on safely.

use std::sync::Arc;

use cascade_storage::StorageError;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::watch;

/// Why a node cannot go on.
#[derive(Debug, Error)]
pub enum Cause {
    /// The disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The state cannot be read or written.
    #[error(transparent)]
    State(#[from] cascade_execution::StoreError),
    /// A quorum contradicts what this node computed.
    #[error("{0}; stop, keep the data directory, and report it")]
    Diverged(String),
    /// An actor panicked.
    #[error("a bug: {0}; the node stopped so that it says nothing wrong")]
    Panic(String),
}

/// Stops the node. Cheap to clone; the first cause is kept.
#[derive(Clone, Debug)]
pub struct Stop {
    cause: Arc<Mutex<Option<Cause>>>,
    stopped: watch::Sender<bool>,
}

impl Default for Stop {
    fn default() -> Self {
        Self { cause: Arc::default(), stopped: watch::channel(false).0 }
    }
}

impl Stop {
    /// The node cannot go on.
    pub fn fail(&self, cause: Cause) {
        tracing::error!(%cause, "the node stops");
        self.cause.lock().get_or_insert(cause);
        self.stopped.send_replace(true);
    }

    /// The node comes to its end, whatever the reason: what waits for others gives up.
    pub fn end(&self) {
        self.stopped.send_replace(true);
    }

    /// Waits until the node is to stop.
    pub async fn wait(&self) {
        let mut receiver = self.stopped.subscribe();
        // The sender lives in `self`.
        let _ = receiver.wait_for(|stopped| *stopped).await;
    }

    /// Why it stopped; none if it was asked to.
    #[must_use]
    pub fn take_cause(&self) -> Option<Cause> {
        self.cause.lock().take()
    }

    /// Makes a panic in any thread stop the node with the panic's text: an actor that died must not leave a node
    /// behind that looks alive.
    pub fn on_panic(&self) {
        let stop = self.clone();
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            default(info);
            stop.fail(Cause::Panic(info.to_string()));
        }));
    }
}
