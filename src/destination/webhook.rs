//! Generic webhooks: the event as it is, with headers that name it.

use http::HeaderName;
use url::Url;

use super::{Item, Request};

const DELIVERY_ID: HeaderName = HeaderName::from_static("dunmore-delivery-id");
const EVENT_ID: HeaderName = HeaderName::from_static("dunmore-event-id");
const EVENT_TYPE: HeaderName = HeaderName::from_static("dunmore-event-type");
const ATTEMPT: HeaderName = HeaderName::from_static("dunmore-attempt");

/// A POST of the event's own JSON text.
pub fn event_request(url: &Url, item: &Item<'_>) -> Request {
    let mut id = uuid::Uuid::encode_buffer();
    let id = item.delivery_id.uuid().hyphenated().encode_lower(&mut id);
    let request = Request::post_json(url.clone(), item.event.json.clone())
        .header(DELIVERY_ID, id)
        .header(EVENT_ID, item.event.id.as_str())
        .fixed_header(EVENT_TYPE, item.event.kind.as_str());
    match item.attempt {
        1 => request.fixed_header(ATTEMPT, "1"),
        attempt => request.header(ATTEMPT, attempt.to_string()),
    }
}
