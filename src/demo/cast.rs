//! Who plays: the sample projects, their connectors, and how the third party behind each behaves.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::{
    connector::Tier,
    destination::ConnectorType,
    event::{EventType, EventTypes},
    id::{ConnectorId, ConnectorKey, IdError, ProjectId},
};

/// How a third party answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// It takes everything, after this time.
    Healthy(Duration),
    /// It takes everything, but is slow.
    Slow(Duration),
    /// It answers its first calls with 500 and is well afterwards.
    Recovers {
        /// So many calls.
        failures: u64,
    },
    /// It answers every call with 500.
    Fails,
    /// It says that there is no such webhook any more.
    Gone,
}

impl Manner {
    /// In a few words, for the tables.
    pub fn words(self) -> String {
        match self {
            Self::Healthy(delay) => format!("healthy, {} ms", delay.as_millis()),
            Self::Slow(delay) => format!("slow, {} ms", delay.as_millis()),
            Self::Recovers { failures } => format!("500 for {failures} calls"),
            Self::Fails => "500 always".to_owned(),
            Self::Gone => "gone".to_owned(),
        }
    }
}

/// How many events a project has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Size {
    /// The more events the demo has, the more this project has.
    Large,
    /// Few, however many the others have: a slow or dead third party would otherwise decide how
    /// long the demo takes.
    Small,
}

/// A sample project.
#[derive(Debug)]
pub struct SampleProject {
    /// Its id.
    pub id: &'static str,
    /// What it pays for.
    pub tier: Tier,
    /// How many events it has.
    pub size: Size,
}

/// A sample connector and the third party behind it.
#[derive(Debug)]
pub struct Part {
    /// Its id.
    pub connector: &'static str,
    /// Its project.
    pub project: &'static str,
    /// Its type.
    pub kind: ConnectorType,
    /// The path of its webhook.
    pub path: &'static str,
    /// The event types that it wants; none stands for all.
    pub event_types: &'static [EventType],
    /// How its third party answers.
    pub manner: Manner,
}

/// The projects.
pub const PROJECTS: &[SampleProject] = &[
    SampleProject { id: "proj_weather", tier: Tier::Business, size: Size::Large },
    SampleProject { id: "proj_maps", tier: Tier::Enterprise, size: Size::Large },
    SampleProject { id: "proj_search", tier: Tier::Pro, size: Size::Small },
    SampleProject { id: "proj_news", tier: Tier::Pro, size: Size::Small },
    SampleProject { id: "proj_images", tier: Tier::Pro, size: Size::Small },
    SampleProject { id: "proj_prices", tier: Tier::Business, size: Size::Small },
];

const fn healthy(millis: u64) -> Manner {
    Manner::Healthy(Duration::from_millis(millis))
}

/// As many calls as open a circuit: it closes again at the first probe.
const FAILURES: u64 = 5;

/// The connectors.
pub const PARTS: &[Part] = &[
    Part {
        connector: "weather-zapier",
        project: "proj_weather",
        kind: ConnectorType::Zapier,
        path: "/hooks/catch/1001/weather/",
        event_types: &[],
        manner: healthy(4),
    },
    Part {
        connector: "weather-slack",
        project: "proj_weather",
        kind: ConnectorType::Slack,
        path: "/services/T0000WEATHER/B0000WEATHER/hJ3kXw2sample",
        event_types: &[EventType::PaymentFailed, EventType::RevenueDailySummary],
        manner: healthy(12),
    },
    Part {
        connector: "maps-make",
        project: "proj_maps",
        kind: ConnectorType::Make,
        path: "/mapsabcdefghijklmnop",
        event_types: &[
            EventType::PaymentSettled,
            EventType::CustomerFirstPayment,
            EventType::CustomerMilestone,
        ],
        manner: healthy(6),
    },
    Part {
        connector: "maps-n8n",
        project: "proj_maps",
        kind: ConnectorType::N8n,
        path: "/webhook/maps-3f6c0c1e",
        event_types: &[
            EventType::PaymentVerified,
            EventType::PaymentSettled,
            EventType::PaymentFailed,
        ],
        manner: healthy(3),
    },
    Part {
        connector: "search-n8n",
        project: "proj_search",
        kind: ConnectorType::N8n,
        path: "/webhook/search-91d2aa07",
        event_types: &[],
        manner: Manner::Slow(Duration::from_millis(700)),
    },
    Part {
        connector: "search-zapier",
        project: "proj_search",
        kind: ConnectorType::Zapier,
        path: "/hooks/catch/1002/search/",
        event_types: &[],
        manner: healthy(4),
    },
    Part {
        connector: "news-zapier",
        project: "proj_news",
        kind: ConnectorType::Zapier,
        path: "/hooks/catch/1003/news/",
        event_types: &[],
        manner: Manner::Recovers { failures: FAILURES },
    },
    Part {
        connector: "images-n8n",
        project: "proj_images",
        kind: ConnectorType::N8n,
        path: "/webhook/images-5b77e410",
        event_types: &[EventType::PaymentSettled, EventType::PaymentFailed],
        manner: Manner::Fails,
    },
    Part {
        connector: "images-slack",
        project: "proj_images",
        kind: ConnectorType::Slack,
        path: "/services/T0000IMAGES/B0000IMAGES/pQ8mZt5sample",
        event_types: &[EventType::PaymentSettled, EventType::PaymentFailed],
        manner: healthy(12),
    },
    Part {
        connector: "prices-make",
        project: "proj_prices",
        kind: ConnectorType::Make,
        path: "/pricesabcdefghijklmn",
        event_types: &[EventType::PaymentSettled],
        manner: Manner::Gone,
    },
    Part {
        connector: "prices-slack",
        project: "proj_prices",
        kind: ConnectorType::Slack,
        path: "/services/T0000PRICES/B0000PRICES/vN4rLc9sample",
        event_types: &[EventType::PaymentFailed, EventType::EndpointPricingChanged],
        manner: Manner::Gone,
    },
];

/// Where the vendors are, and what they answer when all is well.
const VENDORS: [(ConnectorType, &str, &str); 3] = [
    (ConnectorType::Slack, "https://hooks.slack.com", "ok"),
    (ConnectorType::Zapier, "https://hooks.zapier.com", r#"{"status":"success"}"#),
    (ConnectorType::Make, "https://hook.eu1.make.com", "Accepted"),
];

impl Part {
    /// Its full name.
    pub fn key(&self) -> Result<ConnectorKey, IdError> {
        Ok(ConnectorKey {
            project: ProjectId::parse(self.project)?,
            connector: ConnectorId::parse(self.connector)?,
        })
    }

    /// Whether it wants events of this type.
    pub fn wants(&self, kind: EventType) -> bool {
        self.event_types.is_empty() || self.event_types.contains(&kind)
    }

    /// The event types as its command names them.
    pub fn subscription(&self) -> EventTypes {
        match self.event_types {
            [] => EventTypes::All,
            kinds => EventTypes::Some(kinds.to_vec()),
        }
    }

    /// Its configuration. An n8n webhook is called where its user says; the others are on their
    /// vendor's host, which the settings replace by the demo's sink.
    pub fn config(&self, sink: &str) -> Map<String, Value> {
        let base = self.vendor().map_or(sink, |(base, _)| base);
        Map::from_iter([("webhookUrl".to_owned(), json!(format!("{base}{}", self.path)))])
    }

    /// What the third party answers when all is well.
    pub fn thanks(&self) -> &'static str {
        self.vendor().map_or(r#"{"message":"Workflow was started"}"#, |(_, thanks)| thanks)
    }

    fn vendor(&self) -> Option<(&'static str, &'static str)> {
        let found = VENDORS.iter().find(|(kind, _, _)| *kind == self.kind);
        found.map(|(_, base, thanks)| (*base, *thanks))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_part_belongs_to_a_project_and_has_names_of_its_own() {
        let mut names = BTreeSet::new();
        for part in PARTS {
            assert!(PROJECTS.iter().any(|project| project.id == part.project));
            assert!(names.insert(part.connector) && names.insert(part.path));
            assert!(part.key().is_ok());
            let troubled = !matches!(part.manner, Manner::Healthy(_));
            let project = PROJECTS.iter().find(|project| project.id == part.project).unwrap();
            assert!(!troubled || project.size == Size::Small, "{}", part.connector);
        }
    }
}
