//! Metrics of the actors. Names are `cascade_<subsystem>_<name>_<unit>`.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry};

use super::mail::Mailboxes;

/// Counters, gauges and histograms that actors set.
#[derive(Debug)]
pub struct Metrics {
    /// Height of the newest final block.
    pub final_height: IntGauge,
    /// Height of the newest executed block.
    pub executed_height: IntGauge,
    /// Epoch.
    pub epoch: IntGauge,
    /// View.
    pub view: IntGauge,
    /// Seats of members heard of lately.
    pub seats_heard: IntGauge,
    /// Views that this node voted to skip.
    pub skips: IntCounter,
    /// Contradicting votes seen.
    pub evidence: IntCounter,
    /// Time between two final blocks.
    pub final_interval: Histogram,
    /// Time from a block's timestamp to its finality here.
    pub finality_seconds: Histogram,
    /// Time to make a vote durable.
    pub persist_seconds: Histogram,
    /// Bytes in the vote log.
    pub log_bytes: IntGauge,
    /// Transactions in the pool.
    pub mempool_transactions: IntGauge,
    /// Transactions taken into the pool.
    pub mempool_admitted: IntCounter,
    /// Transactions refused by the pool.
    pub mempool_refused: IntCounter,
    /// Envelopes whose proofs were checked before they were taken into the pool.
    pub mempool_proofs: IntCounter,
    /// Time to build a block.
    pub build_seconds: Histogram,
    /// Time to validate a block's content.
    pub validate_seconds: Histogram,
    /// Time to encode a body into its square and to commit to it.
    pub encode_seconds: Histogram,
    /// Transactions in final blocks.
    pub ordered_transactions: IntCounter,
    /// Transactions executed.
    pub executed_transactions: IntCounter,
    /// Gas charged.
    pub executed_gas: IntCounter,
    /// Time to run a block's transactions and update the state tree.
    pub execute_seconds: Histogram,
    /// Time to write a block and its results.
    pub commit_seconds: Histogram,
    /// Peers that consensus reported.
    pub misbehaviour: IntCounter,
    /// Time from a block's finality here to its reveal.
    pub reveal_seconds: Histogram,
    /// Messages of shares, and values, that were wrong.
    pub wrong_shares: IntCounter,
    /// Own proposals that were sent in chunks.
    pub dispersed: IntCounter,
    /// Chunks that were sent.
    pub chunks_sent: IntCounter,
    /// Proposals put together from chunks.
    pub rebuilt: IntCounter,
    /// Time to put one together.
    pub rebuild_seconds: Histogram,
    /// Proposals that a leader was asked for.
    pub whole_asked: IntCounter,
    /// Proposals that members asked this node for.
    pub whole_served: IntCounter,
    /// Proposals in chunks whose leader lied.
    pub chunk_lies: IntCounter,
    /// The last block of the newest batch that this node published.
    pub batches_height: IntGauge,
    /// What waits for actors.
    pub mailboxes: Mailboxes,
}

impl Metrics {
    /// Registers all of them.
    ///
    /// # Errors
    /// If one is registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let seconds = |name: &str, help: &str| -> Result<Histogram, prometheus::Error> {
            let buckets = prometheus::exponential_buckets(0.000_1, 2.0, 18)?;
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok(histogram)
        };
        Ok(Self {
            final_height: gauge("cascade_consensus_final_height", "Height of the newest final block")?,
            executed_height: gauge("cascade_execution_height", "Height of the newest executed block")?,
            batches_height: gauge(
                "cascade_batches_height",
                "Last block of the newest batch that this node published; 0 if it publishes none",
            )?,
            epoch: gauge("cascade_consensus_epoch", "Current epoch")?,
            view: gauge("cascade_consensus_view", "Current view of the epoch")?,
            seats_heard: gauge(
                "cascade_consensus_seats_heard",
                "Seats of members heard of within four leader timeouts",
            )?,
            skips: counter("cascade_consensus_skips_total", "Views that this node voted to skip")?,
            evidence: counter("cascade_consensus_evidence_total", "Pairs of contradicting votes seen")?,
            final_interval: seconds("cascade_consensus_final_interval_seconds", "Time between two final blocks")?,
            finality_seconds: seconds(
                "cascade_consensus_finality_seconds",
                "Time from a block's timestamp to its finality at this node",
            )?,
            persist_seconds: seconds("cascade_storage_persist_seconds", "Time to make a vote durable")?,
            log_bytes: gauge("cascade_storage_vote_log_bytes", "Size of the vote log")?,
            mempool_transactions: gauge("cascade_mempool_transactions", "Transactions in the pool")?,
            mempool_admitted: counter("cascade_mempool_admitted_total", "Transactions taken into the pool")?,
            mempool_refused: counter("cascade_mempool_refused_total", "Transactions refused by the pool")?,
            mempool_proofs: counter(
                "cascade_mempool_proofs_total",
                "Envelopes whose proofs were checked on their way into the pool",
            )?,
            build_seconds: seconds("cascade_mempool_build_seconds", "Time to choose the content of a block")?,
            validate_seconds: seconds("cascade_mempool_validate_seconds", "Time to validate the content of a block")?,
            encode_seconds: seconds(
                "cascade_da_encode_seconds",
                "Time to encode a body into its square and to commit to it, before a block is proposed or voted on",
            )?,
            ordered_transactions: counter("cascade_consensus_transactions_total", "Transactions in final blocks")?,
            executed_transactions: counter("cascade_execution_transactions_total", "Transactions executed")?,
            executed_gas: counter("cascade_execution_gas_total", "Gas charged")?,
            execute_seconds: seconds(
                "cascade_execution_block_seconds",
                "Time to run a block's transactions and update the state tree",
            )?,
            reveal_seconds: seconds(
                "cascade_reveal_block_seconds",
                "Time from a block's finality at this node to what opens its envelopes",
            )?,
            wrong_shares: counter("cascade_reveal_wrong_total", "Messages of shares, and values, that were wrong")?,
            commit_seconds: seconds("cascade_storage_commit_seconds", "Time to write a block and its results")?,
            misbehaviour: counter("cascade_consensus_misbehaviour_total", "Messages that no honest peer sends")?,
            dispersed: counter("cascade_carriage_dispersed_total", "Own proposals sent in coded chunks")?,
            chunks_sent: counter(
                "cascade_carriage_chunks_sent_total",
                "Coded chunks sent or passed on, once for each receiver",
            )?,
            rebuilt: counter("cascade_carriage_rebuilt_total", "Proposals put together from coded chunks")?,
            rebuild_seconds: seconds(
                "cascade_carriage_rebuild_seconds",
                "Time to put a proposal together from coded chunks and to check the code",
            )?,
            whole_asked: counter(
                "cascade_carriage_asked_total",
                "Proposals that a leader was asked for since too few coded chunks came",
            )?,
            whole_served: counter(
                "cascade_carriage_served_total",
                "Whole proposals sent to members that had too few coded chunks",
            )?,
            chunk_lies: counter(
                "cascade_carriage_lies_total",
                "Proposals whose leader signed chunks that are not their code",
            )?,
            mailboxes: Mailboxes::new(registry)?,
        })
    }
}
