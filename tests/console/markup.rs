//! Reads a page strictly: whatever is not what the console itself writes, such as a tag that came
//! from an event, is a failure.

/// Every element that the console writes.
const ELEMENTS: &[&str] = &[
    "html", "head", "meta", "title", "link", "script", "body", "a", "header", "form", "label",
    "input", "button", "nav", "ul", "ol", "li", "main", "h1", "h2", "h3", "p", "footer", "div",
    "span", "b", "br", "small", "code", "pre", "details", "summary", "table", "caption", "thead",
    "tbody", "tr", "th", "td", "dl", "dt", "dd", "time", "q", "select", "option", "meter",
    "progress",
];
/// Those without an end.
const VOID: &[&str] = &["meta", "link", "input", "br"];
/// Every attribute that it writes: none that runs anything.
const ATTRIBUTES: &[&str] = &[
    "lang",
    "charset",
    "name",
    "content",
    "rel",
    "href",
    "src",
    "defer",
    "class",
    "id",
    "role",
    "for",
    "type",
    "maxlength",
    "autocomplete",
    "spellcheck",
    "placeholder",
    "method",
    "action",
    "value",
    "aria-label",
    "aria-current",
    "aria-describedby",
    "tabindex",
    "title",
    "datetime",
    "data-live",
    "scope",
    "checked",
    "selected",
    "min",
    "max",
    "open",
    "required",
    "autofocus",
];

/// An element as it begins.
#[derive(Debug)]
pub(crate) struct Element {
    pub(crate) name: String,
    pub(crate) depth: usize,
    attributes: Vec<(String, String)>,
}

impl Element {
    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// The elements of a document in their order. Fails when one is not closed, or not the console's.
#[track_caller]
pub(crate) fn read(page: &str) -> Vec<Element> {
    let mut rest = page.strip_prefix("<!DOCTYPE html>").expect("a document begins with its type");
    let (mut open, mut elements, mut ids) = (Vec::<String>::new(), Vec::new(), Vec::new());
    while let Some(at) = rest.find('<') {
        assert!(!rest[..at].contains('>'), "a > in text: {}", &rest[..at]);
        let (tag, after) = rest[at + 1..].split_once('>').expect("a tag ends");
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "closed in its order: {tag}");
            continue;
        }
        let (name, text) = tag.split_once(' ').unwrap_or((tag, ""));
        assert!(ELEMENTS.contains(&name), "not the console's: <{tag}>");
        let attributes = attributes(text);
        for (key, value) in &attributes {
            assert!(ATTRIBUTES.contains(&key.as_str()), "not the console's: <{tag}>");
            if matches!(key.as_str(), "href" | "src" | "action") {
                let is_ours =
                    value.starts_with("/console") || ["#main", "data:,"].contains(&value.as_str());
                assert!(is_ours, "leads elsewhere: <{tag}>");
            }
            if key == "id" {
                assert!(!ids.contains(value), "twice: {value}");
                ids.push(value.clone());
            }
        }
        if name == "script" {
            assert!(rest.starts_with("</script>"), "a script inline");
        }
        elements.push(Element { name: name.to_owned(), depth: open.len(), attributes });
        if !VOID.contains(&name) {
            open.push(name.to_owned());
        }
    }
    assert!(open.is_empty(), "not closed: {open:?}");
    // Who uses a keyboard or hears a page needs a name for each field, and one heading.
    let labelled: Vec<&str> = elements.iter().filter_map(|one| one.attribute("for")).collect();
    for one in elements.iter().filter(|one| matches!(one.name.as_str(), "input" | "select")) {
        if one.attribute("type") != Some("hidden") {
            let id = one.attribute("id").unwrap_or_default();
            assert!(labelled.contains(&id), "without a label: {one:?}");
        }
    }
    assert_eq!(elements.iter().filter(|one| one.name == "h1").count(), 1);
    elements
}

fn attributes(mut text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while !text.is_empty() {
        let end = text.find(['=', ' ']).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        let (value, rest) = match rest.strip_prefix("=\"") {
            Some(rest) => rest.split_once('"').expect("a value ends"),
            None => ("", rest),
        };
        found.push((name.to_owned(), plain(value)));
        text = rest.trim_start();
    }
    found
}

/// A text without its escapes.
pub(crate) fn plain(text: &str) -> String {
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
    text.replace("&amp;", "&")
}
