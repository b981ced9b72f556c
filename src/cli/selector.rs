//! Label selectors, as kubectl takes them.

use kube::core::{Expression, Selector};

use crate::plan::names::is_dns_subdomain;

/// Reads a label selector such as `team=orders,tier in (a, b),!legacy`. What the API server would refuse is refused here, where
/// somebody sees it.
pub(super) fn selector(text: &str) -> Result<Selector, String> {
    terms(text).into_iter().map(str::trim).filter(|term| !term.is_empty()).map(expression).collect()
}

/// What stands between commas that are in no parentheses.
fn terms(text: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    text.split(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth <= 0
    })
    .collect()
}

fn expression(term: &str) -> Result<Expression, String> {
    if let Some(key) = term.strip_prefix('!') {
        return Ok(Expression::DoesNotExist(self::key(key)?));
    }
    for (operator, make) in [
        ("!=", Expression::NotEqual as fn(String, String) -> Expression),
        ("==", Expression::Equal),
        ("=", Expression::Equal),
    ] {
        if let Some((key, value)) = term.split_once(operator) {
            return Ok(make(self::key(key)?, self::value(value)?));
        }
    }
    let Some((head, set)) = term.split_once('(') else { return Ok(Expression::Exists(key(term)?)) };
    let values = set.strip_suffix(')').ok_or_else(|| format!("{term:?} lacks a \")\" at its end"))?;
    let values = values.split(',').map(value).collect::<Result<_, _>>()?;
    match head.split_whitespace().collect::<Vec<_>>()[..] {
        [name, "in"] => Ok(Expression::In(key(name)?, values)),
        [name, "notin"] => Ok(Expression::NotIn(key(name)?, values)),
        _ => Err(format!(
            "{term:?} is none of: key, !key, key=value, key!=value, key in (a,b), key notin (a,b)"
        )),
    }
}

/// `PREFIX/NAME` or `NAME`.
fn key(text: &str) -> Result<String, String> {
    let text = text.trim();
    let (prefix, name) = text.rsplit_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    if !name.is_empty() && is_value(name) && prefix.is_none_or(is_dns_subdomain) {
        return Ok(text.to_owned());
    }
    Err(format!("{text:?} can't be the key of a label"))
}

fn value(text: &str) -> Result<String, String> {
    let text = text.trim();
    if is_value(text) { Ok(text.to_owned()) } else { Err(format!("{text:?} can't be the value of a label")) }
}

fn is_value(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric();
    text.len() <= 63
        && text.chars().all(|c| edge(c) || matches!(c, '-' | '_' | '.'))
        && text.starts_with(edge) == text.ends_with(edge)
        && (text.is_empty() || text.starts_with(edge))
}

#[cfg(test)]
mod tests {
    use super::selector;

    #[test]
    fn selectors_are_read_as_kubectl_reads_them() {
        for (text, read) in [
            ("", ""),
            ("team=orders", "team=orders"),
            ("team==orders , !legacy", "team=orders,!legacy"),
            ("example.com/tier != a,x", "example.com/tier!=a,x"),
            ("tier in (b, a),team notin (c)", "tier in (a,b),team notin (c)"),
            ("tier in (a,)", "tier in (,a)"),
            ("team=", "team="),
        ] {
            assert_eq!(selector(text).unwrap().to_string(), read, "{text}");
        }
    }

    #[test]
    fn what_no_label_can_match_is_refused() {
        for (text, why) in [
            ("team=a b", r#""a b" can't be the value of a label"#),
            ("-team", r#""-team" can't be the key of a label"#),
            ("A.b/-", r#""A.b/-" can't be the key of a label"#),
            ("a in (b", r#""a in (b" lacks a ")" at its end"#),
            (
                "a within (b)",
                r#""a within (b)" is none of: key, !key, key=value, key!=value, key in (a,b), key notin (a,b)"#,
            ),
            ("=b", r#""" can't be the key of a label"#),
        ] {
            assert_eq!(selector(text).unwrap_err(), why);
        }
    }
}
