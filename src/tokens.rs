//! Who may call the API: static tokens, of which only hashes are known here, and signed ones (JWT).
//!
//! A caller is known by a token and may touch the projects that the token names, nothing else.

use std::{collections::BTreeSet, fmt, path::Path, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation,
    crypto::{CryptoProvider, JwtVerifier, KeyUtils},
    decode, decode_header,
    errors::{ErrorKind, Result as JwtResult},
    jwk::{Jwk, JwkSet, KeyAlgorithm, KeyOperations, PublicKeyUse},
    signature::{self, Verifier},
};
use ring::signature::{self as sign, UnparsedPublicKey};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::{
    config::{JwtSettings, TokenSettings},
    id::ProjectId,
    text::harmless,
};

/// What a static token begins with, so that scanners for leaked secrets know one.
pub const TOKEN_PREFIX: &str = "dmt_";
/// Randomness of a static token, in bytes.
const TOKEN_BYTES: usize = 32;
/// The longest token that is looked at, in bytes.
const MAX_TOKEN_BYTES: usize = 8192;
/// The longest subject that is used as a caller's name, in characters.
const MAX_SUBJECT_CHARS: usize = 128;
/// How far clocks may be apart, in seconds.
const LEEWAY_SECS: u64 = 30;
/// The shortest shared key of HS256, in bytes (RFC 7518, section 3.2).
const MIN_SHARED_KEY_BYTES: usize = 32;
/// Stands for every project.
pub const ALL_PROJECTS: &str = "*";

/// The projects that a caller may touch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Grant {
    /// Every one.
    All,
    /// These.
    Some(BTreeSet<String>),
}

impl Grant {
    /// Reads names of projects, or `*`.
    pub fn read<T: AsRef<str>>(names: &[T]) -> Result<Self, String> {
        if names.iter().any(|name| name.as_ref() == ALL_PROJECTS) {
            return Ok(Self::All);
        }
        let names = names.iter().map(|name| {
            let name = name.as_ref();
            ProjectId::parse(name).map_err(|error| format!("a project's id {error}"))?;
            Ok(name.to_owned())
        });
        Ok(Self::Some(names.collect::<Result<_, String>>()?))
    }

    /// Whether a project is among them.
    #[must_use]
    pub fn covers(&self, project: &str) -> bool {
        match self {
            Self::All => true,
            Self::Some(projects) => projects.contains(project),
        }
    }
}

/// Who calls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    /// The token's name, or the subject of a signed one: for logs and rate limits.
    pub name: Arc<str>,
    /// What the caller may touch.
    pub grant: Arc<Grant>,
}

/// All tokens that are accepted. Its `Debug` shows none.
pub struct Tokens {
    fixed: Vec<Fixed>,
    signed: Option<Signed>,
}

struct Fixed {
    digest: [u8; 32],
    caller: Caller,
}

/// Tokens that somebody else signs.
struct Signed {
    keys: Keys,
    algorithm: Algorithm,
    validation: Validation,
    claim: String,
}

enum Keys {
    One(DecodingKey),
    Set(JwkSet),
}

impl Tokens {
    /// Reads the settings and the files that they name.
    pub fn new(fixed: &[TokenSettings], jwt: &JwtSettings) -> Result<Self, String> {
        let fixed = fixed.iter().map(|token| {
            let name = &token.name;
            let wrong = |error| format!("api.tokens: {name:?}: {error}");
            let digest = hex(&token.sha256)
                .ok_or_else(|| wrong("sha256 must be 64 hexadecimal digits".to_owned()))?;
            if token.projects.is_empty() {
                return Err(wrong("projects must name projects, or [\"*\"] for all".to_owned()));
            }
            let grant = Arc::new(Grant::read(&token.projects).map_err(wrong)?);
            Ok(Fixed { digest, caller: Caller { name: format!("token:{name}").into(), grant } })
        });
        Ok(Self { fixed: fixed.collect::<Result<_, String>>()?, signed: Signed::new(jwt)? })
    }

    /// Whether nobody can call.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fixed.is_empty() && self.signed.is_none()
    }

    /// Who has this token.
    #[must_use]
    pub fn caller(&self, token: &str) -> Option<Caller> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        self.fixed(token).or_else(|| self.signed.as_ref()?.caller(token))
    }

    /// Looks at every token, whichever it is: the time that this takes tells nothing.
    fn fixed(&self, token: &str) -> Option<Caller> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let mut found = 0_u64;
        for (index, fixed) in (1_u64..).zip(&self.fixed) {
            let same: Choice = fixed.digest.ct_eq(&digest);
            found = u64::conditional_select(&found, &index, same);
        }
        let index = usize::try_from(found).ok()?.checked_sub(1)?;
        self.fixed.get(index).map(|fixed| fixed.caller.clone())
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.fixed.iter().map(|fixed| &*fixed.caller.name).collect();
        f.debug_struct("Tokens")
            .field("fixed", &names)
            .field("signed", &self.signed.is_some())
            .finish()
    }
}

/// A fresh static token, and what the settings must hold to accept it. Without a name it is called
/// after its hash, so that no two have the same.
pub fn generate(
    name: Option<&str>,
    projects: Vec<String>,
) -> Result<(SecretString, TokenSettings), String> {
    Grant::read(&projects)?;
    let mut bytes = zeroize::Zeroizing::new([0; TOKEN_BYTES]);
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut *bytes)
        .map_err(|_| "the system gives no random numbers".to_owned())?;
    let token = SecretString::from(format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(*bytes)));
    let sha256 = digest_of(token.expose_secret());
    let name = name.map_or_else(|| format!("token-{}", &sha256[..8]), str::to_owned);
    Ok((token, TokenSettings { name, sha256, projects }))
}

/// The hash of a token as the settings have it.
#[must_use]
pub fn digest_of(token: &str) -> String {
    let digest = Sha256::digest(token.as_bytes());
    let digits = digest.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(u32::from(digit), 16)).collect()
}

fn hex(text: &str) -> Option<[u8; 32]> {
    let text = text.as_bytes();
    if text.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

impl Signed {
    fn new(settings: &JwtSettings) -> Result<Option<Self>, String> {
        let JwtSettings { key_file, jwks_file, algorithm, issuer, audience, projects_claim } =
            settings;
        if *settings == JwtSettings::default() {
            return Ok(None);
        }
        let needed = |name: &str, value: &Option<String>| {
            value.clone().ok_or_else(|| format!("api.jwt.{name} is not set; signed tokens need it"))
        };
        let algorithm = match needed("algorithm", algorithm)?.as_str() {
            "HS256" => Algorithm::HS256,
            "RS256" => Algorithm::RS256,
            "ES256" => Algorithm::ES256,
            "EdDSA" => Algorithm::EdDSA,
            _ => return Err("api.jwt.algorithm must be HS256, RS256, ES256 or EdDSA".to_owned()),
        };
        let keys = match (key_file, jwks_file) {
            (Some(path), None) => Keys::One(read_key(path, algorithm)?),
            (None, Some(path)) => Keys::Set(read_set(path)?),
            _ => return Err("set one of api.jwt.key_file and api.jwt.jwks_file".to_owned()),
        };
        let mut validation = Validation::new(algorithm);
        validation.set_issuer(&[needed("issuer", issuer)?]);
        validation.set_audience(&[needed("audience", audience)?]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY_SECS;
        // Only the first call has an effect; every call has the same.
        let _ = PROVIDER.install_default();
        let claim = projects_claim.clone().unwrap_or_else(|| "projects".to_owned());
        Ok(Some(Self { keys, algorithm, validation, claim }))
    }

    fn caller(&self, token: &str) -> Option<Caller> {
        let header = decode_header(token).ok()?;
        // A token must not choose how it is checked, and what it calls critical is not understood
        // here (RFC 7515, section 4.1.11).
        if header.alg != self.algorithm || has_field(token, "crit") {
            return None;
        }
        let claims = match &self.keys {
            Keys::One(key) => self.claims(token, key)?,
            Keys::Set(set) => {
                let of_kid = |kid: &String| {
                    set.keys.iter().filter(|k| k.common.key_id.as_ref() == Some(kid)).collect()
                };
                let candidates: Vec<_> =
                    header.kid.as_ref().map_or_else(|| set.keys.iter().collect(), of_kid);
                candidates
                    .into_iter()
                    .filter(|jwk| may_verify(jwk, self.algorithm))
                    .filter_map(|jwk| DecodingKey::from_jwk(jwk).ok())
                    .filter(|key| key.family() == self.algorithm.family())
                    .find_map(|key| self.claims(token, &key))?
            }
        };
        // One issuer, not several of which one is ours.
        claims.get("iss")?.as_str()?;
        let names: Vec<&str> = match claims.get(&self.claim)? {
            Value::String(name) => vec![name],
            Value::Array(items) => items.iter().map(Value::as_str).collect::<Option<_>>()?,
            _ => return None,
        };
        let grant = Arc::new(Grant::read(&names).ok()?);
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or("");
        let mut subject: String = subject.chars().map(harmless).take(MAX_SUBJECT_CHARS).collect();
        if subject.trim().is_empty() {
            subject = format!("without-sub:{}", name_of(&grant));
        }
        Some(Caller { name: format!("jwt:{subject}").into(), grant })
    }

    fn claims(&self, token: &str, key: &DecodingKey) -> Option<Map<String, Value>> {
        decode::<Map<String, Value>>(token, key, &self.validation).ok().map(|data| data.claims)
    }
}

/// Whether a token's header has a field, whatever its value.
fn has_field(token: &str, field: &str) -> bool {
    let header = token.split('.').next().and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let header = header.and_then(|json| serde_json::from_slice::<Map<String, Value>>(&json).ok());
    // What cannot be read has whatever is looked for: it is refused.
    header.is_none_or(|header| header.contains_key(field))
}

/// Whether a key of a set is there to check signatures of this algorithm (RFC 7517, section 4).
fn may_verify(jwk: &Jwk, algorithm: Algorithm) -> bool {
    let common = &jwk.common;
    let is_use = common.public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature);
    let operations = common.key_operations.as_ref();
    let may = operations.is_none_or(|allowed| allowed.contains(&KeyOperations::Verify));
    let is_of = |of: KeyAlgorithm| of.to_string().parse() == Ok(algorithm);
    is_use && may && common.key_algorithm.is_none_or(is_of)
}

/// What stands for the subject of a token that has none: the same for the same projects, so that
/// tokens of several tenants share nothing.
fn name_of(grant: &Grant) -> String {
    match grant {
        Grant::All => ALL_PROJECTS.to_owned(),
        Grant::Some(projects) => {
            let projects: Vec<&str> = projects.iter().map(String::as_str).collect();
            // Ids have no comma.
            digest_of(&projects.join(","))[..16].to_owned()
        }
    }
}

fn read_file(name: &str, path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path)
        .map_err(|error| format!("cannot read api.jwt.{name} {}: {error}", path.display()))
}

fn read_key(path: &Path, algorithm: Algorithm) -> Result<DecodingKey, String> {
    let bytes = zeroize::Zeroizing::new(read_file("key_file", path)?);
    let key = match algorithm {
        Algorithm::RS256 => DecodingKey::from_rsa_pem(&bytes),
        Algorithm::ES256 => DecodingKey::from_ec_pem(&bytes),
        Algorithm::EdDSA => DecodingKey::from_ed_pem(&bytes),
        _ => {
            let key = bytes.trim_ascii();
            if key.starts_with(b"-----BEGIN") {
                // A public key used as a shared one would let everybody sign.
                return Err("api.jwt.key_file holds a PEM key, but HS256 needs a shared key".into());
            }
            if key.len() < MIN_SHARED_KEY_BYTES {
                return Err(format!(
                    "api.jwt.key_file must have at least {MIN_SHARED_KEY_BYTES} bytes for HS256"
                ));
            }
            return Ok(DecodingKey::from_secret(key));
        }
    };
    key.map_err(|_| {
        format!("api.jwt.key_file {} holds no public key of {algorithm:?} in PEM", path.display())
    })
}

fn read_set(path: &Path) -> Result<JwkSet, String> {
    let bytes = zeroize::Zeroizing::new(read_file("jwks_file", path)?);
    let set: JwkSet = serde_json::from_slice(&bytes)
        .map_err(|_| format!("api.jwt.jwks_file {} is no JWK set", path.display()))?;
    if set.keys.is_empty() {
        return Err(format!("api.jwt.jwks_file {} has no keys", path.display()));
    }
    Ok(set)
}

/// The checks of signatures by `ring`, which TLS uses anyway. This program signs nothing.
static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::InvalidAlgorithm.into()),
    verifier_factory: verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the library asks for it")]
fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> JwtResult<Box<dyn JwtVerifier>> {
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidKeyFormat.into());
    }
    Ok(Box::new(RingVerifier { algorithm: *algorithm, key: key.clone() }))
}

struct RingVerifier {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl RingVerifier {
    fn is_valid(&self, message: &[u8], signature: &[u8]) -> bool {
        use jsonwebtoken::DecodingKeyKind as Kind;
        let check = |by: &'static dyn sign::VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(by, key).verify(message, signature).is_ok()
        };
        match (self.algorithm, self.key.kind()) {
            (Algorithm::HS256, Kind::SecretOrDer(key)) => {
                let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
                ring::hmac::verify(&key, message, signature).is_ok()
            }
            (Algorithm::RS256, Kind::SecretOrDer(key)) => {
                check(&sign::RSA_PKCS1_2048_8192_SHA256, key)
            }
            (Algorithm::RS256, Kind::RsaModulusExponent { n, e }) => {
                sign::RsaPublicKeyComponents { n: n.as_slice(), e: e.as_slice() }
                    .verify(&sign::RSA_PKCS1_2048_8192_SHA256, message, signature)
                    .is_ok()
            }
            (Algorithm::ES256, Kind::SecretOrDer(key)) => {
                check(&sign::ECDSA_P256_SHA256_FIXED, key)
            }
            (Algorithm::EdDSA, Kind::SecretOrDer(key)) => check(&sign::ED25519, key),
            _ => false,
        }
    }
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        if self.is_valid(message, signature) { Ok(()) } else { Err(signature::Error::new()) }
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
