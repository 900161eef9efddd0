//! The example settings file: every setting with what it means and its default, or an example where
//! there is none.

use std::fmt::Write as _;

use super::{Config, KNOWN};

const HEAD: &str = "\
# Settings of dunmore, written by `dunmore config example`.
#
# Each setting is shown with its default, or with an example where it has none. Take away the # to
# change one. An environment variable goes before the file: DUNMORE_KAFKA__BOOTSTRAP_SERVERS is
# kafka.bootstrap_servers. Durations are written as 30s, 5m, 1h.
";

/// Values, in TOML, of settings that have no default to show.
const EXAMPLES: &[(&str, &str)] = &[
    ("kafka.bootstrap_servers", r#""localhost:9092""#),
    ("kafka.properties.*", r#""security.protocol" = "SASL_SSL""#),
    ("topics.state_partitions", "6"),
    ("group.start", r#""beginning""#),
    (
        "api.tokens",
        r#"[{ name = "billing", sha256 = "0000000000000000000000000000000000000000000000000000000000000000", projects = ["proj_1"] }]"#,
    ),
    ("api.tokens_file", r#""/etc/dunmore/tokens.toml""#),
    ("api.cors_origins", r#"["https://dashboard.example.com"]"#),
    ("api.jwt.key_file", r#""/etc/dunmore/jwt.pem""#),
    ("api.jwt.jwks_file", r#""/etc/dunmore/jwks.json""#),
    ("api.jwt.algorithm", r#""RS256""#),
    ("api.jwt.issuer", r#""https://login.example.com""#),
    ("api.jwt.audience", r#""dunmore""#),
    ("api.jwt.projects_claim", r#""projects""#),
    ("admin.token_sha256", r#""0000000000000000000000000000000000000000000000000000000000000000""#),
    ("secrets.keys", r#"["k1:BASE64-OF-32-BYTES"]"#),
    ("egress.allow_cidrs", r#"["10.0.0.0/8"]"#),
    ("destinations.<type>.base_url", r#""https://gateway.example.com""#),
    ("destinations.<type>.token_url", r#""https://login.example.com/token""#),
    ("destinations.<type>.client_id", r#""app-1""#),
    ("destinations.<type>.client_secret", r#""…""#),
    ("destinations.<type>.rate_per_second", "1.0"),
    ("destinations.<type>.concurrency", "2"),
    ("destinations.<type>.timeout", r#""30s""#),
    ("notices.webhook_url", r#""https://ops.example.com/dunmore""#),
    ("notices.signing_secret", r#""whsec_RXhhbXBsZSBzZWNyZXQgb2YgMzIgYnl0ZXMgISE=""#),
    ("schema_registry.url", r#""http://localhost:8081""#),
    ("schema_registry.username", r#""dunmore""#),
    ("schema_registry.password", r#""…""#),
    ("schema_registry.ca_file", r#""/etc/dunmore/registry-ca.pem""#),
    ("telemetry.otlp_endpoint", r#""http://localhost:4318""#),
];

/// The type whose table stands for all types.
const TYPE: &str = "slack";

/// The file's text.
#[must_use]
pub fn example() -> String {
    let defaults = Config::default().show();
    let mut text = HEAD.to_owned();
    // What stands in no table comes first, and each table stands once.
    let mut tables: Vec<(String, String)> = vec![(String::new(), String::new())];
    for &(name, help) in KNOWN {
        let (table, key) = name.rsplit_once('.').unwrap_or(("", name));
        let table = table.replace("<type>", TYPE);
        let given = EXAMPLES.iter().find(|(known, _)| *known == name);
        let shown = defaults.iter().find(|(known, value)| known == name && !value.is_empty());
        let value = match (given, shown) {
            (Some((_, value)), _) => (*value).to_owned(),
            (None, Some((_, value))) => literal(value),
            (None, None) => "\"\"".to_owned(),
        };
        let line = if key == "*" { value } else { format!("{key} = {value}") };
        let lines = format!("# {help}\n# {line}\n");
        match tables.iter_mut().find(|(known, _)| *known == table) {
            Some((_, text)) => text.push_str(&lines),
            None => tables.push((table, lines)),
        }
    }
    for (table, lines) in &tables {
        let note = if table.ends_with(TYPE) { " # or any other type" } else { "" };
        let head = if table.is_empty() { String::new() } else { format!("[{table}]{note}\n") };
        let _ = write!(text, "\n{head}{lines}");
    }
    text
}

/// A default as TOML.
fn literal(value: &str) -> String {
    if value.parse::<f64>().is_ok() || value.parse::<bool>().is_ok() {
        return value.to_owned();
    }
    format!("{value:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = include_str!("../../dunmore.example.toml");

    #[test]
    fn the_document_has_every_setting() {
        let document = include_str!("../../docs/SETTINGS.md");
        let missing = KNOWN.iter().filter(|(name, _)| !document.contains(&format!("`{name}`")));
        let missing: Vec<&str> = missing.map(|(name, _)| *name).collect();
        assert!(missing.is_empty(), "docs/SETTINGS.md does not name {missing:?}");
    }

    #[test]
    fn the_file_is_what_the_program_prints() {
        assert_eq!(example(), FILE, "write it: dunmore config example > dunmore.example.toml");
    }

    #[test]
    fn every_line_works_when_its_mark_is_taken_away() {
        let is_setting = |line: &&str| {
            let key = line.strip_prefix("# ").and_then(|line| line.split_once(" = "));
            key.is_some_and(|(key, _)| !key.contains(' '))
        };
        let taken: Vec<&str> = FILE
            .lines()
            .filter(|line| is_setting(line) || line.starts_with('['))
            .map(|line| line.strip_prefix("# ").unwrap_or(line))
            .collect();
        assert!(taken.len() > KNOWN.len(), "{taken:#?}");
        Config::from_toml(&taken.join("\n")).unwrap();
        // As it is, it changes nothing.
        let untouched = Config::from_toml(FILE).unwrap();
        assert_eq!(untouched.show(), Config::default().show());
    }

    #[test]
    fn defaults_are_shown_where_there_are_some() {
        for line in [
            "# listen = \"127.0.0.1:8080\"",
            "# retry_tiers = \"5s,30s,2m,10m,1h,6h\"",
            "# max_in_flight = 4096",
            "# allow_http = false",
            "# data_dir = \"./data\"",
        ] {
            assert!(FILE.lines().any(|found| found == line), "{line}");
        }
        let named: Vec<&str> = EXAMPLES
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| !KNOWN.iter().any(|(known, _)| known == name))
            .collect();
        assert_eq!(named, Vec::<&str>::new(), "these are no settings any more");
    }
}
