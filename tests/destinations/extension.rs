//! The twenty-first destination: what a new service costs is this declaration and one line in the
//! list. It is written with what is public, and it passes the same rules.

use dunmore_connectors::{
    delivery::Verdict,
    destination::{
        Category, Destination, Field, Item, Request, Response, SecretUrl, Spec, judge_status,
        url_on,
    },
    event::EventTypes,
};

use crate::kit::{check_declaration, check_requests};

const SPEC: Spec = Spec {
    title: "Carrier pigeon",
    category: Category::Communication,
    docs: "https://www.rfc-editor.org/rfc/rfc1149",
    fields: &[Field::secret("webhookUrl", "The loft.", "https://loft.example/coo/1234")
        .checked(|value, checks| url_on(value, checks, &["loft.example"]).map(|_| ()))],
    becomes: |_| "a scroll",
    make: |settings, _| Ok(Box::new(Pigeon { loft: settings.webhook_url("webhookUrl")? })),
    ..Spec::BASE
};

#[derive(Debug)]
struct Pigeon {
    loft: SecretUrl,
}

impl Destination for Pigeon {
    fn build(&self, item: &Item<'_>) -> Result<Request, Verdict> {
        Ok(Request::post_json(self.loft.0.clone(), item.event.json.clone()))
    }

    fn judge(&self, _: &Item<'_>, response: &Response) -> Verdict {
        judge_status(response)
    }
}

#[test]
fn a_new_destination_is_one_declaration() {
    check_declaration(&SPEC);
    check_requests("pigeon", &SPEC, &EventTypes::All);
}
