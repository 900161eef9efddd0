//! Requests of connectors whose access tokens a credential makes.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use http::header::AUTHORIZATION;

use super::{Sender, Silence};
use crate::{
    clock,
    delivery::{Reason, Verdict},
    destination::{Credential, Request, Response},
    outbound::Connection,
    pipeline::{
        credentials::{Token, Tools},
        park,
    },
};

/// Of how many access tokens a sender keeps in mind what they are, to find them in answers. Each one
/// but the first was made because the one before was refused or old.
const MAX_TOKENS: usize = 8;

impl Sender<'_> {
    /// Sends a request, with an access token where a credential makes them; tells how long that
    /// took too. `again` makes the same request once more.
    pub(super) async fn send(
        &self,
        request: Request,
        connection: Connection,
        again: &(impl Fn() -> Option<Request> + Sync),
    ) -> (Result<Response, Silence>, Duration) {
        if self.target.credential.is_some() {
            // Boxed, so that it adds nothing to the tasks of the many without a credential.
            return Box::pin(self.send_with_token(request, connection, again)).await;
        }
        let (sent, duration) = self.send_once(request, connection).await;
        (sent.map_err(Silence::Lost), duration)
    }

    /// Sends a request with an access token, and once more with a new one if that is refused: it
    /// may have been revoked, or be older than the service says.
    async fn send_with_token(
        &self,
        request: Request,
        connection: Connection,
        again: &(impl Fn() -> Option<Request> + Sync),
    ) -> (Result<Response, Silence>, Duration) {
        let first = match self.token(None).await {
            Ok(token) => token,
            Err(verdict) => return (Err(Silence::NoToken(verdict)), Duration::ZERO),
        };
        let with =
            |request: Request, token: &Token| request.secret_header(AUTHORIZATION, token.header());
        let (sent, duration) = self.send_once(with(request, &first), connection).await;
        let is_refused = sent.as_ref().is_ok_and(|response| response.status == 401);
        if is_refused && let Some(kept) = self.target.credential.as_ref().and_then(Credential::kept)
        {
            let Some(until) = kept.refused(clock::now()) else {
                return (sent.map_err(Silence::Lost), duration);
            };
            park::token_refused(self.dispatcher, self.target, until);
            let words = "the access token was refused before its end and is being renewed";
            let verdict = Verdict::retry(Reason::Unauthorized, words);
            return (Err(Silence::NoToken(verdict)), duration);
        }
        // Made only now: hardly any request needs a second one.
        let Some(request) = is_refused.then(again).flatten() else {
            return (sent.map_err(Silence::Lost), duration);
        };
        let second = match self.token(Some(&first)).await {
            Ok(token) => token,
            Err(verdict) => return (Err(Silence::NoToken(verdict)), duration),
        };
        let (sent, more) = self.send_once(with(request, &second), connection).await;
        (sent.map_err(Silence::Lost), duration + more)
    }

    /// An access token: another one than that which was refused.
    async fn token(&self, refused: Option<&Arc<Token>>) -> Result<Arc<Token>, Verdict> {
        let Some(credential) = &self.target.credential else {
            return Err(Verdict::dead(Reason::Bug, "no credential"));
        };
        if let Some(kept) = credential.kept() {
            let token = Token::of(kept.token(clock::now())?.clone())?;
            note(&mut self.tokens.lock(), &token);
            return Ok(token);
        }
        let outbound = &self.dispatcher.options.outbound;
        let tools = Tools { outbound, metrics: self.dispatcher.metrics() };
        let credentials = &self.dispatcher.credentials;
        let token = credentials.token(tools, self.target, credential, refused).await?;
        note(&mut self.tokens.lock(), &token);
        Ok(token)
    }
}

/// Keeps a token in mind, and of too many the latest.
fn note<T>(tokens: &mut VecDeque<Arc<T>>, token: &Arc<T>) {
    if tokens.iter().any(|known| Arc::ptr_eq(known, token)) {
        return;
    }
    if tokens.len() >= MAX_TOKENS {
        tokens.pop_front();
    }
    tokens.push_back(Arc::clone(token));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_tokens_are_kept_in_mind() {
        let made: Vec<Arc<usize>> = (0..=MAX_TOKENS).map(Arc::new).collect();
        let mut tokens = VecDeque::new();
        for token in made[..MAX_TOKENS].iter().chain(&made[..MAX_TOKENS]) {
            note(&mut tokens, token);
        }
        assert!(tokens.iter().eq(&made[..MAX_TOKENS]), "each once");
        note(&mut tokens, &made[MAX_TOKENS]);
        assert!(tokens.iter().eq(&made[1..]), "the latest");
    }
}
