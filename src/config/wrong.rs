//! What is wrong with the settings, all at once and in the words of the settings file.

use figment::{
    Error, Figment, Profile,
    error::{Actual, Kind},
    value::{Dict, Value},
};

use super::{Config, ENV_PREFIX, KNOWN, matches_name};

/// Variables with the prefix that are no settings, and what reads them.
pub const NOT_SETTINGS: &[(&str, &str)] = &[
    ("DUNMORE_CONFIG", "the settings file, as --config"),
    ("DUNMORE_CACHE", "where the scripts keep what they download and build"),
    ("DUNMORE_REQUIRE_BROKER", "1: a test without a broker fails instead of being skipped"),
    ("DUNMORE_TEST_PROGRAM", "the build of the program that the tests run"),
];

/// Wrong values that are reported; more of them are the same mistake.
const MAX_WRONG_VALUES: usize = 50;

/// Environment variables that are no setting, in sentences. Their values are not shown.
pub fn unknown_variables<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let unknown = names.filter(|name| {
        let upper = name.to_ascii_uppercase();
        upper.starts_with(ENV_PREFIX)
            && !NOT_SETTINGS.iter().any(|(known, _)| *known == upper)
            && !is_setting(&upper)
    });
    let mut told: Vec<String> = unknown
        .map(|name| format!("unknown environment variable {name}{}", nearest_variable(name)))
        .collect();
    told.sort_unstable();
    told
}

/// Whether a variable of this name is a setting.
pub fn is_setting(variable: &str) -> bool {
    let Some(name) = variable.strip_prefix(ENV_PREFIX) else { return false };
    let name = name.to_ascii_lowercase().replace("__", ".");
    KNOWN.iter().any(|(known, _)| matches_name(known, &name))
}

/// The variable that is probably meant, as the end of a sentence.
fn nearest_variable(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    let squashed = |name: &str| name.replace('_', "");
    let types = crate::destination::ConnectorType::ALL.iter();
    let types: Vec<String> = types.map(|kind| kind.as_str().to_ascii_uppercase()).collect();
    let mut candidates = Vec::new();
    for (known, _) in KNOWN {
        let known = known.to_ascii_uppercase().replace('.', "__");
        if let Some(open) = known.strip_suffix('*') {
            // Any name may follow, which is taken over.
            let open = format!("{ENV_PREFIX}{open}");
            let rest = after_letters(&upper, squashed(&open).len());
            if squashed(&upper).starts_with(&squashed(&open)) && !rest.is_empty() {
                candidates.push(format!("{open}{rest}"));
            }
        } else if known.contains("<TYPE>") {
            let each = types.iter().map(|kind| known.replace("<TYPE>", kind));
            candidates.extend(each.map(|known| format!("{ENV_PREFIX}{known}")));
        } else {
            candidates.push(format!("{ENV_PREFIX}{known}"));
        }
    }
    candidates.extend(NOT_SETTINGS.iter().map(|(known, _)| (*known).to_owned()));
    candidates
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(&upper, &known), known))
        .min()
        .filter(|(distance, known)| *distance <= (known.len() - ENV_PREFIX.len()) / 2)
        .map(|(_, known)| format!(", did you mean {known}?"))
        .unwrap_or_default()
}

/// What stands behind so many characters that are no underscores, and the underscores after them.
fn after_letters(text: &str, count: usize) -> &str {
    let mut letters = text.char_indices().filter(|(_, c)| *c != '_');
    letters.nth(count).map_or("", |(at, _)| &text[at..])
}

/// Reads the settings, as often as there are wrong values in them: each is left out once it is reported.
/// So all of them are reported, and what is right is read.
pub fn extract(mut values: Dict) -> (Config, Vec<String>) {
    let mut wrong = Vec::new();
    loop {
        let figment =
            Figment::new().merge(figment::providers::Serialized::from(&values, Profile::Default));
        let errors: Error = match figment.extract() {
            Ok(config) => return (config, wrong),
            Err(errors) => errors,
        };
        let mut removed = false;
        for error in errors {
            let path = error.path.join(".");
            wrong.push(format!(
                "{path}{}{}",
                if path.is_empty() { "" } else { " " },
                words(&error.kind)
            ));
            removed |= remove(&mut values, &error.path);
        }
        if !removed || wrong.len() >= MAX_WRONG_VALUES {
            return (Config::default(), wrong);
        }
    }
}

/// Takes a value out; of a value inside a list, the whole list.
fn remove(values: &mut Dict, path: &[String]) -> bool {
    let Some((first, rest)) = path.split_first() else { return false };
    if let Some(Value::Dict(_, inner)) = values.get_mut(first)
        && !rest.is_empty()
        && remove(inner, rest)
    {
        return true;
    }
    values.remove(first).is_some()
}

/// An error in plain words.
fn words(kind: &Kind) -> String {
    match kind {
        Kind::Message(message) => match message.as_str() {
            message if message.contains("socket address") => {
                "must be an address and a port, for example 127.0.0.1:9464".to_owned()
            }
            message if message.contains("relative URL") => {
                "must be a URL, for example https://gateway.example.com".to_owned()
            }
            message => message.to_owned(),
        },
        Kind::InvalidType(found, wanted) | Kind::InvalidValue(found, wanted) => {
            format!("must be {}, not {}", wanted_words(wanted), found_words(found))
        }
        Kind::InvalidLength(length, wanted) => {
            format!("must have {}, not {length}", wanted_words(wanted))
        }
        Kind::UnknownVariant(found, known) => {
            format!("must be one of {}, not {found:?}", known.join(", "))
        }
        Kind::UnknownField(found, known) => {
            format!("has no {found:?}; there are {}", known.join(", "))
        }
        Kind::MissingField(name) => format!("must have {name:?}"),
        Kind::DuplicateField(name) => format!("has {name:?} twice"),
        Kind::ISizeOutOfRange(_) | Kind::USizeOutOfRange(_) => "is out of range".to_owned(),
        Kind::Unsupported(found) | Kind::UnsupportedKey(found, _) => {
            format!("must not be {}", found_words(found))
        }
    }
}

fn wanted_words(wanted: &str) -> String {
    match wanted {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0 on".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "path string" | "a string" | "string" => "a text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a table of settings".to_owned(),
        text if text.contains("socket address") => {
            "an address and a port, for example 127.0.0.1:9464".to_owned()
        }
        text if text.contains("URL") => "a URL".to_owned(),
        text if text.starts_with("struct ") || text.starts_with("enum ") => {
            "a table of settings".to_owned()
        }
        text => text.to_owned(),
    }
}

/// What was found, without its value where that may be a secret.
fn found_words(found: &Actual) -> String {
    match found {
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(number) => number.to_string(),
        Actual::Signed(number) => number.to_string(),
        Actual::Float(number) => number.to_string(),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a table of settings".to_owned(),
        Actual::Unit | Actual::Option => "nothing".to_owned(),
        Actual::Bytes(_) => "bytes".to_owned(),
        _ => "a text".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(name: &str) -> String {
        unknown_variables(std::iter::once(name)).join("; ")
    }

    #[test]
    fn a_misspelt_variable_is_named_with_the_nearest_setting() {
        for (name, meant) in [
            ("DUNMORE_KAFKA_BOOTSTRAP_SERVERS", "DUNMORE_KAFKA__BOOTSTRAP_SERVERS"),
            ("DUNMORE_KAFKA__BOOTSTRAP_SERVER", "DUNMORE_KAFKA__BOOTSTRAP_SERVERS"),
            ("DUNMORE_DATADIR", "DUNMORE_DATA_DIR"),
            ("DUNMORE_SECRETS_KEYS", "DUNMORE_SECRETS__KEYS"),
            ("DUNMORE_DESTINATIONS_SLACK__BASE_URL", "DUNMORE_DESTINATIONS__SLACK__BASE_URL"),
            ("DUNMORE_DESTINATIONS__SLAK__BASE_URL", "DUNMORE_DESTINATIONS__SLACK__BASE_URL"),
            ("DUNMORE_KAFKA_PROPERTIES_SASL_PASSWORD", "DUNMORE_KAFKA__PROPERTIES__SASL_PASSWORD"),
            ("DUNMORE_CONFG", "DUNMORE_CONFIG"),
            ("dunmore_log_filter", "DUNMORE_LOG__FILTER"),
        ] {
            let told = unknown(name);
            let wanted = format!("unknown environment variable {name}, did you mean {meant}?");
            assert_eq!(told, wanted);
        }
        assert_eq!(unknown("DUNMORE_XYZZY"), "unknown environment variable DUNMORE_XYZZY");
    }

    #[test]
    fn settings_and_what_is_documented_as_none_pass() {
        for name in [
            "DUNMORE_KAFKA__BOOTSTRAP_SERVERS",
            "DUNMORE_KAFKA__PROPERTIES__SASL_PASSWORD",
            "DUNMORE_DESTINATIONS__N8N__TIMEOUT",
            "DUNMORE_DATA_DIR",
            "dunmore_log__filter",
            "PATH",
            "MYDUNMORE_X",
        ] {
            assert_eq!(unknown(name), "", "{name}");
        }
        for (name, _) in NOT_SETTINGS {
            assert_eq!(unknown(name), "", "{name}");
        }
    }

    #[test]
    fn all_wrong_values_are_told_in_plain_words() {
        let error = Config::from_toml(
            "topics.partitions = 'many'\ntopics.replication_factor = 0\nadmin.listen = 'here'\n\
             log.format = 'xml'\negress.allow_http = 'maybe'\n\
             destinations.slack.base_url = 'gateway'\ndestinations.slack.rate_per_second = 'fast'\n\
             delivery.max_in_flight = -1\ndata_dir = [1]",
        );
        let told = error.unwrap_err().to_string();
        for words in [
            "topics.partitions must be a whole number, not a text",
            "admin.listen must be an address and a port, for example 127.0.0.1:9464",
            "log.format must be one of auto, text, json, not \"xml\"",
            "egress.allow_http must be true or false, not a text",
            "destinations.slack.base_url must be a URL",
            "destinations.slack.rate_per_second must be a number, not a text",
            "delivery.max_in_flight must be a whole number from 0 on, not -1",
            "topics.replication_factor must be at least 1",
        ] {
            assert!(told.contains(words), "{words}\n{told}");
        }
        for word in ["struct", "expected", "u32", "i32", "f64"] {
            assert!(!told.contains(word), "{word}\n{told}");
        }
    }
}
