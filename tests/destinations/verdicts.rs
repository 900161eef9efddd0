//! What each service's documented answers mean. The answers come from the vendors' pages; the
//! verdicts are written as a person would say them.

use std::collections::BTreeMap;

use dunmore_connectors::{
    delivery::Verdict,
    destination::{ConnectorType, ConnectorType as T, Item},
    event::{EventType, EventTypes},
};

use crate::{
    events::{item, plain},
    kit::{make, response},
};

/// `retry rate_limited 1.5s`, `dead rejected`, `moved chatId=-100`.
pub fn words(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Delivered => "delivered".to_owned(),
        Verdict::Retry { reason, after: None, .. } => format!("retry {reason}"),
        Verdict::Retry { reason, after: Some(after), .. } => {
            format!("retry {reason} {}s", after.as_secs_f64())
        }
        Verdict::Dead { reason, .. } => format!("dead {reason}"),
        Verdict::Broken { reason, .. } => format!("broken {reason}"),
        Verdict::Moved { field, value } => format!("moved {field}={value}"),
    }
}

type Case =
    (ConnectorType, u16, &'static [(&'static str, &'static str)], &'static str, &'static str);

/// The event that a type surely sends.
fn event_type(kind: ConnectorType) -> EventType {
    match kind {
        T::Quickbooks | T::Xero => EventType::RevenueDailySummary,
        _ => EventType::PaymentFailed,
    }
}

#[rustfmt::skip]
const SINGLE: &[Case] = &[
    (T::Slack, 200, &[], "ok", "delivered"),
    (T::Slack, 200, &[], "<html>maintenance</html>", "retry unexpected_response"),
    (T::Slack, 400, &[], "invalid_payload", "dead rejected"),
    (T::Slack, 400, &[], "invalid_token", "broken unauthorized"),
    (T::Slack, 403, &[], "invalid_token", "broken unauthorized"),
    (T::Slack, 403, &[], "account_inactive", "broken unauthorized"),
    (T::Slack, 403, &[], "action_prohibited", "broken forbidden"),
    (T::Slack, 404, &[], "channel_not_found", "broken gone"),
    (T::Slack, 404, &[], "no_service", "broken gone"),
    (T::Slack, 410, &[], "channel_is_archived", "broken gone"),
    (T::Slack, 400, &[], "msg_blocks_too_long", "dead rejected"),
    (T::Slack, 500, &[], "rollup_error", "retry server_error"),
    (T::Slack, 429, &[("retry-after", "30")], "rate_limited", "retry rate_limited 30s"),
    (T::Slack, 503, &[], "", "retry server_error"),

    (T::Discord, 200, &[], r#"{"id":"123","channel_id":"9","content":""}"#, "delivered"),
    (T::Discord, 204, &[], "", "delivered"),
    (T::Discord, 200, &[], "not json", "retry unexpected_response"),
    (T::Discord, 404, &[], r#"{"message":"Unknown Webhook","code":10015}"#, "broken gone"),
    (T::Discord, 400, &[], r#"{"message":"Thread is archived","code":50083}"#, "broken gone"),
    (T::Discord, 401, &[], r#"{"message":"Invalid Webhook Token","code":50027}"#, "broken unauthorized"),
    (T::Discord, 403, &[], r#"{"message":"internal network error","code":40333}"#, "retry not_ready"),
    (T::Discord, 400, &[], r#"{"message":"Invalid Form Body","code":50035,"errors":{"embeds":{"0":{"title":{"_errors":[{"code":"BASE_TYPE_MAX_LENGTH","message":"Must be 256 or fewer in length."}]}}}}}"#, "dead rejected"),
    (T::Discord, 400, &[], r#"{"message":"Cannot send an empty message","code":50006}"#, "dead rejected"),
    (T::Discord, 400, &[], r#"{"message":"Request entity too large","code":40005}"#, "dead payload_too_large"),
    (T::Discord, 400, &[], r#"{"message":"Webhooks posted to forum channels must have a thread_name or thread_id","code":220001}"#, "broken prerequisite_missing"),
    (T::Discord, 429, &[("retry-after", "1"), ("x-ratelimit-scope", "user")], r#"{"message":"You are being rate limited.","retry_after":0.529,"global":false}"#, "retry rate_limited 0.529s"),
    (T::Discord, 429, &[("retry-after", "65")], "error code: 1015", "retry rate_limited 65s"),
    (T::Discord, 400, &[], r#"{"message":"The write action you are performing on the channel has hit the write rate limit.","code":20028,"retry_after":2.5}"#, "retry rate_limited 2.5s"),
    (T::Discord, 502, &[], "Bad Gateway", "retry server_error"),

    (T::Email, 200, &[], r#"{"id":"49a3999c-0ce1-4ea6-ab68-afcd6dc2e794"}"#, "delivered"),
    (T::Email, 200, &[], "hello", "retry unexpected_response"),
    (T::Email, 401, &[], r#"{"statusCode":401,"name":"missing_api_key","message":"Missing API Key"}"#, "broken unauthorized"),
    (T::Email, 401, &[], r#"{"statusCode":401,"name":"restricted_api_key","message":"This API key is restricted to only send emails"}"#, "broken unauthorized"),
    (T::Email, 403, &[], r#"{"statusCode":403,"name":"invalid_api_key","message":"API key is invalid"}"#, "broken unauthorized"),
    (T::Email, 403, &[], r#"{"statusCode":403,"name":"validation_error","message":"The example.com domain is not verified."}"#, "broken forbidden"),
    (T::Email, 422, &[], r#"{"statusCode":422,"name":"validation_error","message":"Invalid `to` field."}"#, "broken prerequisite_missing"),
    (T::Email, 422, &[], r#"{"statusCode":422,"name":"invalid_from_address","message":"Invalid `from` field. The email address needs to follow the `email@example.com` format."}"#, "broken prerequisite_missing"),
    (T::Email, 422, &[], r#"{"statusCode":422,"name":"validation_error","message":"Invalid `tags` field."}"#, "dead rejected"),
    (T::Email, 400, &[], r#"{"statusCode":400,"name":"invalid_idempotency_key","message":"…"}"#, "dead rejected"),
    (T::Email, 409, &[], r#"{"statusCode":409,"name":"invalid_idempotent_request","message":"…"}"#, "dead rejected"),
    (T::Email, 409, &[], r#"{"statusCode":409,"name":"concurrent_idempotent_requests","message":"…"}"#, "retry not_ready"),
    (T::Email, 429, &[("retry-after", "1")], r#"{"statusCode":429,"name":"rate_limit_exceeded","message":"Too many requests."}"#, "retry rate_limited 1s"),
    (T::Email, 429, &[], r#"{"statusCode":429,"name":"daily_quota_exceeded","message":"…"}"#, "retry quota_exceeded 3600s"),
    (T::Email, 500, &[], r#"{"statusCode":500,"name":"application_error","message":"…"}"#, "retry server_error"),

    (T::Telegram, 200, &[], r#"{"ok":true,"result":{"message_id":7}}"#, "delivered"),
    (T::Telegram, 200, &[], r#"{"ok":false}"#, "retry unexpected_response"),
    (T::Telegram, 401, &[], r#"{"ok":false,"error_code":401,"description":"Unauthorized"}"#, "broken unauthorized"),
    (T::Telegram, 404, &[], r#"{"ok":false,"error_code":404,"description":"Not Found"}"#, "broken unauthorized"),
    (T::Telegram, 403, &[], r#"{"ok":false,"error_code":403,"description":"Forbidden: bot was blocked by the user"}"#, "broken forbidden"),
    (T::Telegram, 400, &[], r#"{"ok":false,"error_code":400,"description":"Bad Request: chat not found"}"#, "broken gone"),
    (T::Telegram, 400, &[], r#"{"ok":false,"error_code":400,"description":"Bad Request: not enough rights to send text messages to the chat"}"#, "broken forbidden"),
    (T::Telegram, 400, &[], r#"{"ok":false,"error_code":400,"description":"Bad Request: group chat was upgraded to a supergroup chat","parameters":{"migrate_to_chat_id":-1001234567890}}"#, "moved chatId=-1001234567890"),
    (T::Telegram, 400, &[], r#"{"ok":false,"error_code":400,"description":"Bad Request: TOPIC_CLOSED"}"#, "broken gone"),
    (T::Telegram, 400, &[], r#"{"ok":false,"error_code":400,"description":"Bad Request: TOPIC_DELETED"}"#, "broken gone"),
    (T::Telegram, 400, &[], r#"{"ok":false,"error_code":400,"description":"Bad Request: message thread not found"}"#, "broken gone"),
    (T::Telegram, 400, &[], r#"{"ok":false,"error_code":400,"description":"Bad Request: CHAT_ADMIN_REQUIRED"}"#, "broken forbidden"),
    (T::Telegram, 400, &[], r#"{"ok":false,"error_code":400,"description":"Bad Request: can't parse entities: Unsupported start tag"}"#, "dead rejected"),
    (T::Telegram, 400, &[], r#"{"ok":false,"error_code":400,"description":"Bad Request: message is too long"}"#, "dead rejected"),
    (T::Telegram, 429, &[("retry-after", "35")], r#"{"ok":false,"error_code":429,"description":"Too Many Requests: retry after 35","parameters":{"retry_after":35}}"#, "retry rate_limited 35s"),
    (T::Telegram, 502, &[], r#"{"ok":false,"error_code":502,"description":"Bad Gateway"}"#, "retry server_error"),

    (T::Teams, 202, &[], "", "delivered"),
    (T::Teams, 200, &[], "1", "delivered"),
    (T::Teams, 200, &[], "Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 429 with ContextId …", "retry rate_limited"),
    (T::Teams, 401, &[], r#"{"error":{"code":"DirectApiAuthorizationRequired","message":"The request must be authenticated only by Shared Access scheme."}}"#, "broken unauthorized"),
    (T::Teams, 403, &[], r#"{"error":{"code":"AuthorizationFailed","message":"…"}}"#, "broken forbidden"),
    (T::Teams, 404, &[], r#"{"error":{"code":"WorkflowNotFound","message":"The workflow could not be found."}}"#, "broken gone"),
    (T::Teams, 400, &[], r#"{"error":{"code":"WorkflowTriggerIsNotEnabled","message":"The trigger is not enabled."}}"#, "broken gone"),
    (T::Teams, 400, &[], r#"{"error":{"code":"TriggerInputSchemaMismatch","message":"…"}}"#, "dead rejected"),
    (T::Teams, 410, &[], "Connector configuration not found", "broken gone"),
    (T::Teams, 413, &[], "", "dead payload_too_large"),
    (T::Teams, 429, &[("retry-after", "12")], "", "retry rate_limited 12s"),
    (T::Teams, 504, &[], "", "retry server_error"),

    (T::Segment, 200, &[], r#"{"success":true}"#, "delivered"),
    (T::Segment, 200, &[], "", "retry unexpected_response"),
    (T::Segment, 200, &[], r#"{"success":false}"#, "retry unexpected_response"),
    (T::Segment, 400, &[], r#"{"success":false,"message":"malformed JSON"}"#, "dead rejected"),
    (T::Segment, 413, &[], "", "dead payload_too_large"),
    (T::Segment, 429, &[("retry-after", "5"), ("x-ratelimit-reset", "9")], "", "retry rate_limited 5s"),
    (T::Segment, 429, &[("x-ratelimit-reset", "9")], "", "retry rate_limited 9s"),
    (T::Segment, 401, &[], "", "broken unauthorized"),
    (T::Segment, 500, &[], "", "retry server_error"),
    (T::Segment, 503, &[("retry-after", "Fri, 20 Nov 2026 10:18:31 GMT")], "", "retry server_error 120s"),

    (T::Mixpanel, 200, &[], r#"{"code":200,"num_records_imported":1,"status":"OK"}"#, "delivered"),
    (T::Mixpanel, 200, &[], "", "retry unexpected_response"),
    (T::Mixpanel, 400, &[], r#"{"code":400,"error":"some data points in the request failed validation","failed_records":[{"index":0,"$insert_id":"x","field":"properties.time","message":"'properties.time' is invalid: must be specified as seconds since epoch"}],"num_records_imported":0,"status":"Bad Request"}"#, "dead rejected"),
    (T::Mixpanel, 400, &[], r#"{"code":400,"error":"request body is not valid JSON","status":"Bad Request"}"#, "dead rejected"),
    (T::Mixpanel, 401, &[], r#"{"code":401,"error":"Invalid credentials","status":"Unauthorized"}"#, "broken unauthorized"),
    (T::Mixpanel, 413, &[], r#"{"code":413,"error":"request exceeds max limit of 10485760 bytes","status":"Request Entity Too Large"}"#, "dead payload_too_large"),
    (T::Mixpanel, 429, &[], r#"{"code":429,"error":"Project exceeded rate limits.","status":"Too Many Requests"}"#, "retry rate_limited"),
    (T::Mixpanel, 429, &[("retry-after", "60")], "", "retry rate_limited 60s"),
    (T::Mixpanel, 502, &[], "", "retry server_error"),
    (T::Mixpanel, 503, &[], "", "retry server_error"),

    (T::Amplitude, 200, &[], r#"{"code":200,"events_ingested":1,"payload_size_bytes":50,"server_upload_time":1396381378123}"#, "delivered"),
    (T::Amplitude, 200, &[], "", "retry unexpected_response"),
    (T::Amplitude, 400, &[], r#"{"code":400,"error":"Invalid API key: 0123456789abcdef"}"#, "broken unauthorized"),
    (T::Amplitude, 400, &[], r#"{"code":400,"error":"Request missing required field","missing_field":"event_type"}"#, "dead rejected"),
    (T::Amplitude, 400, &[], r#"{"code":400,"error":"Invalid field values on some events","events_with_invalid_fields":{"time":[0]}}"#, "dead rejected"),
    (T::Amplitude, 400, &[], r#"{"code":400,"error":"…","silenced_events":[0],"silenced_devices":["x"]}"#, "dead rejected"),
    (T::Amplitude, 403, &[], "<html>Forbidden</html>", "retry forbidden"),
    (T::Amplitude, 413, &[], r#"{"code":413,"error":"Payload too large"}"#, "dead payload_too_large"),
    (T::Amplitude, 429, &[], r#"{"code":429,"error":"Too many requests for some devices and users","eps_threshold":30,"throttled_users":{"x":31},"throttled_events":[0]}"#, "retry rate_limited 30s"),
    (T::Amplitude, 500, &[], "", "retry server_error"),
    (T::Amplitude, 503, &[], "", "retry server_error"),

    (T::Ga4, 204, &[], "", "delivered"),
    (T::Ga4, 200, &[], "GIF89a", "delivered"),
    (T::Ga4, 400, &[], "", "dead rejected"),
    (T::Ga4, 403, &[], "", "broken forbidden"),
    (T::Ga4, 404, &[], "", "broken gone"),
    (T::Ga4, 413, &[], "", "dead payload_too_large"),
    (T::Ga4, 429, &[("retry-after", "10")], "", "retry rate_limited 10s"),
    (T::Ga4, 500, &[], "", "retry server_error"),
    (T::Ga4, 503, &[], "", "retry server_error"),

    (T::Zapier, 200, &[], r#"{"attempt":"x","id":"x","request_id":"x","status":"success"}"#, "delivered"),
    (T::Zapier, 200, &[], "", "delivered"),
    (T::Zapier, 400, &[], "malformed", "broken gone"),
    (T::Zapier, 404, &[], "", "broken gone"),
    (T::Zapier, 410, &[], "", "broken gone"),
    (T::Zapier, 413, &[], "", "dead payload_too_large"),
    (T::Zapier, 429, &[("retry-after", "60")], "", "retry rate_limited 60s"),
    (T::Zapier, 500, &[], "", "retry server_error"),
    (T::Zapier, 504, &[], "", "retry server_error"),

    (T::N8n, 200, &[], r#"{"message":"Workflow was started"}"#, "delivered"),
    (T::N8n, 201, &[], "anything", "delivered"),
    (T::N8n, 404, &[], r#"{"code":404,"message":"The requested webhook \"POST x\" is not registered.","hint":"The workflow must be active"}"#, "retry not_ready"),
    (T::N8n, 401, &[], "Authorization is required!", "broken unauthorized"),
    (T::N8n, 403, &[], "Authorization data is wrong!", "broken unauthorized"),
    (T::N8n, 413, &[], "", "dead payload_too_large"),
    (T::N8n, 429, &[], "", "retry rate_limited"),
    (T::N8n, 500, &[], r#"{"message":"Workflow could not be started!"}"#, "retry server_error"),
    (T::N8n, 502, &[], "", "retry server_error"),

    (T::Make, 200, &[], "Accepted", "delivered"),
    (T::Make, 201, &[], "{}", "delivered"),
    (T::Make, 410, &[], "There is no scenario listening for this webhook.", "broken gone"),
    (T::Make, 400, &[], "Queue is full.", "retry quota_exceeded"),
    (T::Make, 400, &[], "Invalid JSON", "dead rejected"),
    (T::Make, 401, &[], "", "broken unauthorized"),
    (T::Make, 404, &[], "", "broken gone"),
    (T::Make, 429, &[("retry-after", "10")], "", "retry rate_limited 10s"),
    (T::Make, 500, &[], "Scenario failed to complete.", "retry server_error"),

    (T::Pagerduty, 202, &[], r#"{"status":"success","message":"Event processed","dedup_key":"x"}"#, "delivered"),
    (T::Pagerduty, 202, &[], "", "retry unexpected_response"),
    (T::Pagerduty, 400, &[], r#"{"status":"invalid event","message":"Event object is invalid","errors":["Invalid routing key"]}"#, "broken unauthorized"),
    (T::Pagerduty, 400, &[], r#"{"status":"invalid event","message":"Event object is invalid","errors":["Length of 'routing_key' is incorrect (should be 32 characters)"]}"#, "broken unauthorized"),
    (T::Pagerduty, 400, &[], r#"{"status":"invalid event","message":"Event object is invalid","errors":["'payload.severity' is invalid"]}"#, "dead rejected"),
    (T::Pagerduty, 413, &[], "", "dead payload_too_large"),
    (T::Pagerduty, 429, &[], r#"{"status":"throttle exceeded","message":"Requests for this service are arriving too quickly."}"#, "retry rate_limited 30s"),
    (T::Pagerduty, 429, &[("retry-after", "90")], "", "retry rate_limited 90s"),
    (T::Pagerduty, 500, &[], "", "retry server_error"),

    (T::Datadog, 202, &[], r#"{"status":"ok","event":{"id":1}}"#, "delivered"),
    (T::Datadog, 202, &[], "", "retry unexpected_response"),
    (T::Datadog, 400, &[], r#"{"errors":["Text is too long"]}"#, "dead rejected"),
    (T::Datadog, 403, &[], r#"{"errors":["Forbidden"]}"#, "broken unauthorized"),
    (T::Datadog, 408, &[], "", "retry not_ready"),
    (T::Datadog, 413, &[], "", "dead payload_too_large"),
    (T::Datadog, 429, &[("x-ratelimit-limit", "250000"), ("x-ratelimit-period", "60"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "17"), ("x-ratelimit-name", "events")], "", "retry rate_limited 17s"),
    (T::Datadog, 500, &[], "", "retry server_error"),
    (T::Datadog, 503, &[], "", "retry server_error"),

    (T::Opsgenie, 202, &[], r#"{"result":"Request will be processed","took":0.3,"requestId":"43a29c5c"}"#, "delivered"),
    (T::Opsgenie, 202, &[], "", "retry unexpected_response"),
    // Perhaps the account has moved to the successor: setup finds out, and says broken if not.
    (T::Opsgenie, 401, &[], r#"{"message":"Could not authenticate","took":0.0,"requestId":"x"}"#, "retry prerequisite_missing"),
    (T::Opsgenie, 403, &[], r#"{"message":"You are not authorized to perform this operation","took":0.0}"#, "retry prerequisite_missing"),
    (T::Opsgenie, 422, &[], r#"{"message":"Key format is not valid!","took":0.0,"requestId":"x"}"#, "retry prerequisite_missing"),
    (T::Opsgenie, 402, &[], r#"{"message":"Your plan does not allow this"}"#, "broken forbidden"),
    (T::Opsgenie, 422, &[], r#"{"message":"Request body is not processable. Please check the errors.","errors":{"message":"Message can not be empty."}}"#, "dead rejected"),
    (T::Opsgenie, 429, &[("x-ratelimit-state", "THROTTLED"), ("x-ratelimit-reason", "ACCOUNT"), ("x-ratelimit-period-in-sec", "60")], r#"{"message":"You are making too many requests!"}"#, "retry rate_limited 60s"),
    (T::Opsgenie, 500, &[], "", "retry server_error"),
    (T::Opsgenie, 503, &[], "", "retry server_error"),

    (T::Bigquery, 200, &[], r#"{"kind":"bigquery#tableDataInsertAllResponse"}"#, "delivered"),
    (T::Bigquery, 200, &[], "garbage", "retry unexpected_response"),
    (T::Bigquery, 200, &[], r#"{"insertErrors":[{"index":0,"errors":[{"reason":"invalid","location":"amount","message":"Cannot convert value"}]}]}"#, "dead rejected"),
    (T::Bigquery, 200, &[], r#"{"insertErrors":[{"index":0,"errors":[{"reason":"invalid","location":"txhash","message":"no such field: txHash."}]}]}"#, "retry prerequisite_missing"),
    (T::Bigquery, 200, &[], r#"{"insertErrors":[{"index":0,"errors":[{"reason":"timeout","message":""}]}]}"#, "retry server_error"),
    (T::Bigquery, 401, &[], r#"{"error":{"code":401,"status":"UNAUTHENTICATED","errors":[{"reason":"authError"}]}}"#, "broken unauthorized"),
    (T::Bigquery, 403, &[], r#"{"error":{"code":403,"errors":[{"reason":"accessDenied"}]}}"#, "broken forbidden"),
    (T::Bigquery, 403, &[], r#"{"error":{"code":403,"errors":[{"reason":"quotaExceeded"}]}}"#, "retry quota_exceeded"),
    (T::Bigquery, 403, &[], r#"{"error":{"code":403,"errors":[{"reason":"rateLimitExceeded"}]}}"#, "retry rate_limited"),
    (T::Bigquery, 404, &[], r#"{"error":{"code":404,"message":"Not found: Table p:d.t","errors":[{"reason":"notFound"}]}}"#, "broken gone"),
    (T::Bigquery, 400, &[], r#"{"error":{"code":400,"errors":[{"reason":"invalid"}]}}"#, "dead rejected"),
    (T::Bigquery, 413, &[], "", "dead payload_too_large"),
    (T::Bigquery, 503, &[], r#"{"error":{"code":503,"errors":[{"reason":"backendError"}]}}"#, "retry server_error"),

    (T::Hubspot, 200, &[], r#"{"status":"COMPLETE","results":[{"id":"1","new":true}]}"#, "delivered"),
    (T::Hubspot, 200, &[], "garbage", "retry unexpected_response"),
    (T::Hubspot, 400, &[], r#"{"status":"error","category":"VALIDATION_ERROR","message":"Property values were not valid: [{\"isValid\":false,\"error\":\"PROPERTY_DOESNT_EXIST\",\"name\":\"dunmore_wallet\"}]"}"#, "retry prerequisite_missing"),
    (T::Hubspot, 400, &[], r#"{"status":"error","category":"VALIDATION_ERROR","message":"Invalid input JSON"}"#, "dead rejected"),
    (T::Hubspot, 400, &[], r#"{"status":"error","category":"VALIDATION_ERROR","message":"Required property 'phone' is missing for CONTACT"}"#, "broken prerequisite_missing"),
    (T::Hubspot, 400, &[], r#"{"status":"error","category":"VALIDATION_ERROR","message":"One or more validation errors","errors":[{"message":"bad","code":"MISSING_REQUIRED_PROPERTY"}]}"#, "broken prerequisite_missing"),
    (T::Hubspot, 401, &[], r#"{"status":"error","category":"INVALID_AUTHENTICATION","message":"Authentication credentials not found."}"#, "broken unauthorized"),
    (T::Hubspot, 401, &[], r#"{"status":"error","category":"EXPIRED_AUTHENTICATION","message":"The OAuth token used to make this call expired"}"#, "broken unauthorized"),
    (T::Hubspot, 403, &[], r#"{"status":"error","category":"MISSING_SCOPES","message":"This app hasn't been granted all required scopes"}"#, "broken forbidden"),
    (T::Hubspot, 409, &[], r#"{"status":"error","category":"CONFLICT","message":"…"}"#, "retry not_ready"),
    (T::Hubspot, 423, &[], "", "retry not_ready"),
    (T::Hubspot, 477, &[("retry-after", "3600")], "", "retry not_ready 3600s"),
    (T::Hubspot, 429, &[], r#"{"status":"error","errorType":"RATE_LIMIT","policyName":"TEN_SECONDLY_ROLLING"}"#, "retry rate_limited 10s"),
    (T::Hubspot, 429, &[], r#"{"status":"error","errorType":"RATE_LIMIT","policyName":"DAILY"}"#, "retry quota_exceeded 3600s"),
    (T::Hubspot, 502, &[], "", "retry server_error"),

    (T::Salesforce, 200, &[], r#"[{"id":"00T000000000001","success":true,"errors":[]}]"#, "delivered"),
    (T::Salesforce, 200, &[], "[]", "retry unexpected_response"),
    (T::Salesforce, 200, &[], r#"[{"success":false,"errors":[{"statusCode":"REQUIRED_FIELD_MISSING","message":"Required fields are missing: [Team__c]","fields":["Team__c"]}]}]"#, "broken prerequisite_missing"),
    (T::Salesforce, 200, &[], r#"[{"success":false,"errors":[{"statusCode":"FIELD_CUSTOM_VALIDATION_EXCEPTION","message":"no","fields":[]}]}]"#, "dead rejected"),
    (T::Salesforce, 200, &[], r#"[{"success":false,"errors":[{"statusCode":"INVALID_FIELD","message":"Dunmore_Delivery_Id__c is not an External ID field","fields":[]}]}]"#, "broken prerequisite_missing"),
    (T::Salesforce, 400, &[], r#"[{"message":"Field name provided, Dunmore_Delivery_Id__c is not an External ID or indexed field for Task","errorCode":"INVALID_FIELD"}]"#, "broken prerequisite_missing"),
    (T::Salesforce, 200, &[], r#"[{"success":false,"errors":[{"statusCode":"UNABLE_TO_LOCK_ROW","message":"…"}]}]"#, "retry not_ready"),
    (T::Salesforce, 200, &[], r#"[{"success":false,"errors":[{"statusCode":"STORAGE_LIMIT_EXCEEDED","message":"…"}]}]"#, "broken quota_exceeded"),
    (T::Salesforce, 200, &[], r#"[{"success":false,"errors":[{"statusCode":"DUPLICATE_VALUE","message":"duplicate value found"}]}]"#, "delivered"),
    (T::Salesforce, 401, &[], r#"[{"message":"Session expired or invalid","errorCode":"INVALID_SESSION_ID"}]"#, "broken unauthorized"),
    (T::Salesforce, 403, &[], r#"[{"message":"TotalRequests Limit exceeded.","errorCode":"REQUEST_LIMIT_EXCEEDED"}]"#, "retry quota_exceeded 3600s"),
    (T::Salesforce, 403, &[], r#"[{"message":"The REST API is not enabled for this Organization.","errorCode":"API_DISABLED_FOR_ORG"}]"#, "broken forbidden"),
    (T::Salesforce, 404, &[], r#"[{"message":"The requested resource does not exist","errorCode":"NOT_FOUND"}]"#, "broken gone"),
    (T::Salesforce, 500, &[], r#"[{"message":"An unexpected error occurred","errorCode":"UNKNOWN_EXCEPTION"}]"#, "retry server_error"),
    (T::Salesforce, 503, &[], r#"[{"message":"Server is unavailable","errorCode":"SERVER_UNAVAILABLE"}]"#, "retry server_error"),

    (T::Quickbooks, 200, &[], r#"{"SalesReceipt":{"Id":"11","TotalAmt":1234.57},"time":"2026-11-20T02:00:00-08:00"}"#, "delivered"),
    (T::Quickbooks, 200, &[], r#"{"SalesReceipt":{"Id":"11","TotalAmt":0}}"#, "dead unexpected_response"),
    (T::Quickbooks, 200, &[], "garbage", "retry unexpected_response"),
    (T::Quickbooks, 200, &[], r#"{"Fault":{"Error":[{"Message":"Business Validation Error","Detail":"…","code":"6000"}],"type":"ValidationFault"}}"#, "broken prerequisite_missing"),
    (T::Quickbooks, 400, &[], r#"{"Fault":{"Error":[{"Message":"A business validation error has occurred","Detail":"Business Validation Error: Make sure all your transactions have a GST rate before you save.","code":"6000"}],"type":"ValidationFault"}}"#, "broken prerequisite_missing"),
    (T::Quickbooks, 400, &[], r#"{"Fault":{"Error":[{"Message":"Invalid Reference Id","Detail":"Invalid Reference Id : CurrencyRef","code":"2500","element":"CurrencyRef"}],"type":"ValidationFault"}}"#, "broken prerequisite_missing"),
    (T::Quickbooks, 400, &[], r#"{"Fault":{"Error":[{"Message":"Invalid Reference Id","Detail":"Invalid Reference Id : Line.SalesItemLineDetail.TaxCodeRef","code":"2500","element":"Line.SalesItemLineDetail.TaxCodeRef"}],"type":"ValidationFault"}}"#, "broken prerequisite_missing"),
    (T::Quickbooks, 400, &[], r#"{"Fault":{"Error":[{"Message":"Invalid Reference Id","Detail":"…","code":"2500","element":"Line.SalesItemLineDetail.ItemRef"}],"type":"ValidationFault"}}"#, "retry prerequisite_missing"),
    (T::Quickbooks, 200, &[], r#"{"SalesReceipt":{"Id":"11","TotalAmt":1234.57,"CurrencyRef":{"value":"EUR"}}}"#, "dead unexpected_response"),
    (T::Quickbooks, 400, &[], r#"{"Fault":{"Error":[{"Message":"Invalid Reference Id","Detail":"Invalid Reference Id : Item elements id 17 not found","code":"2500"}],"type":"ValidationFault"}}"#, "retry prerequisite_missing"),
    (T::Quickbooks, 400, &[], r#"{"Fault":{"Error":[{"Message":"Object Not Found","Detail":"Something you're trying to use has been made inactive","code":"610"}],"type":"ValidationFault"}}"#, "retry prerequisite_missing"),
    (T::Quickbooks, 400, &[], r#"{"Fault":{"Error":[{"Message":"Required param missing","Detail":"…","code":"2020"}],"type":"ValidationFault"}}"#, "dead rejected"),
    (T::Quickbooks, 400, &[], r#"{"Fault":{"Error":[{"Message":"Account Period Closed","Detail":"…","code":"6210"}],"type":"ValidationFault"}}"#, "dead rejected"),
    (T::Quickbooks, 401, &[], r#"{"Fault":{"Error":[{"Message":"message=AuthenticationFailed; errorCode=003200; statusCode=401","Detail":"Token expired","code":"3200"}],"type":"AUTHENTICATION"}}"#, "broken unauthorized"),
    (T::Quickbooks, 403, &[], r#"{"Fault":{"Error":[{"Message":"Authorization Failure","code":"120"}],"type":"AuthorizationFault"}}"#, "broken forbidden"),
    (T::Quickbooks, 400, &[], r#"{"Fault":{"Error":[{"Message":"Subscription period has ended","code":"6190"}],"type":"ValidationFault"}}"#, "broken forbidden"),
    (T::Quickbooks, 429, &[], r#"{"Fault":{"Error":[{"Message":"message=ThrottleExceeded; errorCode=003001; statusCode=429","code":"3001"}],"type":"THROTTLE"}}"#, "retry rate_limited 60s"),
    (T::Quickbooks, 503, &[], "", "retry server_error"),

    (T::Xero, 200, &[], r#"{"Status":"OK","Invoices":[{"InvoiceID":"x","Status":"DRAFT","StatusAttributeString":"OK"}]}"#, "delivered"),
    (T::Xero, 200, &[], r#"{"Invoices":[{"HasErrors":true,"StatusAttributeString":"ERROR","ValidationErrors":[{"Message":"The document date cannot be before the period lock date"}]}]}"#, "dead rejected"),
    (T::Xero, 200, &[], r#"{"Invoices":[{"InvoiceID":"x","StatusAttributeString":"OK","CurrencyCode":"USD","Total":1234.57}]}"#, "delivered"),
    (T::Xero, 200, &[], r#"{"Invoices":[{"InvoiceID":"x","StatusAttributeString":"OK","CurrencyCode":"NZD","Total":1234.57}]}"#, "dead unexpected_response"),
    (T::Xero, 200, &[], r#"{"Invoices":[{"InvoiceID":"x","StatusAttributeString":"OK","CurrencyCode":"USD","Total":1419.75}]}"#, "dead unexpected_response"),
    (T::Xero, 200, &[], r#"{"Invoices":[{"HasErrors":true,"ValidationErrors":[{"Message":"Organisation is not subscribed to currency USD"}]}]}"#, "broken prerequisite_missing"),
    (T::Xero, 200, &[], r#"{"Invoices":[{"HasErrors":true,"ValidationErrors":[{"Message":"Account code '999' is not a valid code for this document."}]}]}"#, "broken prerequisite_missing"),
    (T::Xero, 400, &[], r#"{"Type":"ValidationException","Message":"The Idempotency-Key was used with another request"}"#, "retry not_ready"),
    (T::Xero, 200, &[], r#"{"Invoices":[{"StatusAttributeString":"ERROR","ValidationErrors":[{"Message":"Invoice # must be unique."}]}]}"#, "delivered"),
    (T::Xero, 200, &[], "garbage", "retry unexpected_response"),
    (T::Xero, 400, &[], r#"{"ErrorNumber":10,"Type":"ValidationException","Message":"A validation exception occurred","Elements":[{"ValidationErrors":[{"Message":"Invoice # must be unique."}]}]}"#, "delivered"),
    (T::Xero, 400, &[], r#"{"ErrorNumber":14,"Type":"PostDataInvalidException","Message":"JSON for post data was invalid"}"#, "dead rejected"),
    (T::Xero, 401, &[], r#"{"Type":null,"Title":"Unauthorized","Status":401,"Detail":"TokenExpired: token expired at 11/20/2026 10:00:00"}"#, "broken unauthorized"),
    (T::Xero, 403, &[], r#"{"Title":"Forbidden","Status":403,"Detail":"AuthenticationUnsuccessful"}"#, "broken forbidden"),
    (T::Xero, 401, &[], r#"{"Title":"Unauthorized","Status":401,"Detail":"AuthenticationUnsuccessful"}"#, "broken forbidden"),
    (T::Xero, 412, &[], "", "retry not_ready"),
    (T::Xero, 429, &[("retry-after", "17"), ("x-rate-limit-problem", "minute")], "", "retry rate_limited 17s"),
    (T::Xero, 429, &[("x-rate-limit-problem", "day")], "", "retry quota_exceeded 3600s"),
    (T::Xero, 429, &[("retry-after", "40000"), ("x-rate-limit-problem", "day")], "", "retry quota_exceeded 40000s"),
    (T::Xero, 503, &[], r#"{"Type":null,"Title":"The Organisation is offline"}"#, "retry server_error"),
];

#[test]
fn documented_answers_mean_what_the_vendors_say() {
    let events = plain();
    let mut wrong = Vec::new();
    for (kind, status, headers, body, expected) in SINGLE {
        let wanted = event_type(*kind);
        let event = &events[wanted.index()].1;
        let destination = make(kind.spec(), &EventTypes::Some(vec![wanted]));
        let answer = response(*status, headers, *body);
        let verdict = words(&destination.judge(&item(event, ""), &answer));
        if verdict != *expected {
            wrong.push(format!("{kind} {status} {body}: {verdict}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_type_has_at_least_eight_documented_answers() {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (kind, ..) in SINGLE {
        *counts.entry(kind.as_str()).or_default() += 1;
    }
    for kind in ConnectorType::ALL {
        let count = counts.get(kind.as_str()).copied().unwrap_or_default();
        assert!(count >= 8, "{kind}: {count}");
    }
}

type BatchCase = (ConnectorType, u16, &'static str, &'static [&'static str]);

/// `ID0` to `ID2` stand for the delivery ids of the three items.
#[rustfmt::skip]
const BATCHES: &[BatchCase] = &[
    (T::Discord, 200, r#"{"id":"1"}"#, &["delivered", "delivered", "delivered"]),
    (T::Discord, 400, r#"{"code":50035,"errors":{"embeds":{"1":{"title":{}}}}}"#, &["retry rejected", "dead rejected", "retry rejected"]),
    (T::Discord, 400, r#"{"code":50035,"errors":{"content":{}}}"#, &["retry rejected", "retry rejected", "retry rejected"]),
    (T::Discord, 404, r#"{"code":10015}"#, &["broken gone", "broken gone", "broken gone"]),
    (T::Segment, 200, r#"{"success":true}"#, &["delivered", "delivered", "delivered"]),
    (T::Segment, 400, "too large", &["retry rejected", "retry rejected", "retry rejected"]),
    (T::Mixpanel, 400, r#"{"failed_records":[{"index":1,"field":"time","message":"bad"}]}"#, &["delivered", "dead rejected", "delivered"]),
    (T::Mixpanel, 413, "", &["retry payload_too_large", "retry payload_too_large", "retry payload_too_large"]),
    (T::Amplitude, 400, r#"{"error":"Invalid","events_with_missing_fields":{"event_type":[0]},"events_with_invalid_id_lengths":{"user_id":[2]}}"#, &["dead rejected", "retry rejected", "dead rejected"]),
    (T::Amplitude, 429, r#"{"throttled_events":[1]}"#, &["retry rate_limited", "retry rate_limited 30s", "retry rate_limited"]),
    (T::Amplitude, 400, r#"{"error":"Invalid API key"}"#, &["broken unauthorized", "broken unauthorized", "broken unauthorized"]),
    (T::Bigquery, 200, r#"{"insertErrors":[{"index":0,"errors":[{"reason":"stopped"}]},{"index":1,"errors":[{"reason":"invalid"}]}]}"#, &["retry rejected", "dead rejected", "delivered"]),
    (T::Bigquery, 200, r#"{"insertErrors":[{"index":2,"errors":[{"reason":"backendError"}]},{"index":99,"errors":[]}]}"#, &["delivered", "delivered", "retry server_error"]),
    (T::Hubspot, 207, r#"{"status":"COMPLETE","numErrors":1,"results":[{"objectWriteTraceId":"ID0"}],"errors":[{"status":"error","category":"VALIDATION_ERROR","message":"bad","context":{"objectWriteTraceId":["ID1"]}}]}"#, &["delivered", "dead rejected", "retry unexpected_response"]),
    (T::Hubspot, 207, r#"{"results":[{"objectWriteTraceId":"ID0"},{"objectWriteTraceId":"ID2"}],"errors":[{"category":"RATE_LIMITS","context":{"objectWriteTraceId":["ID1"]}}]}"#, &["delivered", "retry rate_limited", "delivered"]),
    (T::Hubspot, 400, r#"{"category":"VALIDATION_ERROR"}"#, &["retry rejected", "retry rejected", "retry rejected"]),
    (T::Salesforce, 200, r#"[{"success":true},{"success":false,"errors":[{"statusCode":"STRING_TOO_LONG","message":""}]},{"success":false,"errors":[{"statusCode":"UNABLE_TO_LOCK_ROW"}]}]"#, &["delivered", "dead rejected", "retry not_ready"]),
    (T::Salesforce, 200, r#"[{"success":true}]"#, &["retry unexpected_response", "retry unexpected_response", "retry unexpected_response"]),
    (T::Xero, 200, r#"{"Invoices":[{"StatusAttributeString":"OK"},{"StatusAttributeString":"ERROR","ValidationErrors":[{"Message":"Invoice # must be unique"}]},{"HasErrors":true,"ValidationErrors":[{"Message":"Date is locked"}]}]}"#, &["delivered", "delivered", "dead rejected"]),
    (T::Xero, 400, r#"{"Elements":[{"InvoiceNumber":"DUNMORE-ID1","ValidationErrors":[{"Message":"Date is locked"}]}]}"#, &["retry unexpected_response", "dead rejected", "retry unexpected_response"]),
    (T::Ga4, 204, "", &["delivered", "delivered", "delivered"]),
    (T::Ga4, 500, "", &["retry server_error", "retry server_error", "retry server_error"]),
];

#[test]
fn each_item_of_a_batch_gets_its_own_verdict() {
    let mut wrong = Vec::new();
    for (kind, status, body, expected) in BATCHES {
        let wanted = event_type(*kind);
        let events: Vec<_> = (0..3).map(|index| renamed(wanted, index)).collect();
        let items: Vec<Item<'_>> = events.iter().map(|event| item(event, "")).collect();
        let mut body = (*body).to_owned();
        for (index, item) in items.iter().enumerate() {
            body = body.replace(&format!("ID{index}"), &item.delivery_id.to_string());
        }
        let destination = make(kind.spec(), &EventTypes::Some(vec![wanted]));
        let batching = destination.batching().unwrap();
        let verdicts = batching.judge(&items, &response(*status, &[], body.clone()));
        let verdicts: Vec<String> = verdicts.iter().map(words).collect();
        if verdicts != *expected {
            wrong.push(format!("{kind} {status} {body}: {verdicts:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The plain event of a type, of another id and another customer.
fn renamed(kind: EventType, index: usize) -> dunmore_connectors::event::Event {
    let plain = &plain()[kind.index()].1;
    let mut json: serde_json::Value = serde_json::from_slice(&plain.json).unwrap();
    if let Some(customer) = json["data"].get_mut("customerId") {
        *customer = format!("0x{index}").into();
    }
    crate::events::event(&format!("evt_{index}"), kind.as_str(), &json["data"])
}

/// An answer too long to be kept whole cannot be read item by item: the batch is split until it
/// can.
#[test]
fn an_answer_that_was_cut_splits_the_batch() {
    for (kind, status) in [(T::Bigquery, 200), (T::Hubspot, 207), (T::Xero, 200)] {
        let wanted = event_type(kind);
        let events: Vec<_> = (0..2).map(|index| renamed(wanted, index)).collect();
        let items: Vec<Item<'_>> = events.iter().map(|event| item(event, "")).collect();
        let destination = make(kind.spec(), &EventTypes::Some(vec![wanted]));
        let body = format!("{{\"insertErrors\":[{}", " ".repeat(64 * 1024));
        let verdicts = destination.batching().unwrap().judge(&items, &response(status, &[], body));
        assert!(verdicts.iter().all(Verdict::asks_to_split), "{kind}: {verdicts:?}");
    }
}

/// Two events of one customer become one contact, and share its fate.
#[test]
fn events_of_one_customer_become_one_contact() {
    let events = plain();
    let (settled, first) = (&events[1].1, &events[3].1);
    let items = [item(settled, ""), item(first, "")];
    let destination = make(T::Hubspot.spec(), &EventTypes::All);
    let batching = destination.batching().unwrap();
    let request = batching.build(&items).unwrap();
    let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(body["inputs"].as_array().unwrap().len(), 1);
    let properties = &body["inputs"][0]["properties"];
    assert_eq!(properties["dunmore_last_amount"], "1.250000");
    assert_eq!(properties["dunmore_last_event"], "customer.first_payment");
    assert_eq!(properties["dunmore_first_payment_at"], "2026-11-20T10:15:30.123Z");
    let id = items[0].delivery_id;
    let answer = format!(
        r#"{{"results":[],"errors":[{{"category":"VALIDATION_ERROR","context":{{"objectWriteTraceId":["{id}"]}}}}]}}"#
    );
    let verdicts = batching.judge(&items, &response(207, &[], answer));
    assert_eq!(verdicts.iter().map(words).collect::<Vec<_>>(), ["dead rejected", "dead rejected"]);
}

#[test]
fn only_google_analytics_cannot_bear_an_unanswered_event_again() {
    for &kind in ConnectorType::ALL {
        let destination = make(kind.spec(), &EventTypes::All);
        for (name, event) in plain() {
            let bears = destination.repeats_unanswered(&item(&event, ""));
            let is_counted = kind == ConnectorType::Ga4 && name != "payment.settled";
            assert_eq!(bears, !is_counted, "{kind} {name}");
        }
    }
}
