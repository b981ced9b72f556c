//! Which names Kubernetes takes.

/// RFC 1123, as Kubernetes reads it for names of most objects.
#[must_use]
pub fn is_dns_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_plain_label)
}

/// What the name of a namespace must be.
#[must_use]
pub fn is_dns_label(name: &str) -> bool {
    name.len() <= 63 && is_plain_label(name)
}

/// What a key of a Secret must be.
#[must_use]
pub fn is_data_key(key: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    (1..=253).contains(&key.len()) && key.bytes().all(plain) && key != "." && !key.starts_with("..")
}

fn is_plain_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_kubernetes_takes() {
        for (name, subdomain, label, key) in [
            ("orders", true, true, true),
            ("7", true, true, true),
            ("a-b.c", true, false, true),
            ("key.JSON_1", false, false, true),
            ("", false, false, false),
            ("A b", false, false, false),
            ("-a", false, false, true),
            ("a-", false, false, true),
            ("a..b", false, false, true),
            (".", false, false, false),
            ("..data", false, false, false),
            ("a/b", false, false, false),
            ("ü", false, false, false),
        ] {
            assert_eq!(
                (is_dns_subdomain(name), is_dns_label(name), is_data_key(name)),
                (subdomain, label, key),
                "{name}"
            );
        }
        assert!(is_dns_label(&"a".repeat(63)) && !is_dns_label(&"a".repeat(64)));
        assert!(is_dns_subdomain(&"a".repeat(253)) && !is_dns_subdomain(&"a".repeat(254)));
    }
}
