//! The users of Identity Platform and their sessions: who may sign in, and which refresh tokens still hold.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;

use aws_lc_rs::digest;
use jiff::Timestamp;

use super::super::keys::hex;
use super::super::options::Options;
use super::super::state::lock;
use super::super::token::random_text;

/// A user who signs in by password, of the project itself or of a tenant.
#[derive(Clone)]
pub struct PasswordUser {
    /// The e-mail, which signs in in any case of letters.
    pub email: String,
    /// The password.
    pub password: String,
    /// The tenant; `None`: a user of the project itself.
    pub tenant: Option<String>,
    /// `email_verified` of the tokens.
    pub email_verified: bool,
    /// Whether an administrator disabled the account.
    pub disabled: bool,
    /// Whether the password alone is not enough: sign-in then answers without tokens.
    pub mfa: bool,
    /// `localId`, `user_id` and `sub`.
    pub local_id: String,
}

impl PasswordUser {
    /// A user of the project itself with a verified e-mail, whose `local_id` is made from the e-mail.
    #[must_use]
    pub fn new(email: &str, password: &str) -> Self {
        Self {
            email: email.to_ascii_lowercase(),
            password: password.into(),
            tenant: None,
            email_verified: true,
            disabled: false,
            mfa: false,
            local_id: local_id(email),
        }
    }
}

impl fmt::Debug for PasswordUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordUser")
            .field("email", &self.email)
            .field("tenant", &self.tenant)
            .field("local_id", &self.local_id)
            .finish_non_exhaustive()
    }
}

/// Users, sessions, and what the project's administrator chose.
pub(in super::super) struct Users(Mutex<State>);

struct State {
    users: Vec<PasswordUser>,
    /// By refresh token. One that is over stays known, as at Google.
    sessions: HashMap<String, Session>,
    rotation: bool,
    enumeration_protection: bool,
}

/// What a refresh token stands for.
#[derive(Clone)]
pub(super) struct Session {
    email: String,
    tenant: Option<String>,
    /// When the user signed in.
    pub(super) auth_time: Timestamp,
    over: bool,
}

/// A refused sign-in or refresh, by Google's code of it.
pub(super) type Code = &'static str;

impl Users {
    pub(in super::super) fn new(options: &Options) -> Self {
        Self(Mutex::new(State {
            users: options.password_users.clone(),
            sessions: HashMap::new(),
            rotation: false,
            enumeration_protection: true,
        }))
    }

    /// The user behind e-mail and password.
    pub(super) fn sign_in(
        &self,
        tenant: Option<&str>,
        email: &str,
        password: &str,
    ) -> Result<PasswordUser, Code> {
        let state = lock(&self.0);
        if tenant.is_some() && !state.users.iter().any(|user| user.tenant.as_deref() == tenant) {
            return Err("INVALID_TENANT_ID");
        }
        let unless_protected =
            |code| if state.enumeration_protection { "INVALID_LOGIN_CREDENTIALS" } else { code };
        let user = state.user(tenant, email).ok_or_else(|| unless_protected("EMAIL_NOT_FOUND"))?;
        if user.disabled {
            return Err("USER_DISABLED");
        }
        if user.password != password {
            return Err(unless_protected("INVALID_PASSWORD"));
        }
        Ok(user.clone())
    }

    /// A refresh token for a user who has just signed in.
    pub(super) fn open(&self, user: &PasswordUser, now: Timestamp) -> (String, Session) {
        let (email, tenant) = (user.email.clone(), user.tenant.clone());
        let session = Session { email, tenant, auth_time: now, over: false };
        let token = refresh_token();
        lock(&self.0).sessions.insert(token.clone(), session.clone());
        (token, session)
    }

    /// The user and the session of a refresh token, and the refresh token to use from now on.
    pub(super) fn refresh(&self, token: &str) -> Result<(PasswordUser, Session, String), Code> {
        let mut state = lock(&self.0);
        let session = state.sessions.get(token).cloned().ok_or("INVALID_REFRESH_TOKEN")?;
        let user = state.user(session.tenant.as_deref(), &session.email).cloned().ok_or("USER_NOT_FOUND")?;
        if user.disabled {
            return Err("USER_DISABLED");
        }
        if session.over {
            return Err("TOKEN_EXPIRED");
        }
        if !state.rotation {
            return Ok((user, session, token.into()));
        }
        let next = refresh_token();
        state.sessions.insert(next.clone(), session.clone());
        state.sessions.insert(token.into(), Session { over: true, ..session.clone() });
        Ok((user, session, next))
    }

    /// Changes the users of that e-mail, in the project and in every tenant.
    pub(super) fn change(&self, email: &str, change: impl Fn(&mut PasswordUser)) {
        let mut state = lock(&self.0);
        let mut known = false;
        for user in state.users.iter_mut().filter(|user| user.email.eq_ignore_ascii_case(email)) {
            change(user);
            known = true;
        }
        assert!(known, "Identity Platform has no user {email}");
    }

    /// Ends the sessions of the users of that e-mail.
    pub(super) fn revoke(&self, email: &str) {
        let mut state = lock(&self.0);
        let of_user = |session: &&mut Session| session.email.eq_ignore_ascii_case(email);
        state.sessions.values_mut().filter(of_user).for_each(|session| session.over = true);
    }

    pub(super) fn set_rotation(&self, on: bool) {
        lock(&self.0).rotation = on;
    }

    pub(super) fn set_enumeration_protection(&self, on: bool) {
        lock(&self.0).enumeration_protection = on;
    }
}

impl State {
    fn user(&self, tenant: Option<&str>, email: &str) -> Option<&PasswordUser> {
        self.users
            .iter()
            .find(|user| user.tenant.as_deref() == tenant && user.email.eq_ignore_ascii_case(email))
    }
}

/// 28 characters, as Firebase's IDs have, always the same for the same e-mail.
fn local_id(email: &str) -> String {
    let hash = digest::digest(&digest::SHA256, email.to_ascii_lowercase().as_bytes());
    hex(&hash.as_ref()[..14])
}

fn refresh_token() -> String {
    format!("AMf-{}", random_text())
}
