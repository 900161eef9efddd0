//! Make custom webhooks: the event as it is. <https://help.make.com/webhooks>

use super::{
    Category, Checks, Destination, Field, Item, Rate, Request, Response, Spec, is_word,
    judge_status, signing, url_on,
    webhook::{self, Webhook},
};
use crate::delivery::{Reason, Verdict};

pub const SPEC: Spec = Spec {
    title: "Make",
    category: Category::Automation,
    docs: "https://help.make.com/webhooks",
    fields: &[
        Field::secret(
        "webhookUrl",
        "The address of a custom webhook.",
        "https://hook.eu1.make.com/abcdefghijklmnopqrstuvwxyz012345",
    )
    .checked(check_url),
        webhook::AUTH_FIELDS[0],
        webhook::AUTH_FIELDS[1],
        signing::FIELD,
    ],
    hidden: signing::HIDDEN,
    // 300 requests in 10 seconds for one hook.
    rate: Some(Rate { per_second: 27.0, burst: 30 }),
    dedup: "none; the event's id is in the body",
    check: |settings, _| webhook::check_auth(settings),
    make: |settings, _| Ok(Box::new(Make(Webhook::of(settings)?))),
    ..Spec::BASE
};

#[derive(Debug)]
struct Make(Webhook);

fn check_url(value: &str, checks: &Checks<'_>) -> Result<(), String> {
    let url = url_on(value, checks, &[".make.com", ".make.celonis.com", "hook.integromat.com"])?;
    let host = url.host_str().unwrap_or_default();
    let token = url.path().trim_matches('/');
    if host.starts_with("hook.") && is_word(token, "_-", 8..=128) {
        Ok(())
    } else {
        Err("must look like https://hook.eu1.make.com/abcdefghij…".to_owned())
    }
}

impl Destination for Make {
    fn build(&self, item: &Item<'_>) -> Result<Request, Verdict> {
        Ok(self.0.request(item))
    }

    fn judge(&self, _: &Item<'_>, response: &Response) -> Verdict {
        let text = response.text().to_ascii_lowercase();
        match response.status {
            // A plain 400 may be bad JSON, but also a full queue: the text decides.
            400 if text.contains("queue is full") => {
                Verdict::retry(Reason::QuotaExceeded, response.detail())
            }
            401 => Verdict::broken(Reason::Unauthorized, self.0.refused("the webhook", response)),
            // A proxy in front of it says this one too.
            403 => Verdict::doubtful(
                Reason::Unauthorized,
                self.0.refused("the webhook", response),
                response.retry_after(),
            ),
            _ => judge_status(response),
        }
    }
}
