//! What `serve` refuses before it connects to anything, found all at once: for `config check` and `doctor`.

use std::path::Path;

use nix::unistd::{AccessFlags, access};

use crate::{codec::RegistryClient, config::Config, secrets::Keyring, telemetry, tokens::Tokens};

/// What is looked at, and what is wrong with it, if anything.
pub type Look = (&'static str, Result<String, String>);

/// Looks at everything that needs no other machine.
pub fn looks(config: &Config) -> Vec<Look> {
    let connection = config.connection().map_err(|error| error.to_string());
    let kafka = connection.and_then(|connection| {
        let servers = connection.bootstrap_servers().to_owned();
        connection.check_properties().map(|()| servers).map_err(|error| error.to_string())
    });
    vec![
        ("kafka", kafka),
        ("secrets", keys(config)),
        ("data_dir", data_dir(&config.data_dir)),
        ("log", telemetry::check(&config.log).map(|()| format!("filter {}", config.log.filter))),
        ("tokens", tokens(config)),
        ("registry", registry(config)),
        ("listen", listen(config)),
    ]
}

fn keys(config: &Config) -> Result<String, String> {
    let keys = config.secret_keys().map_err(|error| error.to_string())?;
    let keyring = Keyring::parse(&keys).map_err(|error| format!("secrets.keys: {error}"))?;
    Ok(format!("{} keys; {} encrypts", keys.len(), keyring.first_key()))
}

/// The folder, or where it would be made, must be one that this user may write.
fn data_dir(path: &Path) -> Result<String, String> {
    let absolute = std::path::absolute(path)
        .map_err(|error| format!("data_dir {} cannot be used ({error})", path.display()))?;
    let existing = absolute.ancestors().find(|folder| folder.exists());
    let Some(existing) = existing else {
        return Err(format!("data_dir {} cannot be made", path.display()));
    };
    let wrong = |why: &str| {
        format!(
            "data_dir {} cannot be used ({} {why}): make it a folder that this user may write, or \
             set data_dir to another one",
            path.display(),
            existing.display()
        )
    };
    if !existing.is_dir() {
        return Err(wrong("is no folder"));
    }
    access(existing, AccessFlags::W_OK | AccessFlags::X_OK)
        .map_err(|_| wrong("may not be written by this user"))?;
    let state = if existing == absolute { "is there" } else { "will be made" };
    Ok(format!("{} {state}", path.display()))
}

fn tokens(config: &Config) -> Result<String, String> {
    let tokens = Tokens::new(&config.api.tokens, &config.api.jwt)?;
    Ok(if tokens.is_empty() {
        "none: every call of the API gets 401".to_owned()
    } else {
        format!("{} in api.tokens", config.api.tokens.len())
    })
}

fn registry(config: &Config) -> Result<String, String> {
    let client = RegistryClient::new(&config.schema_registry)?;
    Ok(match (client, &config.schema_registry.url) {
        (Some(_), Some(url)) => url.host_str().unwrap_or_default().to_owned(),
        _ => "none: records are written as JSON".to_owned(),
    })
}

fn listen(config: &Config) -> Result<String, String> {
    let (api, admin) = (config.api.listen, config.admin.listen);
    if api == admin && api.port() != 0 {
        return Err(format!("api.listen and admin.listen are both {api}: give them two ports"));
    }
    Ok(format!("API {api}, admin {admin}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(toml: &str) -> Vec<String> {
        let config = Config::from_toml(toml).unwrap();
        looks(&config).into_iter().filter_map(|(_, look)| look.err()).collect()
    }

    #[test]
    fn everything_that_serve_refuses_is_found_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let told = wrong(&format!(
            "kafka.bootstrap_servers = 'b:1'\nkafka.properties.security.protocl = 'ssl'\n\
             secrets.keys = ['k1:short']\ndata_dir = '{}/data'\nlog.filter = 'info,=='\n\
             api.jwt.key_file = '/no/such/key.pem'\napi.jwt.algorithm = 'RS256'\n\
             api.listen = '127.0.0.1:9464'\nschema_registry.url = 'http://r:1'\n\
             schema_registry.ca_file = '/no/such/ca.pem'",
            file.display()
        ));
        for words in [
            "security.protocl",
            "secrets.keys: ",
            "is no folder",
            "log.filter",
            "/no/such/key.pem",
            "api.listen and admin.listen are both 127.0.0.1:9464",
            "schema_registry.ca_file: cannot read /no/such/ca.pem",
        ] {
            assert!(told.iter().any(|line| line.contains(words)), "{words}\n{told:#?}");
        }
        assert_eq!(told.len(), 7, "{told:#?}");
        let missing = wrong("");
        assert_eq!(missing.len(), 2, "{missing:#?}");
    }

    #[test]
    fn what_is_right_is_not_refused_and_nothing_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("a/b");
        let key = "k1:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
        let told = wrong(&format!(
            "kafka.bootstrap_servers = 'b:1'\nsecrets.keys = ['{key}']\ndata_dir = '{}'",
            data.display()
        ));
        assert_eq!(told, Vec::<String>::new());
        assert!(!data.exists());
    }
}
