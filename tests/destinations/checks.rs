//! What the checks of settings let pass, and what they say of the commonest mistakes.

use dunmore_connectors::{
    destination::{Checks, ConnectorType, Setting, Settings},
    egress::EgressPolicy,
};
use secrecy::ExposeSecret;

#[test]
fn settings_take_a_number_for_a_text_and_a_list_only_for_a_list() {
    let checks = Checks { egress: &EgressPolicy::default() };
    let chat = ConnectorType::Telegram.field("chatId").unwrap();
    let Ok(Setting::Text(text)) = Settings::read(chat, &(-1_001_234_567_890_i64).into(), &checks)
    else {
        panic!("a number is a text")
    };
    assert_eq!(text.expose_secret(), "-1001234567890");
    let to = ConnectorType::Email.field("to").unwrap();
    for wrong in [serde_json::json!("a@b.example"), serde_json::json!([]), serde_json::json!([1])] {
        assert!(Settings::read(to, &wrong, &checks).is_err(), "{wrong}");
    }
}

#[test]
fn each_check_knows_the_commonest_mistakes() {
    use ConnectorType as T;
    let checks = Checks { egress: &EgressPolicy::default() };
    let cases: &[(T, &str, &str, &str)] = &[
        (T::Slack, "webhookUrl", "https://hooks.slack.com/triggers/T1/2/3", "Workflow Builder"),
        (
            T::Slack,
            "webhookUrl",
            "https://hooks.slack.com.evil.example/services/T1/B1/x",
            "must be on",
        ),
        (
            T::Discord,
            "webhookUrl",
            "https://discord.com/api/webhooks/12345678901234567/short",
            "must look like",
        ),
        (T::Email, "apiKey", "SG.abcdefgh", "re_"),
        (T::Email, "from", "Payments <nobody>", "is no email address"),
        (T::Email, "from", "a@b.example\r\nBcc: c@d.example", "must be an address"),
        (T::Telegram, "botToken", "0123456:abc", "BotFather"),
        (T::Telegram, "chatId", "my chat", "must be a chat"),
        (T::Teams, "webhookUrl", "https://x.webhook.office.com/webhookb2/1", "switched off"),
        (T::Teams, "webhookUrl", "https://a.logic.azure.com/workflows/1/triggers/x", "sig"),
        (T::Segment, "region", "de", "us"),
        (T::Segment, "region", "EU", "did you mean \"eu\"?"),
        (T::Opsgenie, "region", "EU", "did you mean \"eu\"?"),
        (T::Mixpanel, "region", "cn", "in"),
        (T::Mixpanel, "region", "IN", "did you mean \"in\"?"),
        (T::Pagerduty, "dedup", "endpoints", "did you mean \"endpoint\"?"),
        (T::Pagerduty, "resolve", "settle", "did you mean \"settled\"?"),
        (T::Quickbooks, "environment", "Sandbox", "did you mean \"sandbox\"?"),
        (T::Quickbooks, "itemId", "Hours", "a number such as 17"),
        (T::Telegram, "threadId", "general", "number of a topic"),
        (T::Telegram, "threadId", "0", "number of a topic"),
        (T::Telegram, "chatId", "@abc", "must be a chat"),
        (T::Slack, "webhookUrl", "https://hooks.slack.com/services/T1/B1/x/", "slash"),
        (T::Slack, "webhookUrl", "hooks.slack.com/services/T1/B1/x", "must begin with https://"),
        (T::N8n, "webhookUrl", "n8n.example.com/webhook/1", "must begin with https://"),
        (T::Salesforce, "instanceUrl", "acme.my.salesforce.com", "must begin with https://"),
        (T::Teams, "webhookUrl", "https://example.com/workflows/1", "*.environment.api."),
        (T::Ga4, "measurementId", "UA-12345", "G-"),
        (T::N8n, "webhookUrl", "https://n8n.example.com/webhook-test/1", "test URL"),
        (T::Make, "webhookUrl", "https://eu1.make.com/1/scenarios", "must look like"),
        (T::Zapier, "webhookUrl", "https://zapier.com/app", "must be on"),
        (T::Pagerduty, "routingKey", "short", "32"),
        (T::Datadog, "site", "datadog.com", "datadoghq.eu"),
        (T::Datadog, "site", "US5", "did you mean us5.datadoghq.com?"),
        (T::Datadog, "site", "eu", "did you mean datadoghq.eu?"),
        (T::Datadog, "site", "https://app.datadoghq.eu/", "did you mean datadoghq.eu?"),
        (T::Bigquery, "projectId", "My Project", "project id"),
        (T::Salesforce, "instanceUrl", "https://x.lightning.force.com", "my.salesforce.com"),
        (T::Salesforce, "instanceUrl", "https://na1.salesforce.com", "must be on"),
        (T::Quickbooks, "realmId", "12a", "digits"),
        (T::Xero, "tenantId", "tenant", "UUID"),
    ];
    for (kind, field, value, expected) in cases {
        let field = kind.field(field).unwrap();
        let error = Settings::read(field, &(*value).into(), &checks).err().unwrap_or_default();
        assert!(error.contains(expected), "{kind} {value}: {error:?}");
    }
}

#[test]
fn each_check_takes_what_is_right() {
    use ConnectorType as T;
    let teams = |cloud: &str| format!("https://default0.00.{cloud}/workflows/1/triggers/x?sig=x");
    let checks = Checks { egress: &EgressPolicy::default() };
    for (kind, field, value) in [
        (T::Datadog, "site", "app.datadoghq.eu"),
        (
            T::Discord,
            "webhookUrl",
            &*format!(
                "https://canary.discord.com/api/v10/webhooks/12345678901234567/{}?thread_id=1",
                "x".repeat(68)
            ),
        ),
        (
            T::Discord,
            "webhookUrl",
            &*format!(
                "https://ptb.discordapp.com/api/webhooks/12345678901234567/{}",
                "x".repeat(68)
            ),
        ),
        (
            T::Discord,
            "webhookUrl",
            &*format!(
                "https://canary.discordapp.com/api/webhooks/12345678901234567/{}",
                "x".repeat(68)
            ),
        ),
        (T::Slack, "webhookUrl", "https://hooks.slack-gov.com/services/T1/B1/x"),
        (T::Teams, "webhookUrl", &*teams("environment.api.powerplatform.com:443")),
        (T::Teams, "webhookUrl", &*teams("environment.api.gov.powerplatform.microsoft.us")),
        (T::Teams, "webhookUrl", &*teams("environment.api.high.powerplatform.microsoft.us")),
        (T::Teams, "webhookUrl", &*teams("environment.api.appsplatform.us")),
        (
            T::Teams,
            "webhookUrl",
            &*teams("environment.api.powerplatform.partner.microsoftonline.cn"),
        ),
        (T::Salesforce, "instanceUrl", "https://acme.my.sfcrmproducts.cn"),
        (T::Telegram, "threadId", "42"),
        (T::Telegram, "chatId", "@durov"),
        (T::Telegram, "chatId", "@news"),
        (T::Quickbooks, "taxCodeId", "NON"),
        (T::Salesforce, "instanceUrl", "https://acme--uat.sandbox.my.salesforce.com/"),
        (T::Bigquery, "projectId", "example.com:my-project"),
        (T::Email, "from", "payments@example.com"),
        (T::Telegram, "chatId", "@my_channel"),
    ] {
        let field = kind.field(field).unwrap();
        assert!(Settings::read(field, &value.into(), &checks).is_ok(), "{kind} {value}");
    }
}
