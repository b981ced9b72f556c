//! Metrics, prefix `idtoken_`, but for one whose name all operators share. Labels come from small closed sets: never an audience, a name or an error's text.

use std::fmt;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// All metrics of the process. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: std::sync::Arc<Registry>,
    /// Requests for tokens to Google, by source and result.
    pub token_requests: Family<TokenRequest, Counter>,
    /// Tokens that bindings got without a request of their own, since another one needs the same.
    pub tokens_shared: Counter,
    /// Visits of bindings that wait for their turn.
    pub waiting_visits: Gauge,
    /// How long the visit that is most overdue has been due.
    pub schedule_lag_seconds: Gauge,
    /// Writes of Secrets, by result.
    pub secret_writes: Family<Write, Counter>,
    /// Writes of binding statuses, by result.
    pub status_writes: Family<Write, Counter>,
    /// Whether this process leads, by Lease.
    pub leader: Family<Leader, Gauge>,
    /// Watches that the API server refuses now.
    pub refused_watches: Gauge,
    /// Pods that ask for tokens and have none.
    pub uninjected_pods: Gauge,
}

/// Labels of a request for a token.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TokenRequest {
    /// The source, as in the API.
    pub source: &'static str,
    /// `TokenFresh`, or the reason of the failure.
    pub result: &'static str,
}

/// Labels of a write.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Write {
    /// What came of it.
    pub result: &'static str,
}

/// Labels of an election.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Leader {
    /// The Lease.
    pub name: String,
}

impl Metrics {
    /// The controller's metrics.
    #[must_use]
    pub fn new() -> Self {
        Self::with(|_| ())
    }

    /// The same, and those that `register` adds.
    #[must_use]
    pub fn with(register: impl FnOnce(&mut Registry)) -> Self {
        let mut root = Registry::default();
        let leader = Family::default();
        root.register(
            "leader_election_master_status",
            "Whether this process leads, by Lease",
            leader.clone(),
        );
        let registry = root.sub_registry_with_prefix("idtoken");
        let build = Family::<Vec<(String, String)>, Gauge>::default();
        build.get_or_create(&vec![("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]).set(1);
        let token_requests = Family::default();
        let (tokens_shared, waiting_visits) = (Counter::default(), Gauge::default());
        let secret_writes = Family::default();
        let status_writes = Family::default();
        registry.register("build_info", "Version of the operator; always 1", build);
        registry.register("token_requests", "Requests for tokens to Google", token_requests.clone());
        registry.register(
            "tokens_shared",
            "Tokens that bindings got without a request of their own, since another one needs the same",
            tokens_shared.clone(),
        );
        let schedule_lag_seconds = Gauge::default();
        registry.register(
            "schedule_lag_seconds",
            "How long the visit that is most overdue has been due, as of the last look every 15 s",
            schedule_lag_seconds.clone(),
        );
        registry.register("waiting_visits", "Bindings that wait for their turn", waiting_visits.clone());
        registry.register("secret_writes", "Writes of Secrets", secret_writes.clone());
        registry.register("status_writes", "Writes of binding statuses", status_writes.clone());
        let refused_watches = Gauge::default();
        registry.register(
            "refused_watches",
            "Watches that the API server refuses now, as forbidden or not found",
            refused_watches.clone(),
        );
        let uninjected_pods = Gauge::default();
        registry.register(
            "uninjected_pods",
            "Pods that ask for tokens and have none, as far as this process leads and looks for them",
            uninjected_pods.clone(),
        );
        register(registry);
        let registry = std::sync::Arc::new(root);
        Self {
            registry,
            token_requests,
            tokens_shared,
            waiting_visits,
            schedule_lag_seconds,
            secret_writes,
            status_writes,
            leader,
            refused_watches,
            uninjected_pods,
        }
    }

    /// The metrics in OpenMetrics text form.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Content type of [`Metrics::encode`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_carry_prefix_labels_and_total() {
        let metrics = Metrics::new();
        metrics
            .token_requests
            .get_or_create(&TokenRequest { source: "impersonation", result: "TokenFresh" })
            .inc();
        let text = metrics.encode().unwrap();
        assert!(
            text.contains("idtoken_token_requests_total{source=\"impersonation\",result=\"TokenFresh\"} 1\n"),
            "{text}"
        );
        assert!(text.contains("idtoken_build_info{version=\"0.1.0\"} 1\n"), "{text}");
        assert!(text.contains("\nidtoken_refused_watches 0\n"), "{text}");
        metrics.leader.get_or_create(&Leader { name: "lease".to_owned() }).set(1);
        let text = metrics.encode().unwrap();
        assert!(text.contains("\nleader_election_master_status{name=\"lease\"} 1\n"), "{text}");
    }
}
