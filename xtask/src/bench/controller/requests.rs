//! What the API server was asked for, by its own count.

use std::collections::BTreeMap;

use serde::Serialize;

/// How often it was asked for what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Requests(BTreeMap<Call, u64>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Call {
    verb: String,
    resource: String,
    code: String,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct RequestsReport {
    /// As Kubernetes' metrics call it: `POST`, `APPLY`, `WATCH`, …
    pub(super) verb: String,
    /// With the subresource: `idtokenbindings/status`.
    pub(super) resource: String,
    /// HTTP code of the answer.
    pub(super) code: String,
    pub(super) count: u64,
}

impl Requests {
    /// Reads what kube-apiserver serves at `/metrics`.
    pub(super) fn parse(metrics: &str) -> Self {
        let mut calls = BTreeMap::new();
        for line in metrics.lines() {
            let Some((labels, count)) =
                line.strip_prefix("apiserver_request_total{").and_then(|rest| rest.rsplit_once("} "))
            else {
                continue;
            };
            let label = |name: &str| {
                let (_, rest) = labels.split_once(&format!("{name}=\""))?;
                rest.split_once('"').map(|(value, _)| value)
            };
            let resource = match (label(",resource"), label("subresource").filter(|sub| !sub.is_empty())) {
                (resource, None) => resource.unwrap_or_default().to_owned(),
                (resource, Some(sub)) => format!("{}/{sub}", resource.unwrap_or_default()),
            };
            let text = |name| label(name).unwrap_or_default().to_owned();
            let call = Call { verb: text("verb"), resource, code: text("code") };
            *calls.entry(call).or_default() += whole(count);
        }
        Self(calls)
    }

    /// What came since `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        let earlier = |call| before.0.get(call).copied().unwrap_or_default();
        let more = self.0.iter().map(|(call, count)| (call.clone(), count.saturating_sub(earlier(call))));
        Self(more.filter(|(_, count)| *count > 0).collect())
    }

    /// Writes that bindings cause: of Secrets, of bindings and their status, and of Events. Those of the Lease and of grants'
    /// statuses are as many as they are, however many bindings there are.
    pub(super) fn writes(&self) -> u64 {
        let of_bindings = |call: &Call| {
            WRITES.contains(&call.verb.as_str()) && OF_BINDINGS.contains(&call.resource.as_str())
        };
        self.0.iter().filter(|(call, _)| of_bindings(call)).map(|(_, count)| count).sum()
    }

    /// All but what the observer itself asks for, the most frequent first.
    pub(super) fn report(&self) -> Vec<RequestsReport> {
        let observers =
            |call: &Call| call.resource.is_empty() || (call.verb == "LIST" && call.resource == "leases");
        let asked = self.0.iter().filter(|(call, _)| !observers(call));
        let mut lines: Vec<_> = asked
            .map(|(Call { verb, resource, code }, count)| RequestsReport {
                verb: verb.clone(),
                resource: resource.clone(),
                code: code.clone(),
                count: *count,
            })
            .collect();
        lines.sort_by_key(|line| std::cmp::Reverse(line.count));
        lines
    }
}

/// A counter's value, which Prometheus writes as a floating-point number: `12` or `1.2e+06`.
fn whole(count: &str) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    count.trim().parse::<f64>().map_or(0, |count| count as u64)
}

const WRITES: [&str; 6] = ["POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"];
const OF_BINDINGS: [&str; 4] = ["secrets", "idtokenbindings", "idtokenbindings/status", "events"];

#[cfg(test)]
mod tests {
    use super::*;

    fn line(verb: &str, resource: &str, subresource: &str, code: u32, count: &str) -> String {
        format!(
            "apiserver_request_total{{code=\"{code}\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"{resource}\",\
             scope=\"resource\",subresource=\"{subresource}\",verb=\"{verb}\",version=\"v1\"}} {count}\n"
        )
    }

    #[test]
    fn what_was_asked_for_between_two_looks_is_told_by_verb_and_resource() {
        let before = [line("POST", "secrets", "", 201, "7"), line("GET", "secrets", "", 404, "7")].concat();
        let after = [
            "# TYPE apiserver_request_total counter\n".to_owned(),
            line("POST", "secrets", "", 201, "1.000007e+06"),
            line("GET", "secrets", "", 404, "7"),
            line("PUT", "idtokenbindings", "status", 200, "3"),
            line("GET", "", "", 200, "9"),
            line("LIST", "leases", "", 200, "9"),
            "apiserver_request_totals 1\n".to_owned(),
        ]
        .concat();
        let since = Requests::parse(&after).since(&Requests::parse(&before));
        let told: Vec<_> = since
            .report()
            .into_iter()
            .map(|line| (line.verb, line.resource, line.code, line.count))
            .collect();
        let words = |verb: &str, resource: &str, code: &str, count| {
            (verb.to_owned(), resource.to_owned(), code.to_owned(), count)
        };
        assert_eq!(
            told,
            [words("POST", "secrets", "201", 1_000_000), words("PUT", "idtokenbindings/status", "200", 3)]
        );
    }

    #[test]
    fn every_write_that_a_binding_causes_counts_and_no_other() {
        let of = |verb: &str, resource: &str, subresource: &str| {
            Requests::parse(&line(verb, resource, subresource, 200, "2")).writes()
        };
        for (verb, resource, subresource) in [
            ("POST", "secrets", ""),
            ("PUT", "secrets", ""),
            ("PATCH", "idtokenbindings", ""),
            ("PUT", "idtokenbindings", "status"),
            ("POST", "events", ""),
            ("DELETE", "secrets", ""),
        ] {
            assert_eq!(of(verb, resource, subresource), 2, "{verb} {resource}");
        }
        for (verb, resource, subresource) in [
            ("GET", "secrets", ""),
            ("WATCH", "idtokenbindings", ""),
            ("PUT", "leases", ""),
            ("APPLY", "idtokengrants", "status"),
        ] {
            assert_eq!(of(verb, resource, subresource), 0, "{verb} {resource}");
        }
    }
}
