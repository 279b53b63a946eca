//! CPU and memory of a process, from Linux's /proc (proc_pid_stat(5)).

use std::time::Duration;

/// Ticks per second of the times in /proc: USER_HZ, which Linux fixes at 100 on every architecture it runs on today.
const TICKS_PER_S: u64 = 100;

/// What a process has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Usage {
    /// CPU time of all its threads, in user and system mode.
    pub(super) cpu: Duration,
    /// Memory that is resident now.
    pub(super) rss_bytes: u64,
}

impl Usage {
    /// Of a process that is there.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        Some(Self { cpu: cpu_of(&stat)?, rss_bytes: rss_of(&status)? })
    }
}

/// utime and stime, the 14th and 15th fields. The second is a name in parentheses that may hold anything.
fn cpu_of(stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 1000 / TICKS_PER_S))
}

fn rss_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_the_right_ones() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 1 0 5 6 7";
        assert_eq!(cpu_of(stat), Some(Duration::from_secs(3)));
        assert_eq!(rss_of("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        assert!(Usage::of(std::process::id()).unwrap().rss_bytes > 0);
    }
}
