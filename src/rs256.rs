//! RS256: signatures with a customer's RSA key, which is how some services let a program log in.
//!
//! The same key and message always give the same signature; chance only blinds the computation.

use std::fmt;

use ring::{
    rand::SecureRandom,
    signature::{RSA_PKCS1_SHA256, RsaKeyPair},
};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};

/// A private RSA key. Its `Debug` shows only its size.
pub struct RsaKey(RsaKeyPair);

impl RsaKey {
    /// Reads a private key in PEM (PKCS #8 or PKCS #1). The error never quotes it.
    pub fn from_pem(pem: &str) -> Result<Self, String> {
        if pem.contains("ENCRYPTED") {
            return Err("is encrypted: give the key without a passphrase".to_owned());
        }
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| {
            "is no private key in PEM, which begins with -----BEGIN PRIVATE KEY-----".to_owned()
        })?;
        let pair = match &der {
            PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
            _ => return Err("is no RSA key".to_owned()),
        };
        pair.map(Self).map_err(|rejected| match rejected.to_string().as_str() {
            "WrongAlgorithm" => "is no RSA key".to_owned(),
            "TooSmall" => "has too few bits: RSA keys of 2048 to 4096 bits are taken".to_owned(),
            "TooLarge" => "has too many bits: RSA keys of 2048 to 4096 bits are taken".to_owned(),
            _ => "is damaged, or of a kind that is not taken".to_owned(),
        })
    }

    /// The signature of a message, with a source of chance.
    pub fn sign(&self, message: &[u8], chance: &dyn SecureRandom) -> Result<Vec<u8>, String> {
        let mut signature = vec![0; self.0.public().modulus_len()];
        self.0
            .sign(&RSA_PKCS1_SHA256, chance, message, &mut signature)
            .map_err(|_| "the key cannot sign".to_owned())?;
        Ok(signature)
    }
}

impl fmt::Debug for RsaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RsaKey({} bytes)", self.0.public().modulus_len())
    }
}

#[cfg(test)]
mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey},
    };

    use super::*;

    #[test]
    fn what_is_no_fit_key_is_refused_in_words() {
        for (pem, words) in [
            (include_str!("../tests/fixtures/keys/rsa-512.pem"), "too few bits"),
            (include_str!("../tests/fixtures/keys/ec-p256.pem"), "no RSA key"),
            (include_str!("../tests/fixtures/keys/ec-p256-sec1.pem"), "no RSA key"),
            (include_str!("../tests/fixtures/keys/rsa-2048-encrypted.pem"), "passphrase"),
            (include_str!("../tests/fixtures/keys/rsa-2048-public.pem"), "no private key"),
            ("", "no private key"),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "damaged"),
            ("-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----\n", "no private key"),
        ] {
            let error = RsaKey::from_pem(pem).unwrap_err();
            assert!(error.contains(words), "{error}: {pem}");
        }
    }

    #[test]
    fn both_forms_of_a_key_sign_the_same() {
        let chance = SystemRandom::new();
        let sign = |pem| RsaKey::from_pem(pem).unwrap().sign(b"message", &chance).unwrap();
        let signature = sign(include_str!("../tests/fixtures/keys/rsa-2048.pem"));
        assert_eq!(signature, sign(include_str!("../tests/fixtures/keys/rsa-2048-pkcs1.pem")));
        let public = include_bytes!("../tests/fixtures/keys/rsa-2048-public.der");
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public);
        public.verify(b"message", &signature).unwrap();
        assert!(public.verify(b"massage", &signature).is_err());
    }
}
