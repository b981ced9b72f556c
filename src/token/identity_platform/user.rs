//! A user's credentials, as they stand in Secrets.

use std::fmt;

use zeroize::Zeroizing;

use super::Wanted;
use crate::{
    api::Reason,
    plan::{Problem, source::SecretKey},
    token::credential_file::Unusable,
};

/// A user's credentials. They can't be printed.
pub(super) struct User<'a> {
    pub(super) wanted: Wanted<'a>,
    pub(super) api_key: Zeroizing<String>,
    pub(super) email: Zeroizing<String>,
    pub(super) password: Zeroizing<String>,
}

impl<'a> User<'a> {
    /// Reads the `values` of API key, e-mail address and password.
    pub(super) fn read(wanted: Wanted<'a>, values: &[Zeroizing<Vec<u8>>]) -> Result<Self, Problem> {
        let Wanted { api_key, email, password, .. } = wanted;
        let [key_value, email_value, password_value] = values else {
            return Err(unusable(api_key, Unusable::Empty));
        };
        let key = text(api_key, key_value, blanks)?;
        if !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(unusable(api_key, Unusable::NotKey));
        }
        Ok(Self {
            wanted,
            api_key: key,
            email: text(email, email_value, blanks)?,
            password: text(password, password_value, one_newline)?,
        })
    }
}

/// The text of a value, without what `trim` takes off.
fn text(at: &SecretKey, value: &[u8], trim: fn(&str) -> &str) -> Result<Zeroizing<String>, Problem> {
    let text = std::str::from_utf8(value).map_err(|_| unusable(at, Unusable::NotText))?;
    let text = trim(text);
    if text.trim().is_empty() {
        return Err(unusable(at, Unusable::Empty));
    }
    Ok(Zeroizing::new(text.to_owned()))
}

/// Neither an address nor an API key begins or ends with one.
fn blanks(text: &str) -> &str {
    text.trim()
}

/// Editors and `echo` end a file with one newline. More of them may be part of a password.
fn one_newline(text: &str) -> &str {
    text.strip_suffix("\r\n").or_else(|| text.strip_suffix('\n')).unwrap_or(text)
}

fn unusable(at: &SecretKey, why: Unusable) -> Problem {
    Problem::on_change(Reason::CredentialsNotAllowed, format!("{at} {why}; put the value there"))
}

impl fmt::Debug for User<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("User([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::{blanks, one_newline};

    #[test]
    fn what_editors_put_around_a_value_is_taken_off() {
        for (text, key, password) in [
            ("x", "x", "x"),
            ("x\n", "x", "x"),
            ("x\r\n", "x", "x"),
            ("x\n\n", "x", "x\n"),
            ("x\r", "x", "x\r"),
            (" x ", "x", " x "),
            ("\n", "", ""),
            (" \n", "", " "),
            ("\r\n", "", ""),
            ("", "", ""),
        ] {
            assert_eq!((blanks(text), one_newline(text)), (key, password), "{text:?}");
        }
    }
}
