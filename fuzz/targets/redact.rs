//! An answer that may quote a secret: when it does, it is found, in each form.

#![no_main]

use base64::{Engine, engine::general_purpose::STANDARD};
use dunmore_connectors::{redact::Redactor, text::harmless};
use libfuzzer_sys::fuzz_target;
use secrecy::SecretString;

const TOKEN: &str = "canary-5e1f/+9d2c&a=%41";
const HOOK: &str = "https://user:p%2Fss@hooks.example/services/T0CANARY1/x?sig=Canary_%2Bvalue";

fuzz_target!(|data: (Vec<u8>, Vec<u8>, u8)| {
    let (before, after, form) = data;
    let redactor = Redactor::new(&[SecretString::from(TOKEN), SecretString::from(HOOK)]);
    let percent = || TOKEN.bytes().map(|b| format!("%{b:02x}")).collect::<String>();
    let (quoted, is_encoded) = match form % 5 {
        0 => (TOKEN.to_owned(), false),
        1 => (percent(), true),
        2 => (serde_json::Value::from(TOKEN).to_string().replace('/', "\\/"), true),
        3 => (STANDARD.encode(format!("{TOKEN}:")), false),
        _ => ("Canary_%2Bvalue".to_owned(), false),
    };
    let text = [&before[..], quoted.as_bytes(), &after[..]].concat();
    // Before an encoded one, an escape that begins may change how it is read.
    if !is_encoded || !before.iter().any(|byte| b"%\\".contains(byte)) {
        assert!(redactor.quotes(&text));
    }
    let text = String::from_utf8_lossy(&text);
    assert!(!redactor.quotes(redactor.masked(&text).as_bytes()));
    assert!(text.chars().map(harmless).all(|c| !c.is_control()));
});
