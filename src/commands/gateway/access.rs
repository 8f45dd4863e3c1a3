//! Access to the gateway: the bearer tokens, and the scopes of a request's token.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode};

use super::jobs::GroupKey;
use crate::commands::common::bearer_tokens::{TokenFile, TokenScopes, sent_token};
use crate::commands::common::exit::{Exit, Failure};
use crate::commands::common::json_response::RequestError;
use mqueue::proto::TopicName;

/// The tokens of `--bearer-token-file`; the file can be read again.
#[derive(Debug)]
pub(super) struct Access(Option<TokenFile>);

/// The token of a request, if tokens are needed.
#[derive(Debug, Clone)]
pub(super) struct Caller(Option<CallerToken>);

#[derive(Clone)]
struct CallerToken {
    sent: Arc<[u8]>,
    /// `None` if the token is missing or unknown.
    scopes: Option<Arc<TokenScopes>>,
}

impl std::fmt::Debug for CallerToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallerToken").field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

impl Access {
    /// Reads the file, if one is named.
    ///
    /// # Errors
    /// Fails if the file cannot be read or has no valid tokens.
    pub(super) fn new(path: Option<PathBuf>) -> Result<Self, Failure> {
        let Some(path) = path else { return Ok(Self(None)) };
        Ok(Self(Some(TokenFile::read(path).map_err(|why| Failure::new(Exit::Usage, why))?)))
    }

    /// Returns true if requests need a token.
    pub(super) fn needs_token(&self) -> bool {
        self.0.is_some()
    }

    /// Refuses to serve other machines without tokens, unless `insecure` says so; warns of tokens
    /// without TLS.
    ///
    /// # Errors
    /// Fails if the address that is listened on can be reached from other machines.
    pub(super) fn check_exposure(&self, listening: SocketAddr, insecure: bool, has_tls: bool) -> Result<(), Failure> {
        if listening.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        if !self.needs_token() && !insecure {
            let line = format!(
                "{listening} can be reached from other machines, and any client could take and publish jobs: name \
                 the clients' tokens with --bearer-token-file, listen on 127.0.0.1, or add --insecure"
            );
            return Err(Failure::new(Exit::Usage, line));
        }
        if self.needs_token() && !has_tls {
            tracing::warn!(
                "tokens and jobs pass the network unencrypted: name a certificate with --tls-cert and --tls-key"
            );
        }
        Ok(())
    }

    /// Reads the file again. A file that cannot be used is logged, and the tokens before stay
    /// valid.
    pub(super) fn reload(&self) {
        if let Some(file) = &self.0 {
            file.reload();
        }
    }

    /// Finds a request's token.
    pub(super) fn caller(&self, headers: &HeaderMap) -> Caller {
        if !self.needs_token() {
            return Caller(None);
        }
        self.refreshed(&Caller(Some(CallerToken { sent: sent_token(headers).into(), scopes: None })))
    }

    /// Returns the caller with the scopes that its token has now.
    pub(super) fn refreshed(&self, caller: &Caller) -> Caller {
        let (Some(file), Some(token)) = (&self.0, &caller.0) else { return Caller(None) };
        Caller(Some(CallerToken { sent: token.sent.clone(), scopes: file.scopes(&token.sent) }))
    }
}

impl Caller {
    /// Fails with 401 if a token is needed and is missing or unknown.
    pub(super) fn check(&self) -> Result<(), RequestError> {
        self.scopes().map(drop)
    }

    /// Fails with 401 or 403 if the caller may not publish to the stream.
    pub(super) fn may_publish(&self, stream: &TopicName) -> Result<(), RequestError> {
        self.allows(|scopes| scopes.may_publish(stream))
    }

    /// Fails with 401 or 403 if the caller may not take jobs of the group.
    pub(super) fn may_take(&self, key: &GroupKey) -> Result<(), RequestError> {
        self.allows(|scopes| scopes.may_take(&key.stream, &key.group))
    }

    /// Fails with 401 or 403 if the caller may answer no job at all.
    pub(super) fn may_answer(&self) -> Result<(), RequestError> {
        self.allows(TokenScopes::may_answer)
    }

    fn allows(&self, check: impl FnOnce(&TokenScopes) -> Result<(), String>) -> Result<(), RequestError> {
        let Some(scopes) = self.scopes()? else { return Ok(()) };
        check(scopes).map_err(|lacking| {
            let line = format!("this token lacks {lacking}: add it to the token's line (--bearer-token-file)");
            RequestError::new(StatusCode::FORBIDDEN, line)
        })
    }

    fn scopes(&self) -> Result<Option<&TokenScopes>, RequestError> {
        match &self.0 {
            None => Ok(None),
            Some(CallerToken { scopes: Some(scopes), .. }) => Ok(Some(scopes)),
            Some(CallerToken { scopes: None, .. }) => {
                let line = "missing or wrong token: send Authorization: Bearer …";
                Err(RequestError::new(StatusCode::UNAUTHORIZED, line))
            }
        }
    }
}
