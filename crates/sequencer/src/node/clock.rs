//! The node's clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use cascade_primitives::TimestampMs;

/// Milliseconds since the Unix epoch that never run backwards: the system's time at the start, and the monotonic time
/// that has passed since. A system clock that is set while the node runs is taken up at the next start.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall: u64,
    started: Instant,
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        Self { wall, started: Instant::now() }
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> TimestampMs {
        TimestampMs(self.wall.saturating_add(self.started.elapsed().as_millis() as u64))
    }
}
