//! Tokens: which are accepted, and for which projects.

use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use dunmore_connectors::{
    config::{Config, JwtSettings, TokenSettings},
    tokens::{Grant, Tokens, digest_of, generate},
};
use ring::{
    rand::SystemRandom,
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair},
};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

const SHARED: &[u8] = b"0123456789abcdef0123456789abcdef";
const RSA_PRIVATE: &str = include_str!("../fixtures/jwt/rsa-private.pem");
const RSA_PUBLIC: &str = include_str!("../fixtures/jwt/rsa-public.pem");

fn entry(name: &str, token: &str, projects: &[&str]) -> TokenSettings {
    let projects = projects.iter().map(|p| (*p).to_owned()).collect();
    TokenSettings { name: name.to_owned(), sha256: digest_of(token), projects }
}

#[test]
fn static_tokens() {
    let list = [
        entry("a", "alpha", &["proj_a"]),
        entry("b", "beta", &["proj_b", "proj_c"]),
        entry("all", "omega", &["*"]),
    ];
    let tokens = Tokens::new(&list, &JwtSettings::default()).unwrap();
    for (token, name, yes, no) in [
        ("alpha", "token:a", "proj_a", Some("proj_b")),
        ("beta", "token:b", "proj_c", Some("proj_a")),
        ("omega", "token:all", "proj_x", None),
    ] {
        let caller = tokens.caller(token).unwrap();
        assert_eq!(&*caller.name, name);
        assert!(caller.grant.covers(yes));
        assert!(no.is_none_or(|no| !caller.grant.covers(no)));
    }
    for wrong in ["", "Alpha", "alpha ", "alph", "alphab", &"a".repeat(100_000)] {
        assert_eq!(tokens.caller(wrong), None, "{wrong:.20}");
    }
    // The hash is no token.
    assert_eq!(tokens.caller(&digest_of("alpha")), None);
    assert!(!format!("{tokens:?}").contains(&digest_of("alpha")));
    assert!(Tokens::new(&[], &JwtSettings::default()).unwrap().is_empty());
    assert!(Grant::read(&["a b"]).is_err());
    for wrong in [
        TokenSettings { sha256: "12".to_owned(), ..list[0].clone() },
        TokenSettings { projects: vec![], ..list[0].clone() },
    ] {
        assert!(Tokens::new(&[wrong], &JwtSettings::default()).is_err());
    }
}

#[test]
fn a_made_token_is_accepted_and_its_settings_can_be_read() {
    let (token, entry) = generate(Some("me"), vec!["proj_1".to_owned()]).unwrap();
    assert!(token.expose_secret().starts_with("dmt_"));
    let toml = format!(
        "[[api.tokens]]\nname = \"me\"\nsha256 = \"{}\"\nprojects = [\"proj_1\"]",
        entry.sha256
    );
    let config = Config::from_toml(&toml).unwrap();
    assert_eq!(config.api.tokens, std::slice::from_ref(&entry));
    // As an environment variable has it.
    let json = json!([entry]).to_string();
    let config = Config::from_toml(&format!("api.tokens = '{json}'")).unwrap();
    let tokens = Tokens::new(&config.api.tokens, &config.api.jwt).unwrap();
    assert!(tokens.caller(token.expose_secret()).is_some());
    assert!(!format!("{:?}", config.show()).contains(&entry.sha256));
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn claims() -> Value {
    json!({ "iss": "https://issuer", "aud": "dunmore", "exp": now() + 600, "sub": "user-1", "projects": ["proj_a"] })
}

fn jwt(header: &Value, claims: &Value, sign: &dyn Fn(&[u8]) -> Vec<u8>) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(sign(signed.as_bytes())))
}

fn hs256(key: &[u8]) -> impl Fn(&[u8]) -> Vec<u8> {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
    move |message| ring::hmac::sign(&key, message).as_ref().to_vec()
}

fn settings(algorithm: &str, key: Option<PathBuf>, set: Option<PathBuf>) -> JwtSettings {
    JwtSettings {
        key_file: key,
        jwks_file: set,
        algorithm: Some(algorithm.to_owned()),
        issuer: Some("https://issuer".to_owned()),
        audience: Some("dunmore".to_owned()),
        projects_claim: None,
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the settings have it so")]
fn file(dir: &tempfile::TempDir, name: &str, content: &[u8]) -> Option<PathBuf> {
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    Some(path)
}

fn pem(prefix: &[u8], key: &[u8]) -> Vec<u8> {
    let der = STANDARD.encode([prefix, key].concat());
    format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n").into_bytes()
}

fn rsa() -> RsaKeyPair {
    let text: String = RSA_PRIVATE.lines().filter(|line| !line.starts_with("---")).collect();
    RsaKeyPair::from_pkcs8(&STANDARD.decode(text).unwrap()).unwrap()
}

type Sign<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;

#[test]
fn signed_tokens_of_every_algorithm() {
    let dir = tempfile::tempdir().unwrap();
    let random = SystemRandom::new();
    let rsa = rsa();
    let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let ec = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    let ec = EcdsaKeyPair::from_pkcs8(algorithm, ec.as_ref(), &random).unwrap();
    let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
    let ed = Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap();
    // SubjectPublicKeyInfo of P-256 and of Ed25519 (RFC 5480, RFC 8410).
    let ec_prefix = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08,
        0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];
    let ed_prefix = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    let ec_point = ec.public_key().as_ref().to_vec();
    let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let rsa_public = rsa.public().clone();
    let rsa_parts: signature::RsaPublicKeyComponents<Vec<u8>> = (&rsa_public).into();
    let set = json!({ "keys": [
        { "kty": "RSA", "kid": "r", "n": b64(&rsa_parts.n), "e": b64(&rsa_parts.e) },
        { "kty": "EC", "kid": "e", "crv": "P-256", "x": b64(&ec_point[1..33]), "y": b64(&ec_point[33..]) },
        { "kty": "OKP", "kid": "d", "crv": "Ed25519", "x": b64(ed.public_key().as_ref()) },
        { "kty": "oct", "kid": "h", "k": b64(SHARED) },
    ]});
    let set = file(&dir, "set.json", set.to_string().as_bytes());
    let sign_rsa = |message: &[u8]| {
        let mut signed = vec![0; rsa.public().modulus_len()];
        rsa.sign(&signature::RSA_PKCS1_SHA256, &random, message, &mut signed).unwrap();
        signed
    };
    let sign_ec = |message: &[u8]| ec.sign(&random, message).unwrap().as_ref().to_vec();
    let sign_ed = |message: &[u8]| ed.sign(message).as_ref().to_vec();
    let sign_hs = hs256(SHARED);
    let cases: [(&str, &str, Option<PathBuf>, Sign<'_>); 4] = [
        ("HS256", "h", file(&dir, "hs", SHARED), &sign_hs),
        ("RS256", "r", file(&dir, "rs", RSA_PUBLIC.as_bytes()), &sign_rsa),
        ("ES256", "e", file(&dir, "es", &pem(&ec_prefix, &ec_point)), &sign_ec),
        ("EdDSA", "d", file(&dir, "ed", &pem(&ed_prefix, ed.public_key().as_ref())), &sign_ed),
    ];
    for (name, kid, key, sign) in &cases {
        let by_key = Tokens::new(&[], &settings(name, key.clone(), None)).unwrap();
        let by_set = Tokens::new(&[], &settings(name, None, set.clone())).unwrap();
        let token = jwt(&json!({ "alg": name, "typ": "JWT", "kid": kid }), &claims(), sign);
        for tokens in [&by_key, &by_set] {
            let caller = tokens.caller(&token).unwrap_or_else(|| panic!("{name}"));
            assert_eq!(&*caller.name, "jwt:user-1");
            assert!(caller.grant.covers("proj_a") && !caller.grant.covers("proj_b"));
            // One bit of the signature.
            let (signed, signature) = token.rsplit_once('.').unwrap();
            let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
            bytes[3] ^= 1;
            assert_eq!(tokens.caller(&format!("{signed}.{}", URL_SAFE_NO_PAD.encode(bytes))), None);
            // A key of the set that the token does not name.
            let wrong_kid = jwt(&json!({ "alg": name, "kid": "no" }), &claims(), sign);
            assert_eq!(
                tokens.caller(&wrong_kid).is_some(),
                std::ptr::eq(tokens, &raw const by_key)
            );
        }
        // Other algorithms, each with its own right signature.
        for (other, kid, _, sign) in &cases {
            let token = jwt(&json!({ "alg": other, "kid": kid }), &claims(), sign);
            assert_eq!(by_set.caller(&token).is_some(), other == name, "{other} for {name}");
        }
    }
    // A public key is no shared key.
    let public = file(&dir, "public", RSA_PUBLIC.as_bytes());
    assert!(Tokens::new(&[], &settings("HS256", public.clone(), None)).is_err());
    let tokens = Tokens::new(&[], &settings("RS256", public, None)).unwrap();
    let confused = jwt(&json!({ "alg": "HS256" }), &claims(), &hs256(RSA_PUBLIC.as_bytes()));
    assert_eq!(tokens.caller(&confused), None);
}

#[test]
fn claims_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = Tokens::new(&[], &settings("HS256", file(&dir, "hs", SHARED), None)).unwrap();
    let sign = hs256(SHARED);
    let header = json!({ "alg": "HS256" });
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value;
        }
        tokens.caller(&jwt(&header, &claims, &sign))
    };
    assert!(with("sub", Value::Null).is_some());
    assert!(with("aud", json!(["other", "dunmore"])).is_some());
    assert!(with("projects", json!("proj_a")).unwrap().grant.covers("proj_a"));
    assert!(with("projects", json!(["*"])).unwrap().grant.covers("proj_z"));
    assert!(!with("projects", json!([])).unwrap().grant.covers("proj_a"));
    for (name, value) in [
        ("exp", Value::Null),
        ("exp", json!(now() - 60)),
        ("exp", json!("soon")),
        ("nbf", json!(now() + 600)),
        ("iss", Value::Null),
        ("iss", json!("https://other")),
        ("iss", json!(["https://issuer"])),
        ("iss", json!(["https://issuer", "https://other"])),
        ("aud", Value::Null),
        ("aud", json!("other")),
        ("aud", json!([])),
        ("projects", Value::Null),
        ("projects", json!(7)),
        ("projects", json!([7])),
        ("projects", json!(["a b"])),
    ] {
        assert_eq!(with(name, value.clone()), None, "{name} {value}");
    }
    for header in
        [json!({ "alg": "none" }), json!({ "alg": "HS512" }), json!({ "alg": "RS256" }), json!({})]
    {
        assert_eq!(tokens.caller(&jwt(&header, &claims(), &sign)), None, "{header}");
    }
    // What a token calls critical and this program does not know (RFC 7515, section 4.1.11).
    for crit in [json!(["exp"]), json!(["b64"]), json!([]), json!(null), json!("x")] {
        let header = json!({ "alg": "HS256", "crit": crit, "b64": true });
        assert_eq!(tokens.caller(&jwt(&header, &claims(), &sign)), None, "{header}");
    }
    let unsigned = jwt(&json!({ "alg": "none" }), &claims(), &|_| Vec::new());
    assert_eq!(tokens.caller(&unsigned), None);
    assert_eq!(
        tokens.caller(&jwt(&header, &claims(), &hs256(b"another key, 32 bytes long, wrong"))),
        None
    );
    for text in ["a.b.c", "..", "...", "eyJ.eyJ.x", "é.é.é"] {
        assert_eq!(tokens.caller(text), None);
    }
}

#[test]
fn keys_that_are_for_something_else_check_no_token() {
    let dir = tempfile::tempdir().unwrap();
    let token = jwt(&json!({ "alg": "HS256", "kid": "h" }), &claims(), &hs256(SHARED));
    let accepts = |more: Value| {
        let mut key = json!({ "kty": "oct", "kid": "h", "k": URL_SAFE_NO_PAD.encode(SHARED) });
        key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let set = file(&dir, "set.json", json!({ "keys": [key] }).to_string().as_bytes());
        Tokens::new(&[], &settings("HS256", None, set)).unwrap().caller(&token).is_some()
    };
    assert!(accepts(json!({})) && accepts(json!({ "use": "sig", "alg": "HS256" })));
    assert!(accepts(json!({ "key_ops": ["sign", "verify"] })));
    for wrong in [
        json!({ "use": "enc" }),
        json!({ "use": "other" }),
        json!({ "key_ops": ["encrypt"] }),
        json!({ "key_ops": [] }),
        json!({ "alg": "HS384" }),
    ] {
        assert!(!accepts(wrong.clone()), "{wrong}");
    }
}

#[test]
fn tokens_without_a_subject_share_a_name_only_where_they_share_projects() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = Tokens::new(&[], &settings("HS256", file(&dir, "hs", SHARED), None)).unwrap();
    let name = |projects: Value, subject: Value| {
        let mut claims = claims();
        (claims["projects"], claims["sub"]) = (projects, subject);
        let token = jwt(&json!({ "alg": "HS256" }), &claims, &hs256(SHARED));
        tokens.caller(&token).unwrap().name
    };
    let null = Value::Null;
    assert_eq!(name(json!(["a", "b"]), null.clone()), name(json!(["b", "a"]), json!("")));
    assert_ne!(name(json!(["a"]), null.clone()), name(json!(["b"]), null.clone()));
    assert_ne!(name(json!(["*"]), null.clone()), name(json!(["a"]), null));
    assert_eq!(&*name(json!(["a"]), json!("user\u{202e}1")), "jwt:user 1");
}

#[test]
fn incomplete_settings_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let good = settings("HS256", file(&dir, "hs", SHARED), None);
    for wrong in [
        JwtSettings { algorithm: None, ..good.clone() },
        JwtSettings { algorithm: Some("none".to_owned()), ..good.clone() },
        JwtSettings { issuer: None, ..good.clone() },
        JwtSettings { audience: None, ..good.clone() },
        JwtSettings { key_file: None, ..good.clone() },
        JwtSettings { jwks_file: good.key_file.clone(), ..good.clone() },
        JwtSettings { key_file: file(&dir, "short", b"short"), ..good.clone() },
        JwtSettings { key_file: Some("/nowhere".into()), ..good.clone() },
    ] {
        assert!(Tokens::new(&[], &wrong).is_err(), "{wrong:?}");
    }
    assert!(
        Config::from_toml("api.jwt.isuer = \"x\"")
            .unwrap_err()
            .to_string()
            .contains("api.jwt.issuer")
    );
}
