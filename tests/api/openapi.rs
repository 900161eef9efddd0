//! The API's description: a change of it is a change for every client.

use dunmore_connectors::{api::openapi::document, destination::ConnectorType};
use serde_json::Value;

#[test]
fn the_document_changes_only_on_purpose() {
    insta::assert_json_snapshot!("openapi", document());
}

#[test]
fn every_reference_leads_somewhere_and_every_type_is_described() {
    fn check(value: &Value, document: &Value) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(path)) = fields.get("$ref") {
                    let pointer = path.trim_start_matches('#');
                    assert!(document.pointer(pointer).is_some(), "{path}");
                }
                fields.values().for_each(|value| check(value, document));
            }
            Value::Array(items) => items.iter().for_each(|item| check(item, document)),
            _ => {}
        }
    }
    let document = document();
    check(&document, &document);
    for kind in ConnectorType::ALL {
        let config = &document["components"]["schemas"][format!("{kind}Config")];
        let fields = config["properties"].as_object().unwrap();
        assert_eq!(fields.len(), kind.spec().fields.len(), "{kind}");
    }
}
