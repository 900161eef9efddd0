//! A bearer token that somebody made up: none is accepted, and none makes the check fail.

#![no_main]

use std::sync::LazyLock;

use dunmore_connectors::{
    config::{JwtSettings, TokenSettings},
    tokens::{Tokens, digest_of},
};
use libfuzzer_sys::fuzz_target;

/// Not the key's text: no input of the fuzzer's can be signed with it.
static TOKENS: LazyLock<(Tokens, tempfile::TempDir)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("key");
    std::fs::write(&key, digest_of(&format!("{:?}", std::time::SystemTime::now()))).expect("a file");
    let text = |text: &str| Some(text.to_owned());
    let jwt = JwtSettings {
        key_file: Some(key),
        jwks_file: None,
        algorithm: text("HS256"),
        issuer: text("issuer"),
        audience: text("audience"),
        projects_claim: None,
    };
    let fixed = TokenSettings {
        name: "one".to_owned(),
        sha256: digest_of(&format!("{:?}", std::time::Instant::now())),
        projects: vec!["*".to_owned()],
    };
    (Tokens::new(&[fixed], &jwt).expect("settings"), folder)
});

fuzz_target!(|data: &str| {
    assert_eq!(TOKENS.0.caller(data), None);
});
