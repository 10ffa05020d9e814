//! Metrics for Prometheus: tool calls and their outcomes, sandboxes, refused requests.

use std::sync::atomic::Ordering;
use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::network::live::Counts;

/// The media type of the text.
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Bounds of the histogram of call durations, in seconds: from a lookup through a command and a boot to a build.
const BOUNDS: [f64; 10] = [0.005, 0.02, 0.1, 0.5, 2.0, 5.0, 15.0, 60.0, 300.0, 3600.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    tool: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ToolLabel {
    tool: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// All metrics of a server.
pub(crate) struct Metrics {
    registry: Registry,
    calls: Family<CallLabels, Counter>,
    seconds: Family<ToolLabel, Histogram, fn() -> Histogram>,
    under_way: Gauge,
    refused: Family<ReasonLabel, Counter>,
    sandboxes: Gauge,
    sse: Counter,
    network: Network,
}

/// What the sandboxes did on the network.
#[derive(Default)]
struct Network {
    open: Gauge,
    made: Counter,
    refused: Counter,
    up: Counter,
    down: Counter,
}

impl Network {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "network_connections_open",
            "Connections of sandboxes that are open",
            self.open.clone(),
        );
        for (name, help, counter) in [
            (
                "network_connections",
                "Connections of sandboxes that were made",
                &self.made,
            ),
            (
                "network_refused",
                "Names and connections of sandboxes that were refused",
                &self.refused,
            ),
            ("network_sent_bytes", "Bytes from sandboxes", &self.up),
            ("network_received_bytes", "Bytes to sandboxes", &self.down),
        ] {
            registry.register(name, help, counter.clone());
        }
    }

    fn set(&self, counts: &Counts) {
        self.open
            .set(i64::try_from(counts.open).unwrap_or(i64::MAX));
        for (counter, count) in [
            (&self.made, counts.made),
            (&self.refused, counts.refused),
            (&self.up, counts.bytes_up),
            (&self.down, counts.bytes_down),
        ] {
            // Two readers at a time must not make a counter smaller.
            counter.inner().fetch_max(count, Ordering::Relaxed);
        }
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            calls: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(BOUNDS)),
            under_way: Gauge::default(),
            refused: Family::default(),
            sandboxes: Gauge::default(),
            sse: Counter::default(),
            network: Network::default(),
            registry: Registry::with_prefix("snowglobe"),
        };
        let registry = &mut metrics.registry;
        registry.register("tool_calls", "Tool calls that ended", metrics.calls.clone());
        registry.register_with_unit(
            "tool_call_duration",
            "Durations of tool calls",
            Unit::Seconds,
            metrics.seconds.clone(),
        );
        registry.register(
            "tool_calls_under_way",
            "Tool calls in progress",
            metrics.under_way.clone(),
        );
        registry.register(
            "http_refused",
            "HTTP requests refused, by reason",
            metrics.refused.clone(),
        );
        registry.register(
            "sandboxes",
            "Sandboxes that exist",
            metrics.sandboxes.clone(),
        );
        registry.register(
            "sse_connections",
            "Connections of the older transport so far",
            metrics.sse.clone(),
        );
        metrics.network.register(registry);
        metrics
    }

    /// Counts a call of a tool from now until it ends.
    pub(crate) fn call(&self, tool: &str) -> CallTimer<'_> {
        self.under_way.inc();
        CallTimer {
            metrics: self,
            tool: tool.to_owned(),
            began: Instant::now(),
            outcome: "cancelled",
        }
    }

    /// Counts a refused request.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts a connection of the older transport.
    pub(crate) fn sse_connected(&self) {
        self.sse.inc();
    }

    /// All metrics as text.
    pub(crate) fn text(&self, sandboxes: usize, network: &Counts) -> String {
        self.network.set(network);
        self.sandboxes
            .set(i64::try_from(sandboxes).unwrap_or(i64::MAX));
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.registry) {
            tracing::error!(%error, "the metrics could not be written");
        }
        text
    }
}

/// A call in progress. One that is dropped before its end was cancelled.
pub(crate) struct CallTimer<'a> {
    metrics: &'a Metrics,
    tool: String,
    began: Instant,
    outcome: &'static str,
}

impl CallTimer<'_> {
    /// The call ended.
    pub(crate) fn end(mut self, error: bool) {
        self.outcome = if error { "error" } else { "ok" };
    }
}

impl Drop for CallTimer<'_> {
    fn drop(&mut self) {
        let metrics = self.metrics;
        metrics.under_way.dec();
        let tool = std::mem::take(&mut self.tool);
        let labels = CallLabels {
            tool: tool.clone(),
            outcome: self.outcome,
        };
        metrics.calls.get_or_create(&labels).inc();
        let seconds = self.began.elapsed().as_secs_f64();
        metrics
            .seconds
            .get_or_create(&ToolLabel { tool })
            .observe(seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_holds_what_was_counted() {
        let metrics = Metrics::new();
        metrics.call("exec").end(false);
        drop(metrics.call("exec"));
        metrics.refused("token");
        let counts = Counts {
            open: 1,
            made: 7,
            refused: 2,
            bytes_up: 10,
            bytes_down: 20,
        };
        let text = metrics.text(3, &counts);
        for line in [
            "snowglobe_tool_calls_total{tool=\"exec\",outcome=\"ok\"} 1",
            "snowglobe_tool_calls_total{tool=\"exec\",outcome=\"cancelled\"} 1",
            "snowglobe_tool_call_duration_seconds_count{tool=\"exec\"} 2",
            "snowglobe_tool_calls_under_way 0",
            "snowglobe_http_refused_total{reason=\"token\"} 1",
            "snowglobe_sandboxes 3",
            "snowglobe_network_connections_open 1",
            "snowglobe_network_connections_total 7",
            "snowglobe_network_refused_total 2",
            "snowglobe_network_sent_bytes_total 10",
            "snowglobe_network_received_bytes_total 20",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
