//! Who may call, as of now: the tokens of the settings, and those of a file that is read again
//! when it changes.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::RwLock;

use crate::{
    config::{ApiSettings, JwtSettings, read_tokens},
    tokens::{Caller, Tokens},
};

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The largest file, in bytes: some thousand tokens.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// All callers that are let in.
#[derive(Debug)]
pub struct Callers {
    settings: Tokens,
    file: Option<Watched>,
}

#[derive(Debug)]
struct Watched {
    path: PathBuf,
    now: RwLock<Now>,
}

#[derive(Debug)]
struct Now {
    tokens: Arc<Tokens>,
    /// What the file held when it was read last, or could not be read.
    seen: Result<String, String>,
    /// Why the tokens are older than the file, if they are.
    warning: Option<String>,
}

impl Callers {
    /// Those of the settings and of the file that they name, which must be right at the start.
    pub fn new(settings: &ApiSettings) -> Result<Self, String> {
        let watched = |path: &PathBuf| -> Result<Watched, String> {
            let text = read(path)?;
            let now = Now { tokens: tokens(path, &text)?, seen: Ok(text), warning: None };
            Ok(Watched { path: path.clone(), now: RwLock::new(now) })
        };
        Ok(Self {
            settings: Tokens::new(&settings.tokens, &settings.jwt)?,
            file: settings.tokens_file.as_ref().map(watched).transpose()?,
        })
    }

    /// Whether there can be no caller, now or later.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty() && self.file.is_none()
    }

    /// Who has this token.
    #[must_use]
    pub fn caller(&self, token: &str) -> Option<Caller> {
        // Both are asked, whichever has it: the time that this takes tells nothing.
        let of_file = self.file.as_ref().map(|file| Arc::clone(&file.now.read().tokens));
        let of_file = of_file.and_then(|tokens| tokens.caller(token));
        self.settings.caller(token).or(of_file)
    }

    /// Why the tokens are older than the file, if they are.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        self.file.as_ref()?.now.read().warning.clone()
    }

    /// Looks at the file again. One that is wrong leaves the tokens as they were. Blocks.
    pub fn look_again(&self) {
        let Some(file) = &self.file else { return };
        let seen = read(&file.path);
        if seen == file.now.read().seen {
            return;
        }
        let read = seen.as_deref().map_err(Clone::clone);
        let read = read.and_then(|text| tokens(&file.path, text));
        let mut now = file.now.write();
        now.seen = seen;
        match read {
            Ok(tokens) => {
                tracing::info!(file = %file.path.display(), "api.tokens_file was read again");
                now.tokens = tokens;
                now.warning = None;
            }
            Err(wrong) => {
                now.warning = Some(format!("{wrong}; the tokens that it held before stay valid"));
            }
        }
    }

    /// Looks at the file each second, for as long as the service uses it.
    pub async fn keep_up(callers: Weak<Self>) {
        while let Some(callers) = callers.upgrade() {
            if callers.file.is_none() {
                return;
            }
            // A panic in there leaves the tokens as they are; the next look comes in a second.
            let _ = tokio::task::spawn_blocking(move || callers.look_again()).await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    let read = || {
        let mut text = String::new();
        let count = File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
        if count as u64 > MAX_FILE_BYTES {
            let words = format!("it has more than {MAX_FILE_BYTES} bytes");
            return Err(io::Error::other(words));
        }
        Ok(text)
    };
    read().map_err(|error| format!("cannot read api.tokens_file {}: {error}", path.display()))
}

fn tokens(path: &Path, text: &str) -> Result<Arc<Tokens>, String> {
    let entries = read_tokens(path, text);
    let entries = entries.map_err(|error| format!("api.tokens_file: {error}"))?;
    let tokens = Tokens::new(&entries, &JwtSettings::default());
    tokens.map(Arc::new).map_err(|error| format!("{error}, in {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::digest_of;

    fn entry(name: &str) -> String {
        let sha256 = digest_of(name);
        format!("[[api.tokens]]\nname = \"{name}\"\nsha256 = \"{sha256}\"\nprojects = [\"*\"]\n")
    }

    #[test]
    fn the_file_is_read_again_and_a_wrong_one_changes_nothing() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("tokens.toml");
        let settings = ApiSettings { tokens_file: Some(path.clone()), ..ApiSettings::default() };
        let missing = Callers::new(&settings).unwrap_err();
        assert!(missing.contains("tokens.toml"), "{missing}");
        for wrong in ["", "tokens = []", "[[api.tokens]]\nname = \"a\"", "[api]\ntoken = 1"] {
            std::fs::write(&path, wrong).unwrap();
            let error = Callers::new(&settings).unwrap_err();
            assert!(error.contains("api.tokens") && error.contains("tokens.toml"), "{error}");
        }
        std::fs::write(&path, entry("one")).unwrap();
        let callers = Callers::new(&settings).unwrap();
        let knows = |token: &str| callers.caller(token).is_some();
        assert_eq!((knows("one"), knows("two"), callers.warning()), (true, false, None));

        std::fs::write(&path, entry("one") + &entry("two")).unwrap();
        assert!(!knows("two"));
        callers.look_again();
        assert_eq!((knows("one"), knows("two"), callers.warning()), (true, true, None));

        for wrong in [
            String::new(),
            entry("three").replace("sha256 = \"", "sha256 = \"x"),
            "x".repeat(2_000_000),
        ] {
            std::fs::write(&path, &wrong).unwrap();
            callers.look_again();
            let warning = callers.warning().unwrap();
            assert!(warning.contains("tokens.toml") && warning.contains("stay valid"), "{warning}");
            assert!(knows("one") && knows("two") && !knows("three"));
        }
        std::fs::remove_file(&path).unwrap();
        callers.look_again();
        assert!(knows("one") && callers.warning().unwrap().contains("cannot read"));

        // An operator that means "no caller" removes the setting.
        std::fs::write(&path, "api.tokens = []").unwrap();
        callers.look_again();
        assert_eq!((knows("one"), knows("two"), callers.warning()), (false, false, None));
    }
}
