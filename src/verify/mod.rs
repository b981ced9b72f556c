//! Is this token the one that was asked for, and did its issuer sign it? Nothing is published before the answer is yes.
//!
//! Issuer and keys are fixed by the source, never taken from the token; the algorithm is RS256, never what a header says.

pub mod claims;
pub mod expect;
pub mod jwks;

use jiff::Timestamp;

use self::{
    claims::{Rejected, Verified},
    expect::{Expectation, Issuer},
    jwks::{Jwks, KeyLookup},
};

/// What verification found.
#[derive(Debug)]
pub struct Outcome {
    /// The claims.
    pub verified: Verified,
    /// False: the issuer's keys could not be had at all, so that only the claims were checked.
    pub signature_checked: bool,
}

/// Checks tokens against the keys of their issuers.
#[derive(Debug)]
pub struct Verifier {
    jwks: Jwks,
    require_signature: bool,
    takes_unsigned: bool,
}

impl Verifier {
    /// With `require_signature`, a token whose keys can't be had is rejected instead of accepted by its claims.
    #[must_use]
    pub fn new(jwks: Jwks, require_signature: bool) -> Self {
        Self { jwks, require_signature, takes_unsigned: false }
    }

    /// One that also takes what the emulator of Identity Platform makes: tokens of that issuer that nobody signed. For trying things
    /// out on the command line; the controller has none of these.
    #[must_use]
    pub fn unsigned(jwks: Jwks) -> Self {
        Self { jwks, require_signature: false, takes_unsigned: true }
    }

    /// Checks claims and signature of `raw` at `now`.
    pub async fn verify(
        &self,
        raw: &str,
        expected: &Expectation<'_>,
        now: Timestamp,
    ) -> Result<Outcome, Rejected> {
        let of_emulator = self.takes_unsigned && matches!(expected.issuer, Issuer::IdentityPlatform(_));
        if let Some(unsigned) = of_emulator.then(|| claims::parse_unsigned(raw)).flatten() {
            let verified = claims::check(&unsigned?, expected, now)?;
            return Ok(Outcome { verified, signature_checked: false });
        }
        let token = claims::parse(raw)?;
        let verified = claims::check(&token.claims, expected, now)?;
        let signature_checked = match self.jwks.key(expected.issuer, &token.kid).await {
            KeyLookup::Found(key) if key.verifies(token.signing_input.as_bytes(), &token.signature) => true,
            KeyLookup::Found(_) => return Err(Rejected::Signature),
            KeyLookup::UnknownKid => return Err(Rejected::UnknownKey),
            KeyLookup::Unavailable if self.require_signature => return Err(Rejected::KeysUnavailable),
            KeyLookup::Unavailable => false,
        };
        Ok(Outcome { verified, signature_checked })
    }
}

#[cfg(test)]
mod tests;
