//! As much of a browser as pages without scripts need: requests, cookies, forms.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use super::{
    TOKEN,
    markup::{Element, read},
};

/// The longest page.
const MAX_BYTES: usize = 100_000;

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    /// A header's value; its name in small letters.
    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value.as_str())
    }

    pub(crate) fn cookies(&self) -> Vec<&str> {
        let set = self.headers.iter().filter(|(key, _)| key == "set-cookie");
        set.map(|(_, value)| value.as_str()).collect()
    }

    /// The value of a field of a form, as it would be sent.
    pub(crate) fn field(&self, name: &str) -> String {
        let elements = read(&self.body);
        let has_name = |one: &&Element| one.attribute("name") == Some(name);
        let found = elements.iter().find(has_name);
        let found = found.unwrap_or_else(|| panic!("no field {name} in\n{}", self.body));
        found.attribute("value").unwrap_or_default().to_owned()
    }
}

/// A browser with its cookies.
pub(crate) struct Browser {
    at: SocketAddr,
    cookies: BTreeMap<String, String>,
}

impl Browser {
    pub(crate) fn new(at: SocketAddr) -> Self {
        Self { at, cookies: BTreeMap::new() }
    }

    /// One that has logged in.
    pub(crate) fn logged_in(at: SocketAddr) -> Self {
        let mut browser = Self::new(at);
        let form = browser.get("/console/login");
        let answer =
            browser.post("/console/login", &[("csrf", &form.field("csrf")), ("token", TOKEN)]);
        assert_eq!(answer.status, 303, "{}", answer.body);
        browser
    }

    /// Keeps a cookie that came another way.
    pub(crate) fn keep(&mut self, name: &str, value: &str) {
        self.cookies.insert(name.to_owned(), value.to_owned());
    }

    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, None)
    }

    /// A page that must be there, be well-formed, and be small.
    pub(crate) fn page(&mut self, path: &str) -> Answer {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        assert_eq!(answer.header("content-type"), "text/html; charset=utf-8", "{path}");
        assert!(answer.body.len() <= MAX_BYTES, "{path}: {} bytes", answer.body.len());
        read(&answer.body);
        answer
    }

    pub(crate) fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        let body = form.extend_pairs(fields).finish();
        self.send("POST", path, Some(&body))
    }

    /// Sends the form of a page that leads to this path: all its fields as they are but for these.
    pub(crate) fn submit(
        &mut self,
        page: &Answer,
        action: &str,
        change: &[(&str, &str)],
    ) -> Answer {
        let elements = read(&page.body);
        let begin = elements.iter().position(|one| {
            one.name == "form"
                && one.attribute("action") == Some(action)
                && one.attribute("method") == Some("post")
        });
        let begin = begin.unwrap_or_else(|| panic!("no form to {action} in\n{}", page.body));
        let inside =
            elements[begin + 1..].iter().take_while(|one| one.depth > elements[begin].depth);
        let mut fields: Vec<(String, String)> = Vec::new();
        for one in inside.filter(|one| one.name == "input") {
            let is_tick = one.attribute("type") == Some("checkbox");
            let (Some(name), value) = (one.attribute("name"), one.attribute("value")) else {
                continue;
            };
            if !is_tick || one.attribute("checked").is_some() {
                fields.push((name.to_owned(), value.unwrap_or_default().to_owned()));
            }
        }
        for (name, value) in change {
            fields.retain(|(key, _)| key != name);
            fields.push(((*name).to_owned(), (*value).to_owned()));
        }
        let fields: Vec<(&str, &str)> =
            fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.post(action, &fields)
    }

    fn send(&mut self, method: &str, path: &str, body: Option<&str>) -> Answer {
        let cookies = self.cookies.iter().map(|(name, value)| format!("{name}={value}"));
        let cookies: Vec<String> = cookies.collect();
        let cookies = match cookies.as_slice() {
            [] => String::new(),
            some => format!("Cookie: {}\r\n", some.join("; ")),
        };
        let content = body.map_or_else(String::new, |body| {
            let length = body.len();
            format!(
                "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n"
            )
        });
        let mut stream = TcpStream::connect(self.at).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{cookies}{content}\r\n{}",
            body.unwrap_or_default()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.map(|line| line.split_once(": ").unwrap());
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        let answer = Answer { status, headers: headers.collect(), body: body.to_owned() };
        for cookie in answer.cookies() {
            let (pair, attributes) = cookie.split_once(';').unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            if attributes.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        answer
    }
}
