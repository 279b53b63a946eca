//! What the network measures, as Prometheus metrics named `cascade_network_<name>_<unit>`.

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, core::Collector, exponential_buckets,
};

use crate::channel::Channel;

/// Counters of one channel, resolved once.
#[derive(Debug)]
pub(crate) struct ChannelMetrics {
    pub(crate) received_bytes: IntCounter,
    pub(crate) received_messages: IntCounter,
    pub(crate) sent_bytes: IntCounter,
    pub(crate) sent_messages: IntCounter,
    /// Waits because a peer exceeded its rate.
    pub(crate) throttled: IntCounter,
    /// Outgoing messages dropped because the queue was full.
    pub(crate) dropped_queue: IntCounter,
    /// Incoming messages dropped because the layer above is behind.
    pub(crate) dropped_inbox: IntCounter,
}

#[derive(Debug)]
pub(crate) struct Metrics {
    channels: [ChannelMetrics; 5],
    pub(crate) peers: IntGauge,
    pub(crate) half_open: IntGauge,
    pub(crate) connections: IntCounterVec,
    pub(crate) handshake_failures: IntCounterVec,
    pub(crate) incoming_refused: IntCounterVec,
    pub(crate) misbehaviours: IntCounterVec,
    pub(crate) bans: IntCounterVec,
    pub(crate) disconnects: IntCounter,
    pub(crate) replaced: IntCounter,
    /// Peers disconnected because all together held more than the budget.
    pub(crate) heavy_peers: IntCounter,
    pub(crate) buffered_bytes: IntGauge,
    pub(crate) events_dropped: IntCounter,
    pub(crate) requests: IntCounterVec,
    pub(crate) request_seconds: Histogram,
    pub(crate) served: IntCounterVec,
    pub(crate) announcements: IntGauge,
}

fn add<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    add(registry, IntCounterVec::new(Opts::new(format!("cascade_network_{name}"), help), labels)?)
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let by_channel = |name: &str, help: &str| counters(registry, name, help, &["channel"]);
        let received_bytes = by_channel("received_bytes_total", "Payload bytes received, by channel")?;
        let received_messages = by_channel("received_messages_total", "Messages received, by channel")?;
        let sent_bytes = by_channel("sent_bytes_total", "Payload bytes written to streams, by channel")?;
        let sent_messages = by_channel("sent_messages_total", "Messages written to streams, by channel")?;
        let throttled = by_channel("throttled_waits_total", "Waits because a peer exceeded its rate, by channel")?;
        let dropped = counters(
            registry,
            "dropped_messages_total",
            "Messages dropped: queue = the peer is too slow, inbox = this node is too slow",
            &["channel", "reason"],
        )?;
        let channels = Channel::ALL.map(|channel| {
            let name = &[channel.name()];
            ChannelMetrics {
                received_bytes: received_bytes.with_label_values(name),
                received_messages: received_messages.with_label_values(name),
                sent_bytes: sent_bytes.with_label_values(name),
                sent_messages: sent_messages.with_label_values(name),
                throttled: throttled.with_label_values(name),
                dropped_queue: dropped.with_label_values(&[channel.name(), "queue"]),
                dropped_inbox: dropped.with_label_values(&[channel.name(), "inbox"]),
            }
        });
        let gauge = |name: &str, help: &str| add(registry, IntGauge::new(format!("cascade_network_{name}"), help)?);
        let counter = |name: &str, help: &str| add(registry, IntCounter::new(format!("cascade_network_{name}"), help)?);
        let by = |name: &str, help: &str, label: &str| counters(registry, name, help, &[label]);
        let seconds = HistogramOpts::new("cascade_network_request_duration_seconds", "From a request to its response")
            .buckets(exponential_buckets(0.0005, 2.0, 16)?);
        Ok(Self {
            channels,
            peers: gauge("peers_count", "Connected peers")?,
            half_open: gauge("half_open_count", "Inbound handshakes under way")?,
            connections: by("connections_total", "Peers connected, by who dialled", "direction")?,
            handshake_failures: by("handshake_failures_total", "Dials and inbound handshakes that failed", "reason")?,
            incoming_refused: by("incoming_refused_total", "Connection attempts turned away unread", "reason")?,
            misbehaviours: by("misbehaviours_total", "Misbehaviour of peers", "kind")?,
            bans: by("bans_total", "Peers banned", "kind")?,
            disconnects: counter("disconnects_total", "Connected peers that went away")?,
            replaced: counter("duplicate_connections_total", "Second connections of a pair that were resolved")?,
            heavy_peers: counter(
                "heavy_peers_total",
                "Peers disconnected because all held too much, and they the most",
            )?,
            buffered_bytes: gauge(
                "buffered_bytes",
                "Bytes that peers make this node hold, inboxes and QUIC not counted",
            )?,
            events_dropped: counter("dropped_events_total", "Failure reports dropped because nobody reads events")?,
            requests: by("requests_total", "Requests to peers, by result", "result")?,
            request_seconds: add(registry, Histogram::with_opts(seconds)?)?,
            served: by("served_requests_total", "Requests of peers, by result", "result")?,
            announcements: gauge("announcements_count", "Announcements in the discovery table")?,
        })
    }

    pub(crate) const fn of(&self, channel: Channel) -> &ChannelMetrics {
        &self.channels[channel.index()]
    }
}
