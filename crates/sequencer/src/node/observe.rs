//! What is looked up when a scraper asks, instead of being kept up to date all the time: health as consensus last told
//! it, the pool, the database's size, and what the process takes (proc(5); without it those stay zero).

use std::{sync::Arc, time::Duration};

use cascade_network::Network;
use cascade_storage::ChainDb;
use prometheus::{
    Gauge, IntGauge, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{hub::Hub, pool::SharedPool};
use crate::version;

/// Ticks per second of the times in /proc: USER_HZ, which Linux fixes at 100 on every architecture it runs on today.
const TICKS_PER_S: f64 = 100.0;
/// Bytes of a page in /proc/self/statm, which the kernels that we run on all use.
const PAGE_BYTES: i64 = 4096;

/// The part of a node that is looked at.
pub struct Observed {
    /// Heads and health.
    pub hub: Arc<Hub>,
    /// The pool.
    pub pool: SharedPool,
    /// The database.
    pub db: Arc<ChainDb>,
    /// Who this node is.
    pub network: Network,
}

/// Registers everything that is looked up.
///
/// # Errors
/// If it is registered already.
pub fn register(registry: &Registry, observed: Observed) -> Result<(), prometheus::Error> {
    registry.register(Box::new(NodeCollector { observed, gauges: NodeGauges::new()? }))?;
    registry.register(Box::new(ProcessGauges::new()?))?;
    let labels = Opts::new("cascade_build_info", "1, with the version and commit of the program as labels")
        .const_label("version", version::PROGRAM)
        .const_label("commit", version::COMMIT);
    let build = IntGauge::with_opts(labels)?;
    build.set(1);
    registry.register(Box::new(build))
}

macro_rules! gauges {
    ($name:ident: $kind:ty { $($field:ident = $metric:literal, $help:literal;)* }) => {
        struct $name {
            $($field: $kind,)*
        }

        impl $name {
            fn new() -> Result<Self, prometheus::Error> {
                Ok(Self { $($field: <$kind>::new($metric, $help)?,)* })
            }

            fn all(&self) -> Vec<&dyn Collector> {
                vec![$(&self.$field,)*]
            }

            fn descriptions(&self) -> Vec<&Desc> {
                self.all().into_iter().flat_map(Collector::desc).collect()
            }

            fn gathered(&self) -> Vec<MetricFamily> {
                self.all().into_iter().flat_map(Collector::collect).collect()
            }
        }
    };
}

gauges!(NodeGauges: IntGauge {
    committee_seats = "cascade_consensus_committee_seats", "Seats of this epoch's committee";
    quorum_seats = "cascade_consensus_quorum_seats", "Seats of a quorum of this epoch's committee";
    voting = "cascade_consensus_voting", "1 if this node votes in this epoch";
    leading = "cascade_consensus_leading", "1 if this node leads the current view";
    safe_height = "cascade_consensus_safe_height", "Newest block whose results a final header carries";
    sync_target = "cascade_sync_target_height", "Height that is caught up to; 0 in step with the others";
    pending = "cascade_mempool_pending_transactions", "Transactions in the pool that a block could carry";
    queued = "cascade_mempool_queued_transactions", "Transactions in the pool behind a gap in their sender's nonces";
    in_flight = "cascade_mempool_in_flight_transactions", "Transactions in the pool that known blocks carry";
    database_bytes = "cascade_storage_database_bytes", "Size of the database's files";
    cache_bytes = "cascade_storage_memory_bytes", "Memory of the database's caches and write buffers";
});

struct NodeCollector {
    observed: Observed,
    gauges: NodeGauges,
}

fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Collector for NodeCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.gauges.descriptions()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (Observed { hub, pool, db, network }, gauges) = (&self.observed, &self.gauges);
        if let Some(view) = hub.consensus() {
            gauges.committee_seats.set(i64::from(view.health.seats));
            gauges.quorum_seats.set(i64::from(view.health.quorum));
            gauges.voting.set(i64::from(view.health.votes));
            gauges.leading.set(i64::from(view.health.leader == network.node_id()));
        }
        gauges.safe_height.set(int(hub.heads().safe.0));
        gauges.sync_target.set(hub.sync().map_or(0, |progress| int(progress.target.0)));
        let counts = pool.lock().counts();
        gauges.pending.set(int(counts.pending));
        gauges.queued.set(int(counts.queued));
        gauges.in_flight.set(int(counts.in_flight));
        let usage = db.usage();
        gauges.database_bytes.set(int(usage.file_bytes));
        gauges.cache_bytes.set(int(usage.memory_bytes));
        gauges.gathered()
    }
}

// The names that every Prometheus client library uses.
gauges!(ProcessGauges: Gauge {
    cpu = "process_cpu_seconds_total", "User and system CPU time";
    resident = "process_resident_memory_bytes", "Resident memory";
    start = "process_start_time_seconds", "Start of the process, in seconds since the Unix epoch";
    threads = "process_threads", "Threads";
    files = "process_open_fds", "Open file descriptors";
});

impl Collector for ProcessGauges {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if let Some(seen) = Process::now() {
            self.cpu.set(seen.cpu.as_secs_f64());
            self.resident.set(seen.resident_bytes as f64);
            self.start.set(seen.started);
            self.threads.set(seen.threads as f64);
            self.files.set(seen.files as f64);
        }
        let mut families = self.gathered();
        // A counter by its nature; what the kernel counted can only be set, which a counter here does not allow.
        for family in &mut families {
            if family.name() == "process_cpu_seconds_total" {
                as_counter(family, self.cpu.get());
            }
        }
        families
    }
}

fn as_counter(family: &mut MetricFamily, value: f64) {
    family.set_field_type(prometheus::proto::MetricType::COUNTER);
    for metric in family.mut_metric() {
        let mut counter = prometheus::proto::Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    }
}

/// What the kernel says of this process.
#[derive(Debug, PartialEq)]
struct Process {
    cpu: Duration,
    resident_bytes: i64,
    started: f64,
    threads: i64,
    files: usize,
}

impl Process {
    fn now() -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
        let machine = std::fs::read_to_string("/proc/stat").ok()?;
        let boot = machine.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse::<f64>().ok()?;
        let files = std::fs::read_dir("/proc/self/fd").ok()?.count();
        // The second field is a name in parentheses that may hold anything; what follows begins with the third.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu: Duration::from_secs_f64((field(14)? + field(15)?) / TICKS_PER_S),
            resident_bytes: statm.split_ascii_whitespace().nth(1)?.parse::<i64>().ok()? * PAGE_BYTES,
            started: boot + field(22)? / TICKS_PER_S,
            threads: field(20)? as i64,
            files,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use prometheus::TextEncoder;

    use super::*;

    #[test]
    fn the_process_is_described_as_the_kernel_sees_it() {
        let seen = Process::now().unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(seen.started <= now + 1.0 && seen.started > now - 86_400.0 * 365.0, "{seen:?}");
        assert!(seen.resident_bytes > 1 << 20 && seen.threads >= 1 && seen.files >= 3, "{seen:?}");
    }

    #[test]
    fn cpu_time_is_a_counter_and_memory_a_gauge() {
        let registry = Registry::new();
        registry.register(Box::new(ProcessGauges::new().unwrap())).unwrap();
        let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(text.contains("# TYPE process_cpu_seconds_total counter"), "{text}");
        assert!(text.contains("# TYPE process_resident_memory_bytes gauge"), "{text}");
    }
}
