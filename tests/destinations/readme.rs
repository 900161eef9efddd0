//! The table of destinations in docs/DESTINATIONS.md is the one that the declarations make.

use std::{fs, path::Path};

use dunmore_connectors::destination::docs;

const BEGIN: &str = "<!-- destinations:begin -->\n";
const END: &str = "<!-- destinations:end -->";

/// Fails when the document is behind; with `UPDATE_DOCS=1` it is brought up to date instead.
#[test]
fn the_document_has_the_table_of_all_types() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/DESTINATIONS.md");
    let document = fs::read_to_string(&path).unwrap();
    let (before, rest) = document.split_once(BEGIN).unwrap();
    let (table, after) = rest.split_once(END).unwrap();
    if table == docs::table() {
        return;
    }
    let is_update = std::env::var("UPDATE_DOCS").is_ok_and(|value| value == "1");
    assert!(is_update, "docs/DESTINATIONS.md has another table: run this test with UPDATE_DOCS=1");
    fs::write(path, format!("{before}{BEGIN}{}{END}{after}", docs::table())).unwrap();
}
