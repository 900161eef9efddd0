//! Who is logged in: sessions in memory, the tokens that belong to them, and how often one may try.

use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use ring::rand::{SecureRandom as _, SystemRandom};
use subtle::ConstantTimeEq as _;

use crate::{
    connector::{Problem, ProblemCode},
    tokens::digest_of,
};

/// How long a session lasts, whatever is done in it.
pub const SESSION_LIFE: Duration = Duration::from_secs(12 * 60 * 60);
/// Sessions at once; the next login ends the oldest one.
pub const MAX_SESSIONS: usize = 100;
/// Logins that one address may try after a pause …
pub const LOGINS: u32 = 10;
/// … and how long until there is another one.
const LOGIN_PAUSE: Duration = Duration::from_secs(6);
/// Addresses that are remembered; beyond that, idle ones are forgotten.
const MAX_ADDRESSES: usize = 10_000;
/// Of what is made up here: 256 bits.
const RANDOM_BYTES: usize = 32;

/// 256 random bits in hexadecimal digits.
pub fn random() -> Result<String, Problem> {
    let mut bytes = [0; RANDOM_BYTES];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Problem::new(ProblemCode::Internal, "The system gives no random numbers."))?;
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    Ok(digits.filter_map(|digit| char::from_digit(u32::from(digit), 16)).collect())
}

/// Whether a text has the form of what [`random`] makes.
pub fn is_random(text: &str) -> bool {
    text.len() == 2 * RANDOM_BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Compares in a time that tells nothing but the length.
pub fn is_same(one: &str, other: &str) -> bool {
    one.as_bytes().ct_eq(other.as_bytes()).into()
}

/// A session.
#[derive(Clone, Debug)]
pub struct Session {
    /// What every form of it carries.
    pub csrf: String,
    began: Instant,
}

/// The sessions of this instance, by the digest of their cookie: a dump of this memory holds no cookie.
#[derive(Default)]
pub struct Sessions(HashMap<String, Session>);

impl Sessions {
    /// Opens a session with this cookie.
    pub fn open(&mut self, cookie: &str, csrf: String, now: Instant) {
        self.0.retain(|_, session| is_alive(session, now));
        if self.0.len() >= MAX_SESSIONS {
            let oldest = self.0.iter().min_by_key(|(_, session)| session.began);
            if let Some(digest) = oldest.map(|(digest, _)| digest.clone()) {
                self.0.remove(&digest);
            }
        }
        self.0.insert(digest_of(cookie), Session { csrf, began: now });
    }

    /// The session of a cookie, if there is one.
    pub fn get(&self, cookie: &str, now: Instant) -> Option<Session> {
        self.0.get(&digest_of(cookie)).filter(|session| is_alive(session, now)).cloned()
    }

    /// Ends a session.
    pub fn close(&mut self, cookie: &str) {
        self.0.remove(&digest_of(cookie));
    }
}

fn is_alive(session: &Session, now: Instant) -> bool {
    now.saturating_duration_since(session.began) < SESSION_LIFE
}

/// How often an address may try to log in.
pub struct Attempts(DefaultKeyedRateLimiter<IpAddr>);

impl Attempts {
    /// None yet.
    pub fn new() -> Self {
        let burst = NonZeroU32::new(LOGINS).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(LOGIN_PAUSE).unwrap_or(Quota::per_second(NonZeroU32::MIN));
        Self(RateLimiter::keyed(quota.allow_burst(burst)))
    }

    /// Counts an attempt; false when there were too many.
    pub fn may(&self, from: Option<IpAddr>) -> bool {
        let Some(from) = from else { return true };
        if self.0.len() > MAX_ADDRESSES {
            self.0.retain_recent();
        }
        self.0.check_key(&from).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_with_its_life_and_with_its_logout() {
        let (mut sessions, began) = (Sessions::default(), Instant::now());
        sessions.open("a", "csrf".to_owned(), began);
        assert_eq!(sessions.get("a", began).unwrap().csrf, "csrf");
        assert!(sessions.get("b", began).is_none());
        let end = began + SESSION_LIFE;
        assert!(sessions.get("a", end.checked_sub(Duration::from_secs(1)).unwrap()).is_some());
        assert!(sessions.get("a", end).is_none());
        sessions.close("a");
        assert!(sessions.get("a", began).is_none());
    }

    #[test]
    fn there_are_so_many_sessions_and_no_more() {
        let (mut sessions, began) = (Sessions::default(), Instant::now());
        for n in 0..=MAX_SESSIONS {
            let at = began + Duration::from_secs(n as u64);
            sessions.open(&n.to_string(), String::new(), at);
        }
        assert_eq!(sessions.0.len(), MAX_SESSIONS);
        assert!(sessions.get("0", began).is_none(), "the oldest one");
        assert!(sessions.get("1", began).is_some());
    }

    #[test]
    fn what_is_made_up_is_long_and_never_the_same() {
        let (one, other) = (random().unwrap(), random().unwrap());
        assert!(is_random(&one) && one != other);
        assert!(is_same(&one, &one) && !is_same(&one, &other) && !is_same(&one, ""));
        for wrong in ["", "abc", &one[1..], &format!("{one}0"), &"g".repeat(64)] {
            assert!(!is_random(wrong), "{wrong}");
        }
    }

    #[test]
    fn logins_of_an_address_are_bounded() {
        let attempts = Attempts::new();
        let one = Some(IpAddr::from([10, 0, 0, 1]));
        assert_eq!((0..1000).filter(|_| attempts.may(one)).count(), LOGINS as usize);
        assert!(attempts.may(Some(IpAddr::from([10, 0, 0, 2]))));
    }
}
