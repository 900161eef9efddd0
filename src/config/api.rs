//! `api.*`: the callers of the REST API, and the origins of their pages.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use figment::value::Value;
use serde::{Deserialize, Deserializer, Serialize, de};
use url::Url;

use super::{ConfigError, list, no_toml, row};

/// The most origins of `api.cors_origins`.
pub const MAX_CORS_ORIGINS: usize = 100;

/// `api.*`
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct ApiSettings {
    /// Where the API listens.
    pub listen: SocketAddr,
    /// Who may call it.
    #[serde(deserialize_with = "token_list")]
    pub tokens: Vec<TokenSettings>,
    /// Who may call it, by signed tokens.
    pub jwt: JwtSettings,
    /// A file with more of them, which is read again when it changes.
    pub tokens_file: Option<PathBuf>,
    /// The pages that browsers may call it from.
    #[serde(deserialize_with = "string_list")]
    pub cors_origins: Vec<String>,
    /// Requests per second of one caller; 0 = no limit.
    pub requests_per_second: u32,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            tokens: Vec::new(),
            tokens_file: None,
            cors_origins: Vec::new(),
            jwt: JwtSettings::default(),
            requests_per_second: 100,
        }
    }
}

impl ApiSettings {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.cors_origins.len() > MAX_CORS_ORIGINS {
            let words = format!("api.cors_origins may have {MAX_CORS_ORIGINS} entries");
            return Err(ConfigError(words));
        }
        let wrong = self.cors_origins.iter().find(|origin| !is_origin(origin));
        wrong.map_or(Ok(()), |origin| {
            Err(ConfigError(format!(
                "api.cors_origins: {origin:?} is no origin: write scheme, host and port as \
                 browsers send them, for example https://dashboard.example.com"
            )))
        })
    }

    pub(super) fn rows(&self) -> Vec<(String, String)> {
        let file = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let tokens =
            self.tokens.iter().map(|token| format!("{} ({})", token.name, list(&token.projects)));
        let mut rows = vec![
            row("api.listen", self.listen),
            row("api.tokens", tokens.collect::<Vec<_>>().join("; ")),
            row("api.tokens_file", file(&self.tokens_file).unwrap_or_default()),
            row("api.cors_origins", list(&self.cors_origins)),
            row("api.requests_per_second", self.requests_per_second),
        ];
        let jwt = &self.jwt;
        for (name, value) in [
            ("key_file", file(&jwt.key_file)),
            ("jwks_file", file(&jwt.jwks_file)),
            ("algorithm", jwt.algorithm.clone()),
            ("issuer", jwt.issuer.clone()),
            ("audience", jwt.audience.clone()),
            ("projects_claim", jwt.projects_claim.clone()),
        ] {
            rows.extend(value.map(|value| row(&format!("api.jwt.{name}"), value)));
        }
        rows
    }
}

/// Whether a text is an origin as browsers send it (RFC 6454, section 6.2).
fn is_origin(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| {
        let is_whole = matches!(url.scheme(), "http" | "https") && !text.contains('*');
        is_whole && url.origin().ascii_serialization() == text
    })
}

/// What `api.tokens_file` holds: the lines that `dunmore token create` prints.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokensFile {
    api: TokensOfFile,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokensOfFile {
    tokens: Vec<TokenSettings>,
}

/// Reads the text of `api.tokens_file`. An empty one is an error: it may be in the middle of being written.
pub fn read_tokens(path: &Path, text: &str) -> Result<Vec<TokenSettings>, String> {
    toml::from_str(text)
        .map(|TokensFile { api: TokensOfFile { tokens } }| tokens)
        .map_err(|error| no_toml(path, text, &error))
}

/// One entry of `api.tokens`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenSettings {
    /// Whose it is, for logs.
    pub name: String,
    /// The token's SHA-256 in hexadecimal digits.
    pub sha256: String,
    /// The projects that it may touch, or `*`.
    pub projects: Vec<String>,
}

/// `api.jwt.*`
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct JwtSettings {
    /// A public key in PEM, or the shared key of HS256.
    pub key_file: Option<PathBuf>,
    /// A JWK set, instead of one key.
    pub jwks_file: Option<PathBuf>,
    /// `HS256`, `RS256`, `ES256` or `EdDSA`.
    pub algorithm: Option<String>,
    /// Who signs.
    pub issuer: Option<String>,
    /// For whom.
    pub audience: Option<String>,
    /// The claim with the caller's projects.
    pub projects_claim: Option<String>,
}

/// A list of tables, or one text of JSON (environment).
fn token_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<TokenSettings>, D::Error> {
    match <Value as Deserialize>::deserialize(deserializer)? {
        Value::String(_, text) => serde_json::from_str(&text).map_err(|error| {
            de::Error::custom(format!(
                "must be a JSON list of objects with name, sha256 and projects: {error}"
            ))
        }),
        value => value.deserialize().map_err(|error| de::Error::custom(error.to_string())),
    }
}

/// A list of texts; from the environment also as one text with commas between them.
fn string_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    match <Value as Deserialize>::deserialize(deserializer)? {
        Value::String(_, text) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Ok(items.map(str::to_owned).collect())
        }
        value => value.deserialize().map_err(|error| de::Error::custom(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn origins_are_exact() {
        let read = |origins: &str| Config::from_toml(&format!("api.cors_origins = {origins}"));
        let good = read(r#"["https://a.example", "http://localhost:3000"]"#).unwrap();
        assert_eq!(good.api.cors_origins, ["https://a.example", "http://localhost:3000"]);
        assert_eq!(
            read("'https://a.example, https://b.example'").unwrap().api.cors_origins.len(),
            2
        );
        for wrong in [
            "*",
            "null",
            "a.example",
            "https://a.example/",
            "https://A.example",
            "ftp://a.example",
            "https://*.example",
            "https://a.example:443",
            "https://u@a.example",
        ] {
            let error = read(&format!("['{wrong}']")).unwrap_err().to_string();
            assert!(error.contains("api.cors_origins") && error.contains("https://"), "{error}");
        }
    }
}
