//! `dunmore serve`.

use std::collections::BTreeSet;

use anyhow::anyhow;
use secrecy::{ExposeSecret, SecretString};
use tokio::signal::unix::{SignalKind, signal};

use super::{Common, load, output, tutorial::Tutorial};
use crate::{
    kafka::{EmbeddedBroker, StartFrom},
    secrets::Keyring,
    service::{Role, Service},
    telemetry, tokens,
};

/// `dunmore serve`
pub async fn run(
    common: &Common,
    roles: Vec<Role>,
    embedded: bool,
    from: Option<StartFrom>,
) -> anyhow::Result<()> {
    let mut config = load(common)?;
    config.group.start = from.or(config.group.start);
    if common.verbose > 0 {
        let filter = if common.verbose == 1 { "debug" } else { "trace" };
        filter.clone_into(&mut config.log.filter);
    }
    telemetry::start(&config.log).map_err(super::Usage)?;
    let roles: BTreeSet<Role> =
        if roles.is_empty() { Role::ALL.into() } else { roles.into_iter().collect() };
    // Both live until the service has stopped.
    let (mut _broker, mut _folder) = (None, None);
    let mut tutorial = None;
    if embedded {
        let topics = config.topics();
        let broker = EmbeddedBroker::start(&topics, config.topics.partitions)?;
        let folder = tempfile::tempdir()?;
        config.kafka.bootstrap_servers = Some(broker.bootstrap_servers());
        config.kafka.properties.clear();
        folder.path().clone_into(&mut config.data_dir);
        if config.secrets.keys.is_empty() {
            config.secrets.keys = vec![SecretString::from(Keyring::generate())];
        }
        // One token for both APIs: whoever tries this out is everybody.
        let (token, entry) =
            tokens::generate(Some("embedded"), vec![tokens::ALL_PROJECTS.to_owned()])
                .map_err(|error| anyhow!(error))?;
        config.admin.token_sha256.get_or_insert(entry.sha256.clone());
        if roles.contains(&Role::Api) {
            config.api.tokens.push(entry);
            output::line(&format!("REST API: http://{}", config.api.listen));
        }
        output::line(&format!("admin API: http://{}/admin/v1", config.admin.listen));
        output::line(&format!("console: http://{}/console", config.admin.listen));
        output::line(&format!("admin token: {}", token.expose_secret()));
        output::line(&format!("embedded broker: {}", broker.bootstrap_servers()));
        output::line("It is for trying out only: it keeps little, and everything is gone at exit.");
        if roles.len() == Role::ALL.len() {
            let begun = Tutorial::start(&mut config).await?;
            tutorial = Some((begun, config.clone(), token));
        }
        (_broker, _folder) = (Some(broker), Some(folder));
    } else {
        // Refused here, before anything is started, with the sentence that says what to do.
        config.connection()?;
        Keyring::parse(&config.secret_keys()?)
            .map_err(|error| super::Usage(format!("secrets.keys: {error}")))?;
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let admin = config.admin.listen;
    let service = tokio::select! {
        started = Service::start(config, &roles) => started?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    if let Some((tutorial, config, token)) = &tutorial {
        tutorial.begin(config, token.expose_secret()).await?;
    }
    let roles: Vec<String> = roles.iter().map(|role| format!("{role:?}").to_lowercase()).collect();
    tracing::info!(%admin, roles = roles.join(","), "serving");
    let failure = tokio::select! {
        failure = service.failed() => Some(failure),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    tracing::info!("stopping: finishing what is in flight");
    let is_over = tokio::select! {
        is_over = service.stop() => is_over,
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
    };
    if !is_over {
        tracing::warn!("ending although threads of the Kafka client still run");
        if let Some(failure) = &failure {
            tracing::error!("{failure}");
        }
        end_at_once(i32::from(failure.is_some()));
    }
    tracing::info!("stopped");
    match failure {
        None => Ok(()),
        Some(failure) => Err(anyhow!(failure)),
    }
}

/// Ends the process without what a usual end does: threads of the Kafka client that wait for a
/// broker use libraries that it would take from under them.
fn end_at_once(code: i32) -> ! {
    #[expect(unsafe_code, reason = "the standard library has no such end")]
    // SAFETY: nothing of this process is used any more; the system takes back what it has.
    unsafe {
        libc::_exit(code)
    }
}
