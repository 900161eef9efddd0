//! `notices.*`: where the operator gets the notices of all projects.

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

use super::{optional_secret, row};
use crate::destination::Signing;

/// `notices.*`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NoticeSettings {
    /// What every notice is posted to.
    pub webhook_url: Option<Url>,
    /// Signs what is posted.
    #[serde(deserialize_with = "optional_secret")]
    pub signing_secret: Option<SecretString>,
}

impl NoticeSettings {
    /// What is wrong, in sentences.
    pub(super) fn check(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let is_web = |url: &Url| matches!(url.scheme(), "http" | "https") && url.host().is_some();
        if self.webhook_url.as_ref().is_some_and(|url| !is_web(url)) {
            let words = "notices.webhook_url must be an http or https URL, for example \
                         https://ops.example.com/dunmore";
            wrong.push(words.to_owned());
        }
        if let Some(secret) = &self.signing_secret {
            if let Err(words) = Signing::with(secret.expose_secret()) {
                wrong.push(format!("notices.signing_secret {words}"));
            }
            if self.webhook_url.is_none() {
                wrong.push("notices.signing_secret needs notices.webhook_url".to_owned());
            }
        }
        wrong
    }

    /// The settings as they may be shown: a webhook's path may be a secret.
    pub(super) fn rows(&self) -> Vec<(String, String)> {
        let host = |url: &Url| {
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            format!("{}://{}{port}/…", url.scheme(), url.host_str().unwrap_or_default())
        };
        let url = self.webhook_url.as_ref().map(host);
        let secret = self.signing_secret.as_ref().map(|_| "…");
        url.map(|url| row("notices.webhook_url", url))
            .into_iter()
            .chain(secret.map(|secret| row("notices.signing_secret", secret)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    const SECRET: &str = "whsec_RXhhbXBsZSBzZWNyZXQgb2YgMzIgYnl0ZXMgISE=";

    #[test]
    fn a_webhook_is_a_url_and_its_secret_one_that_signs() {
        let right = format!(
            "notices.webhook_url = 'https://ops.example.com:8443/hooks/canary?key=canary'\n\
             notices.signing_secret = '{SECRET}'"
        );
        let config = Config::from_toml(&right).unwrap();
        let shown = format!("{:?}", config.show());
        assert!(shown.contains("https://ops.example.com:8443/…"), "{shown}");
        assert!(!shown.contains("canary") && !shown.contains("whsec_"), "{shown}");
        assert!(!format!("{:?}", config.notices.signing_secret).contains("whsec_"));
        for (wrong, words) in [
            (
                "notices.webhook_url = 'ftp://ops.example.com'".to_owned(),
                "must be an http or https",
            ),
            (format!("notices.signing_secret = '{SECRET}'"), "needs notices.webhook_url"),
            (
                "notices.webhook_url = 'https://a.example'\nnotices.signing_secret = 'canary'"
                    .to_owned(),
                "notices.signing_secret must be whsec_",
            ),
        ] {
            let error = Config::from_toml(&wrong).unwrap_err().to_string();
            assert!(error.contains(words) && !error.contains("canary"), "{error}");
        }
    }
}
