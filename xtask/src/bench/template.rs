//! The body of a request: an AdmissionReview of 4 KB as the API server sends it, written once. A client only copies it
//! and fills in three fields of a fixed width, so that it costs little, and so that all answers have one length.

use anyhow::{Context as _, ensure};
use bytes::Bytes;

/// A review with blanks.
#[derive(Clone, Debug)]
pub(super) struct Template {
    text: Vec<u8>,
    serial: Vec<usize>,
    namespace: Vec<usize>,
    binding: Vec<usize>,
}

impl Template {
    /// The review of `review.json`, padded to [`SIZE`] bytes.
    pub(super) fn new() -> anyhow::Result<Self> {
        let text: String = include_str!("review.json").lines().map(str::trim).collect();
        let padding = (SIZE + PADDING.len()).checked_sub(text.len()).context("the review is too long")?;
        let text = text.replace(PADDING, &format!("/{}", "x".repeat(padding.saturating_sub(1))));
        let at = |mark: &str| text.match_indices(mark).map(|(at, _)| at).collect::<Vec<_>>();
        let (serial, namespace, binding) = (at(SERIAL), at(NAMESPACE), at(BINDING));
        ensure!(text.len() == SIZE && serial.len() == 1 && namespace.len() == 2 && binding.len() == 1);
        Ok(Self { text: text.into_bytes(), serial, namespace, binding })
    }

    /// The `serial`th review: of a pod of `namespace` that names `binding`.
    pub(super) fn fill(&self, serial: u32, namespace: &str, binding: &str) -> Bytes {
        let mut text = self.text.clone();
        let serial = format!("{serial:09}");
        for (places, value) in
            [(&self.serial, serial.as_str()), (&self.namespace, namespace), (&self.binding, binding)]
        {
            for at in places {
                text[*at..*at + value.len()].copy_from_slice(value.as_bytes());
            }
        }
        text.into()
    }
}

/// The uid of the `serial`th review.
pub(super) fn uid(serial: u32) -> String {
    format!("00000000-0000-4000-8000-{serial:09}")
}

/// Bytes of a body.
pub(super) const SIZE: usize = 4096;
const PADDING: &str = "%PADDING%";
const SERIAL: &str = "%SERIAL%%";
const NAMESPACE: &str = "%SPACE%";
const BINDING: &str = "%BINDING%%%%";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::Value;

    use super::*;

    #[test]
    fn a_filled_template_is_a_review_of_4_kilobytes() {
        let body = Template::new().unwrap().fill(42, "team-07", "orders-00107");
        assert_eq!(body.len(), 4096);
        let review: Value = serde_json::from_slice(&body).unwrap();
        let request = &review["request"];
        assert_eq!(request["uid"], "00000000-0000-4000-8000-000000042");
        assert_eq!(uid(42), "00000000-0000-4000-8000-000000042");
        assert_eq!(request["namespace"], "team-07");
        assert_eq!(request["object"]["metadata"]["namespace"], "team-07");
        assert_eq!(request["object"]["metadata"]["annotations"]["idtoken.dev/inject"], "orders-00107");
        assert!(!body.contains(&b'%'));
    }
}
