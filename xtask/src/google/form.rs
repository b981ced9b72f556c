//! `application/x-www-form-urlencoded`: query strings and form bodies.

/// Decoded pairs in their order.
#[derive(Debug, Default)]
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    /// Reads `a=1&b=2`; anything that is not UTF-8 after decoding becomes replacement characters.
    pub(super) fn parse(text: &str) -> Self {
        let pair = |part: &str| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(name, true), decode(value, true))
        };
        Self(text.split('&').filter(|part| !part.is_empty()).map(pair).collect())
    }

    /// The first value of that name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A path segment without its percent encoding.
pub(super) fn decode_segment(text: &str) -> String {
    decode(text, false)
}

fn decode(text: &str, plus_is_space: bool) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'+', _) if plus_is_space => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                bytes.push(nibble(*high) << 4 | nibble(*low));
                rest = after;
            }
            _ => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_clients_send() {
        let form = Form::parse("format=full&audience=https%3A%2F%2Fa.run.app%2F%3Fx%3D1&note=a+b%2bc&flag");
        assert_eq!(form.get("audience"), Some("https://a.run.app/?x=1"));
        assert_eq!(form.get("note"), Some("a b+c"));
        assert_eq!(form.get("flag"), Some(""));
        assert_eq!(form.get("absent"), None);
    }

    #[test]
    fn the_first_of_repeated_names_counts_and_broken_escapes_stay() {
        let form = Form::parse("a=1&a=2&b=%zz%4");
        assert_eq!(form.get("a"), Some("1"));
        assert_eq!(form.get("b"), Some("%zz%4"));
        assert_eq!(decode_segment("a%40b+c"), "a@b+c");
    }
}
