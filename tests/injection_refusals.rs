//! Pods that the webhook refuses, and in which words. The same file is tried with the policy, on a real API server: `api_policy`.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

#[path = "common/refusals.rs"]
mod refusals;

use idtoken_operator::plan::inject::{Pod, inject};

#[test]
fn every_malformed_annotation_is_refused_in_the_words_of_its_fixture() {
    let refusals = refusals::all();
    assert_eq!(refusals.len(), 25);
    for (pod, message) in refusals {
        let refused = inject(&Pod::of(&pod), &|_| None, "2026-11-22T12:00:00Z".parse().unwrap());
        assert_eq!(refused.unwrap_err().to_string(), message, "{pod}");
    }
}
