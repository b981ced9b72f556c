//! Times and claims as people read them.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::{Map, Value};

/// `59 min 58 s`: the two largest units.
pub(super) fn span(seconds: i64) -> String {
    let seconds = seconds.unsigned_abs();
    let units = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let mut left = seconds;
    let mut parts = Vec::new();
    for (size, unit) in units {
        if left >= size && parts.len() < 2 {
            parts.push(format!("{} {unit}", left / size));
        } else if !parts.is_empty() {
            break;
        }
        left %= size;
    }
    if parts.is_empty() { "0 s".to_owned() } else { parts.join(" ") }
}

/// `2026-01-01T00:00:00Z (in 5 min 3 s)`.
pub(super) fn moment(time: Timestamp, now: Timestamp) -> String {
    let ahead = time.as_second() - now.as_second();
    let relative = match ahead {
        0 => "now".to_owned(),
        1.. => format!("in {}", span(ahead)),
        _ => format!("{} ago", span(ahead)),
    };
    let whole = Timestamp::from_second(time.as_second()).unwrap_or(time);
    format!("{whole} ({relative})")
}

/// Claims or header fields, one a line, times also as people write them. What could deceive on a terminal is escaped.
pub(super) fn fields(fields: &Map<String, Value>) -> String {
    let width = fields.keys().map(|name| harmless(name).chars().count()).max().unwrap_or(0);
    fields.iter().fold(String::new(), |mut text, (name, value)| {
        let shown = match value {
            Value::String(value) => harmless(value),
            value => harmless(&value.to_string()),
        };
        let _ = write!(text, "  {:<width$}  {shown}", harmless(name)); // writing to a String can't fail
        let time = TIMES.contains(&name.as_str()).then(|| value.as_i64()).flatten();
        if let Some(time) = time.and_then(|seconds| Timestamp::from_second(seconds).ok()) {
            let _ = write!(text, " = {time}");
        }
        text.push('\n');
        text
    })
}

/// `text`, or its escaped form where it has characters that do not show.
pub(super) fn harmless(text: &str) -> String {
    let plain = |c: char| c == ' ' || c.is_ascii_graphic() || c.is_alphanumeric();
    if text.chars().all(plain) { text.to_owned() } else { text.escape_default().to_string() }
}

/// Claims that are times.
const TIMES: [&str; 4] = ["auth_time", "exp", "iat", "nbf"];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn spans_have_two_units() {
        let table = [
            (0, "0 s"),
            (59, "59 s"),
            (-61, "1 min 1 s"),
            (3600, "1 h"),
            (3605, "1 h"),
            (3661, "1 h 1 min"),
            (90_000, "1 d 1 h"),
        ];
        for (seconds, words) in table {
            assert_eq!(span(seconds), words);
        }
    }

    #[test]
    fn moments_are_told_by_clock_and_by_distance() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let now = at(1_767_225_600);
        assert_eq!(moment(at(1_767_229_200), now), "2026-01-01T01:00:00Z (in 1 h)");
        assert_eq!(moment(at(1_767_225_597), now), "2025-12-31T23:59:57Z (3 s ago)");
        assert_eq!(moment(now, now), "2026-01-01T00:00:00Z (now)");
    }

    #[test]
    fn fields_stand_under_each_other_and_can_not_play_tricks() {
        let claims = json!({"aud": "https://x/*", "exp": 1_767_225_600, "email_verified": true, "n": "a\u{1b}[2J\u{202e}b", "é": "ü"});
        assert_eq!(
            fields(claims.as_object().unwrap()),
            "  aud             https://x/*\n  email_verified  true\n  exp             1767225600 = 2026-01-01T00:00:00Z\n  \
             n               a\\u{1b}[2J\\u{202e}b\n  é               ü\n"
        );
    }
}
