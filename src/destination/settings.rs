//! A connector's configuration: which fields a destination declares, and their checked values.

use std::{collections::BTreeMap, fmt};

use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

use super::{
    SecretUrl,
    credential::{ACCESS_TOKEN, App, Endpoint, RENEWING},
};
use crate::egress::EgressPolicy;

/// The longest value of one configuration field, in bytes. Access tokens reach 4,096.
pub const MAX_FIELD_BYTES: usize = 8192;
/// The most entries that a list field may have.
pub const MAX_LIST_ITEMS: usize = 50;

/// What a check of a field may know beside the value.
#[derive(Debug)]
pub struct Checks<'a> {
    /// Where users' URLs may point.
    pub egress: &'a EgressPolicy,
}

/// Whether a field holds one text or several.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// One text.
    Text,
    /// A list of texts.
    List,
}

/// The declaration of one configuration field.
#[derive(Clone, Copy)]
pub struct Field {
    /// Its name in the API.
    pub name: &'static str,
    /// One text or several.
    pub shape: Shape,
    /// Whether it must be encrypted at rest and masked everywhere.
    pub secret: bool,
    /// Whether it must be there.
    pub required: bool,
    /// What it is, in a sentence.
    pub help: &'static str,
    /// A value that passes the check.
    pub example: &'static str,
    /// The only words that it may be; empty where it may be others.
    pub words: &'static [&'static str],
    /// Checks one text.
    pub check: fn(&str, &Checks<'_>) -> Result<(), String>,
}

impl Field {
    /// A required secret text.
    pub const fn secret(name: &'static str, help: &'static str, example: &'static str) -> Self {
        Self { secret: true, ..Self::text(name, help, example) }
    }

    /// A required text.
    pub const fn text(name: &'static str, help: &'static str, example: &'static str) -> Self {
        Self {
            name,
            shape: Shape::Text,
            secret: false,
            required: true,
            help,
            example,
            words: &[],
            check: token,
        }
    }

    /// The optional region of the vendor's hosts, `us` or `eu`: some drop misdirected data
    /// without an error, and nothing else in a configuration tells the region.
    pub const REGION: Self =
        Self::text("region", "Where the account is: \"us\" (default) or \"eu\".", "us")
            .one_of(&["us", "eu"])
            .optional();

    /// The same with a check of its own.
    pub const fn checked(mut self, check: fn(&str, &Checks<'_>) -> Result<(), String>) -> Self {
        self.check = check;
        self
    }

    /// The same, but one of a few words.
    pub const fn one_of(mut self, words: &'static [&'static str]) -> Self {
        self.words = words;
        self
    }

    /// The example in the field's shape.
    #[must_use]
    pub fn example_value(&self) -> Value {
        match self.shape {
            Shape::Text => self.example.into(),
            Shape::List => vec![self.example].into(),
        }
    }

    /// The same, but it may be absent.
    pub const fn optional(mut self) -> Self {
        self.required = false;
        self
    }

    /// The same, but a list.
    pub const fn list(mut self) -> Self {
        self.shape = Shape::List;
        self
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// The common check of a token or key: printable ASCII without spaces, at most 4,096 characters.
pub fn token(value: &str, _: &Checks<'_>) -> Result<(), String> {
    if value.is_empty() {
        Err("must not be empty".to_owned())
    } else if value.len() > 4096 {
        Err("must have at most 4096 characters".to_owned())
    } else if value.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(())
    } else {
        Err("must not contain spaces or characters outside ASCII".to_owned())
    }
}

/// Checks that a text is one of a few words.
pub fn one_of(value: &str, words: &[&str]) -> Result<(), String> {
    if words.contains(&value) {
        return Ok(());
    }
    let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    let listed = match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, [first])) => format!("{first} or {last}"),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    };
    let nearest = words.iter().find(|word| {
        let value = value.trim().to_ascii_lowercase();
        value == **word || (word.len() > 3 && strsim::damerau_levenshtein(&value, word) <= 2)
    });
    let hint = nearest.map(|word| format!("; did you mean {word:?}?")).unwrap_or_default();
    Err(format!("must be {listed}{hint}"))
}

/// A text as a URL.
pub fn parse_url(value: &str) -> Result<Url, String> {
    // The parser would cut and skip them, and later users of the text would not.
    if value.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("must not contain spaces or line breaks".to_owned());
    }
    Url::parse(value).map_err(|error| match error {
        url::ParseError::RelativeUrlWithoutBase => "must begin with https://".to_owned(),
        other => format!("is no URL ({other})"),
    })
}

/// What is wrong with a URL that differs from the right one by its end only.
pub const TRAILING_SLASH: &str = "must not end in a slash: remove it";

/// Parses a webhook URL whose host must be in a list; a leading dot allows every subdomain.
pub fn url_on(value: &str, checks: &Checks<'_>, hosts: &[&str]) -> Result<Url, String> {
    let url = parse_url(value)?;
    checks.egress.check_url(&url)?;
    if url.scheme() != "https" {
        return Err("must begin with https://".to_owned());
    }
    if url.port().is_some() {
        return Err("must not name a port".to_owned());
    }
    let host = url.host_str().unwrap_or_default();
    let allowed = hosts.iter().any(|allowed| match allowed.strip_prefix('.') {
        Some(domain) => host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')),
        None => host == *allowed,
    });
    if allowed {
        Ok(url)
    } else {
        let named = |host: &&str| match host.strip_prefix('.') {
            Some(domain) => format!("*.{domain}"),
            None => (*host).to_owned(),
        };
        Err(format!("must be on {}", hosts.iter().map(named).collect::<Vec<_>>().join(" or ")))
    }
}

/// Whether a text is made of `[A-Za-z0-9]` and the extra characters, and has such a length.
#[must_use]
pub fn is_word(text: &str, extra: &str, lengths: std::ops::RangeInclusive<usize>) -> bool {
    lengths.contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
}

/// One value of a configuration, in plain.
#[derive(Clone)]
pub enum Setting {
    /// One text.
    Text(SecretString),
    /// Several texts.
    List(Vec<String>),
    /// A text that is there, encrypted: checks of several fields need no more.
    Kept,
}

/// The checked values of a connector's configuration, in plain. Its `Debug` shows only names.
#[derive(Clone, Default)]
pub struct Settings {
    values: BTreeMap<&'static str, Setting>,
    /// Replaces scheme, host and port of the URL that the destination would call.
    base_url: Option<Url>,
    /// Replaces the token endpoint.
    token_url: Option<Url>,
    /// The operator's own app.
    app: Option<App>,
}

/// A setting that a destination needs is not there, or cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("config.{field}: {message}")]
pub struct SettingError {
    /// The field's name.
    pub field: &'static str,
    /// What is wrong with it.
    pub message: String,
}

impl Settings {
    /// No values yet.
    #[must_use]
    pub fn new(base_url: Option<Url>) -> Self {
        Self { values: BTreeMap::new(), base_url, token_url: None, app: None }
    }

    /// The same with what the operator set for tokens.
    #[must_use]
    pub fn with_tokens(mut self, token_url: Option<Url>, app: Option<App>) -> Self {
        (self.token_url, self.app) = (token_url, app);
        self
    }

    /// Reads and checks one field's JSON value.
    pub fn read(field: &Field, value: &Value, checks: &Checks<'_>) -> Result<Setting, String> {
        let check = |text: &str| {
            if text.len() > MAX_FIELD_BYTES {
                return Err(format!("must have at most {MAX_FIELD_BYTES} bytes"));
            }
            if !field.words.is_empty() {
                return one_of(text, field.words);
            }
            (field.check)(text, checks)
        };
        match (field.shape, value) {
            (Shape::Text, Value::String(text)) => {
                check(text)?;
                Ok(Setting::Text(text.clone().into()))
            }
            (Shape::Text, Value::Number(number)) => {
                let text = number.to_string();
                check(&text)?;
                Ok(Setting::Text(text.into()))
            }
            (Shape::Text, _) => Err("must be a string".to_owned()),
            (Shape::List, Value::Array(items)) => {
                if items.is_empty() || items.len() > MAX_LIST_ITEMS {
                    return Err(format!("must have 1 to {MAX_LIST_ITEMS} entries"));
                }
                let texts = items.iter().map(|item| match item {
                    Value::String(text) => {
                        check(text).map_err(|error| format!("{text:?} {error}"))?;
                        Ok(text.clone())
                    }
                    _ => Err("must be a list of strings".to_owned()),
                });
                Ok(Setting::List(texts.collect::<Result<_, String>>()?))
            }
            (Shape::List, _) => Err("must be a list of strings".to_owned()),
        }
    }

    /// Sets a value.
    pub fn insert(&mut self, field: &'static str, setting: Setting) {
        self.values.insert(field, setting);
    }

    /// The value of a required text.
    pub fn text(&self, field: &'static str) -> Result<&str, SettingError> {
        self.optional(field).ok_or_else(|| SettingError { field, message: "is missing".to_owned() })
    }

    /// The value of an optional text.
    #[must_use]
    pub fn optional(&self, field: &'static str) -> Option<&str> {
        match self.values.get(field) {
            Some(Setting::Text(text)) => Some(text.expose_secret()),
            _ => None,
        }
    }

    /// Whether the field is there, also when its value cannot be read.
    #[must_use]
    pub fn has(&self, field: &str) -> bool {
        self.values.contains_key(field)
    }

    /// Removes a value.
    pub fn remove(&mut self, field: &str) {
        self.values.remove(field);
    }

    /// The value of a required text that must not be printed.
    pub fn secret(&self, field: &'static str) -> Result<SecretString, SettingError> {
        self.text(field).map(SecretString::from)
    }

    /// A header value made of a required text that must not be printed.
    pub fn secret_header(
        &self,
        field: &'static str,
        value: impl FnOnce(&str) -> String,
    ) -> Result<HeaderValue, SettingError> {
        let mut value = HeaderValue::from_str(&value(self.text(field)?))
            .map_err(|_| SettingError { field, message: "cannot stand in a header".to_owned() })?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// The value of `Authorization` with the access token that is given; none where a credential
    /// makes the tokens, and the sender adds them.
    pub fn bearer(&self) -> Result<Option<HeaderValue>, SettingError> {
        if !self.has(ACCESS_TOKEN) && RENEWING.iter().any(|field| self.has(field)) {
            return Ok(None);
        }
        self.secret_header(ACCESS_TOKEN, |token| format!("Bearer {token}")).map(Some)
    }

    /// The customer's own app.
    pub fn own_app(&self) -> Result<App, SettingError> {
        let client_id = self.text("clientId")?.to_owned();
        Ok(App { client_id, client_secret: self.secret("clientSecret")? })
    }

    /// The customer's own app, else the operator's, and whether it is the operator's.
    pub fn app(&self) -> Result<(App, bool), SettingError> {
        if self.has("clientId") || self.has("clientSecret") {
            return Ok((self.own_app()?, false));
        }
        self.app.clone().map(|app| (app, true)).ok_or_else(|| SettingError {
            field: "clientId",
            message: "is missing, and the operator has set no app of its own \
                      (destinations.<type>.client_id and client_secret)"
                .to_owned(),
        })
    }

    /// The vendor's token endpoint as it is to be called, and whether the operator chose it.
    pub fn token_endpoint(&self, endpoint: Endpoint<'_>) -> Result<(Url, bool), SettingError> {
        let parse = |text: &str| {
            Url::parse(text).map_err(|error| SettingError {
                field: "url",
                message: format!("is no URL ({error})"),
            })
        };
        let (Endpoint::OfApi(text) | Endpoint::Apart(text)) = endpoint;
        match (&self.token_url, endpoint) {
            // A bare host takes the vendor's path.
            (Some(base), _) if base.path() == "/" && base.query().is_none() => {
                Ok((rebased(parse(text)?, base), true))
            }
            (Some(whole), _) => Ok((whole.clone(), true)),
            (None, Endpoint::OfApi(_)) => Ok((self.endpoint(text)?, self.is_rebased())),
            (None, Endpoint::Apart(_)) => Ok((parse(text)?, false)),
        }
    }

    /// Whether the account is in the vendor's region for Europe.
    #[must_use]
    pub fn is_eu(&self) -> bool {
        self.optional("region") == Some("eu")
    }

    /// The value of a required list.
    pub fn list(&self, field: &'static str) -> Result<&[String], SettingError> {
        match self.values.get(field) {
            Some(Setting::List(items)) => Ok(items),
            _ => Err(SettingError { field, message: "is missing".to_owned() }),
        }
    }

    /// The user's webhook URL as it is to be called.
    pub fn webhook_url(&self, field: &'static str) -> Result<SecretUrl, SettingError> {
        let url = Url::parse(self.text(field)?)
            .map_err(|error| SettingError { field, message: format!("is no URL ({error})") })?;
        Ok(SecretUrl(self.rebased(url)))
    }

    /// The vendor's URL as it is to be called: the operator may have set another base.
    ///
    /// The URL is the destination's own, so one that does not parse is a mistake in this program.
    pub fn endpoint(&self, url: &str) -> Result<Url, SettingError> {
        // The URL may hold a secret, so it is not quoted.
        let url = Url::parse(url).map_err(|error| SettingError {
            field: "url",
            message: format!("is no URL ({error})"),
        })?;
        Ok(self.rebased(url))
    }

    /// Whether the operator replaced the vendor's host, so that the egress rules for users' URLs
    /// and the vendor's published limits do not apply.
    #[must_use]
    pub fn is_rebased(&self) -> bool {
        self.base_url.is_some()
    }

    fn rebased(&self, url: Url) -> Url {
        match &self.base_url {
            Some(base) => rebased(url, base),
            None => url,
        }
    }

    /// The secret texts, to keep them out of what others said.
    pub fn secrets<'a>(&self, fields: impl IntoIterator<Item = &'a Field>) -> Vec<SecretString> {
        fields
            .into_iter()
            .filter(|field| field.secret)
            .filter_map(|field| self.optional(field.name))
            .map(|text| SecretString::from(text.to_owned()))
            .collect()
    }
}

/// A URL with another one's scheme, host and port.
fn rebased(mut url: Url, base: &Url) -> Url {
    // Both are http(s) URLs with a host, so none of these can be refused.
    let _ = url.set_scheme(base.scheme());
    let _ = url.set_host(base.host_str());
    let _ = url.set_port(base.port());
    url
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_no_space_that_the_parser_would_drop() {
        for bad in
            ["https://a.example/x ", " https://a.example", "https://a.exa\nmple", "https://a\t.b/"]
        {
            assert!(parse_url(bad).is_err(), "{bad:?}");
        }
        assert!(parse_url("https://a.example/x").is_ok());
        let spec = super::super::ConnectorType::Salesforce;
        let field = spec.field("instanceUrl").unwrap();
        let checks = Checks { egress: &EgressPolicy::default() };
        let read = |text: &str| Settings::read(field, &text.into(), &checks);
        assert!(read("https://example.my.salesforce.com").is_ok());
        assert!(read("https://example.my.salesforce.com ").is_err());
    }
}
