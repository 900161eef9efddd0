//! Zapier catch hooks: the event as it is.
//!
//! A switched-off Zap still answers 200 as far as is known, so "delivered" means "accepted".
//! Limits: <https://help.zapier.com/hc/en-us/articles/8496181445261>.

use super::{
    Category, Checks, Destination, Field, Item, Rate, Request, Response, Spec, is_word,
    judge_status, signing, url_on, webhook::Webhook,
};
use crate::delivery::{Reason, Verdict};

pub const SPEC: Spec = Spec {
    title: "Zapier",
    category: Category::Automation,
    docs: "https://help.zapier.com/hc/en-us/articles/8496288690317",
    fields: &[
        Field::secret(
        "webhookUrl",
        "The URL of a \"Webhooks by Zapier\" catch hook.",
        "https://hooks.zapier.com/hooks/catch/123456/abcdef/",
    )
    .checked(check_url),
        signing::FIELD,
    ],
    hidden: signing::HIDDEN,
    // 30 requests per second for one hook.
    rate: Some(Rate { per_second: 20.0, burst: 10 }),
    dedup: "none; the event's id is in the body",
    make: |settings, _| Ok(Box::new(Zapier(Webhook::of(settings)?))),
    ..Spec::BASE
};

#[derive(Debug)]
struct Zapier(Webhook);

fn check_url(value: &str, checks: &Checks<'_>) -> Result<(), String> {
    let url = url_on(value, checks, &["hooks.zapier.com"])?;
    let path = url.path().strip_prefix("/hooks/catch/").or(url.path().strip_prefix("/hooks/standard/"));
    match path {
        Some(rest) if is_word(rest, "_-/", 1..=200) => Ok(()),
        _ => Err("must look like https://hooks.zapier.com/hooks/catch/123456/abcdef/".to_owned()),
    }
}

impl Destination for Zapier {
    fn build(&self, item: &Item<'_>) -> Result<Request, Verdict> {
        Ok(self.0.request(item))
    }

    fn judge(&self, _: &Item<'_>, response: &Response) -> Verdict {
        match response.status {
            // A malformed hook address; the vendor knows no other reason for it.
            400 => Verdict::broken(Reason::Gone, response.detail()),
            _ => judge_status(response),
        }
    }
}
