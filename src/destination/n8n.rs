//! n8n webhooks, self-hosted or in n8n's cloud: the event as it is.
//!
//! <https://docs.n8n.io/integrations/builtin/core-nodes/n8n-nodes-base.webhook/>

use http::HeaderName;

use super::{
    Category, Checks, Destination, Field, Item, Request, Response, Spec, judge_status, parse_url,
    signing,
    webhook::{self, Webhook},
};
use crate::delivery::{Reason, Verdict};

pub const SPEC: Spec = Spec {
    title: "n8n",
    category: Category::Automation,
    docs: "https://docs.n8n.io/integrations/builtin/core-nodes/n8n-nodes-base.webhook/",
    fields: &[
        Field::secret(
        "webhookUrl",
        "The production URL of a Webhook node (not the test URL).",
        "https://n8n.example.com/webhook/3f6c0c1e",
    )
    .checked(check_url),
        webhook::AUTH_FIELDS[0],
        webhook::AUTH_FIELDS[1],
        signing::FIELD,
    ],
    hidden: signing::HIDDEN,
    dedup: "none; header Idempotency-Key is sent for the workflow's own use",
    check: |settings, _| webhook::check_auth(settings),
    make: |settings, _| Ok(Box::new(N8n(Webhook::of(settings)?))),
    ..Spec::BASE
};

#[derive(Debug)]
struct N8n(Webhook);

fn check_url(value: &str, checks: &Checks<'_>) -> Result<(), String> {
    let url = parse_url(value)?;
    checks.egress.check_url(&url)?;
    if url.path_segments().is_some_and(|mut parts| parts.any(|part| part == "webhook-test")) {
        return Err("is the editor's test URL, which works for one call only: use the production \
                    URL (…/webhook/…)"
            .to_owned());
    }
    Ok(())
}

impl Destination for N8n {
    fn build(&self, item: &Item<'_>) -> Result<Request, Verdict> {
        let key = item.delivery_id.to_string();
        Ok(self.0.request(item)
            .header(HeaderName::from_static("idempotency-key"), key))
    }

    fn judge(&self, _: &Item<'_>, response: &Response) -> Verdict {
        match response.status {
            // The workflow is inactive, or n8n is starting: it often comes back.
            404 => Verdict::retry(Reason::NotReady, response.detail()),
            401 => Verdict::broken(Reason::Unauthorized, self.0.refused("the Webhook node", response)),
            // A proxy in front of it says this one too.
            403 => Verdict::doubtful(
                Reason::Unauthorized,
                self.0.refused("the Webhook node", response),
                response.retry_after(),
            ),
            _ => judge_status(response),
        }
    }
}
