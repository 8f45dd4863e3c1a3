//! Access to the page: everybody may look on a loopback address, and a token is needed for actions,
//! and to look from other machines.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::http::{HeaderMap, StatusCode};

use super::wrong_tokens::{TokenTurn, WrongTokens};
use crate::commands::common::bearer_tokens::{TokenFile, TokenScopes, sent_token};
use crate::commands::common::exit::{Exit, Failure};
use crate::commands::common::json_response::RequestError;
use crate::commands::common::web::args::AccessArgs;
use mqueue::cluster::QueueTarget;

/// The access rules of a page.
#[derive(Debug)]
pub(super) struct PageAccess {
    tokens: Option<TokenFile>,
    allows_actions: bool,
    /// A token is needed to look, too.
    guards_views: bool,
    wrong: Mutex<WrongTokens>,
}

impl PageAccess {
    /// Reads the file of tokens, and checks the flags against the address that is listened on.
    ///
    /// # Errors
    /// Fails if the file cannot be used, a flag misses another one, or other machines could look
    /// without a token.
    pub(super) fn new(args: &AccessArgs, listening: SocketAddr, has_tls: bool) -> Result<Self, Failure> {
        let usage = |line: String| Failure::new(Exit::Usage, line);
        let tokens = args.bearer_token_file.clone().map(TokenFile::read).transpose().map_err(usage)?;
        if args.allow_actions && tokens.is_none() {
            let line = "--allow-actions needs tokens: name the file with --bearer-token-file";
            return Err(Failure::new(Exit::Usage, line));
        }
        let is_local = listening.ip().to_canonical().is_loopback();
        if !is_local && tokens.is_none() && !args.insecure {
            let line = format!(
                "{listening} can be reached from other machines, and any client could see the queues: name the \
                 clients' tokens with --bearer-token-file, listen on 127.0.0.1, or add --insecure"
            );
            return Err(Failure::new(Exit::Usage, line));
        }
        if !is_local && !has_tls {
            tracing::warn!(
                "the page and its tokens pass the network unencrypted: name a certificate with --tls-cert and --tls-key"
            );
        }
        let guards_views = !is_local && tokens.is_some() && !args.insecure;
        Ok(Self { tokens, allows_actions: args.allow_actions, guards_views, wrong: Mutex::default() })
    }

    /// Returns true if there are tokens, whose file can be read again.
    pub(super) fn has_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    /// Reads the file of tokens again.
    pub(super) fn reload(&self) {
        if let Some(tokens) = &self.tokens {
            tokens.reload();
        }
    }

    /// Returns true if actions are possible with a token.
    pub(super) fn allows_actions(&self) -> bool {
        self.allows_actions
    }

    /// Fails if a request may not look.
    pub(super) async fn may_look(&self, headers: &HeaderMap, from: IpAddr) -> Result<(), RequestError> {
        if self.guards_views { self.scopes(headers, from).await.map(drop) } else { Ok(()) }
    }

    /// Returns the scopes of a request's token if it may act on the target.
    pub(super) async fn may_act(
        &self,
        headers: &HeaderMap,
        from: IpAddr,
        target: &QueueTarget,
    ) -> Result<Arc<TokenScopes>, RequestError> {
        if !self.allows_actions {
            let line = "this page is read-only: start it with --allow-actions and --bearer-token-file";
            return Err(RequestError::new(StatusCode::FORBIDDEN, line));
        }
        let scopes = self.scopes(headers, from).await?;
        match scopes.may_act(target) {
            Ok(()) => Ok(scopes),
            Err(lacking) => {
                let line = format!("this token lacks {lacking}: add it to the token's line (--bearer-token-file)");
                Err(RequestError::new(StatusCode::FORBIDDEN, line))
            }
        }
    }

    /// Finds the scopes of a request's token. Wrong tokens are slowed down, and logged once.
    async fn scopes(&self, headers: &HeaderMap, from: IpAddr) -> Result<Arc<TokenScopes>, RequestError> {
        let missing = |line: &str| RequestError::new(StatusCode::UNAUTHORIZED, line);
        let sent = sent_token(headers);
        let Some(tokens) = self.tokens.as_ref().filter(|_| !sent.is_empty()) else {
            return Err(missing("a token is needed: send Authorization: Bearer …"));
        };
        let turn = self.wrong().turn(from, Instant::now());
        match turn {
            TokenTurn::Check(delay) if delay.is_zero() => {}
            TokenTurn::Check(delay) => tokio::time::sleep(delay).await,
            TokenTurn::Refuse => {
                let line = "too many wrong tokens from this address: try again later";
                return Err(RequestError::new(StatusCode::TOO_MANY_REQUESTS, line));
            }
        }
        if let Some(scopes) = tokens.scopes(sent) {
            self.wrong().was_right(from);
            return Ok(scopes);
        }
        if self.wrong().is_first(from) {
            tracing::warn!("web: wrong token from {from}; the next ones are logged at debug");
        } else {
            tracing::debug!("web: wrong token from {from}");
        }
        Err(missing("wrong token"))
    }

    fn wrong(&self) -> MutexGuard<'_, WrongTokens> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
