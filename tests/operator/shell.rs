//! Completions and man pages, made without a broker.

use super::support::serve::bare_command;

#[test]
fn completions_and_man_pages_name_every_command() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = bare_command(&["completions", shell]).output().unwrap();
        assert!(output.status.success(), "{shell}: {output:?}");
        let script = String::from_utf8(output.stdout).unwrap();
        for word in ["set-tier", "redrive", "history", "suspended"] {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
    }
    let unknown = bare_command(&["completions", "tcsh"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2));

    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    let output = bare_command(&["man", pages.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let page = std::fs::read_to_string(pages.join("dunmore-connector-resume.1")).unwrap();
    assert!(page.contains("http_401") && page.contains(".TH"), "{page}");
    assert!(pages.join("dunmore.1").exists());
    // A file stands where the folder should be.
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let refused = bare_command(&["man", file.to_str().unwrap()]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
}
