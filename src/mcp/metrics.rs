//! What the server counts, for Prometheus: calls and how they went, sandboxes, requests refused.

use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// The media type of the text.
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Bounds of a call's duration, in seconds: a look, a command, a boot, a build.
const BOUNDS: [f64; 10] = [0.005, 0.02, 0.1, 0.5, 2.0, 5.0, 15.0, 60.0, 300.0, 3600.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    tool: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Tool {
    tool: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    reason: &'static str,
}

/// Everything counted.
pub(crate) struct Metrics {
    registry: Registry,
    calls: Family<Of, Counter>,
    seconds: Family<Tool, Histogram, fn() -> Histogram>,
    under_way: Gauge,
    refused: Family<Why, Counter>,
    sandboxes: Gauge,
    sse: Counter,
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
            registry: Registry::with_prefix("snowglobe"),
        };
        let registry = &mut metrics.registry;
        registry.register(
            "tool_calls",
            "Calls of tools that ended",
            metrics.calls.clone(),
        );
        registry.register_with_unit(
            "tool_call_duration",
            "How long calls of tools took",
            Unit::Seconds,
            metrics.seconds.clone(),
        );
        registry.register(
            "tool_calls_under_way",
            "Calls of tools under way",
            metrics.under_way.clone(),
        );
        registry.register(
            "http_refused",
            "HTTP requests refused, by reason",
            metrics.refused.clone(),
        );
        registry.register(
            "sandboxes",
            "Sandboxes there are",
            metrics.sandboxes.clone(),
        );
        registry.register(
            "sse_connections",
            "Connections of the older transport so far",
            metrics.sse.clone(),
        );
        metrics
    }

    /// A call of a tool begins.
    pub(crate) fn call(&self, tool: &str) -> Measured<'_> {
        self.under_way.inc();
        Measured {
            metrics: self,
            tool: tool.to_owned(),
            began: Instant::now(),
            outcome: "cancelled",
        }
    }

    /// A request was refused.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Why { reason }).inc();
    }

    /// A client of the older transport came.
    pub(crate) fn sse(&self) {
        self.sse.inc();
    }

    /// All of it as text.
    pub(crate) fn text(&self, sandboxes: usize) -> String {
        self.sandboxes
            .set(i64::try_from(sandboxes).unwrap_or(i64::MAX));
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// A call under way; dropped before it ended, it was cancelled.
pub(crate) struct Measured<'a> {
    metrics: &'a Metrics,
    tool: String,
    began: Instant,
    outcome: &'static str,
}

impl Measured<'_> {
    /// It ended.
    pub(crate) fn ended(mut self, error: bool) {
        self.outcome = if error { "error" } else { "ok" };
    }
}

impl Drop for Measured<'_> {
    fn drop(&mut self) {
        let metrics = self.metrics;
        metrics.under_way.dec();
        let tool = std::mem::take(&mut self.tool);
        let of = Of {
            tool: tool.clone(),
            outcome: self.outcome,
        };
        metrics.calls.get_or_create(&of).inc();
        let seconds = self.began.elapsed().as_secs_f64();
        metrics
            .seconds
            .get_or_create(&Tool { tool })
            .observe(seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_in_the_text() {
        let metrics = Metrics::new();
        metrics.call("exec").ended(false);
        drop(metrics.call("exec"));
        metrics.refused("token");
        let text = metrics.text(3);
        for line in [
            "snowglobe_tool_calls_total{tool=\"exec\",outcome=\"ok\"} 1",
            "snowglobe_tool_calls_total{tool=\"exec\",outcome=\"cancelled\"} 1",
            "snowglobe_tool_call_duration_seconds_count{tool=\"exec\"} 2",
            "snowglobe_tool_calls_under_way 0",
            "snowglobe_http_refused_total{reason=\"token\"} 1",
            "snowglobe_sandboxes 3",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
