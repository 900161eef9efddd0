//! Gives a client its bootstrap servers again when it has forgotten every broker.
//!
//! A broker that stood still for longer than its session is fenced when it comes back, and answers
//! for a moment that the cluster has no brokers. librdkafka (2.12.1,
//! `rd_kafka_metadata_decommission_unavailable_brokers`) then lets all brokers go, those of
//! `bootstrap.servers` too, and sends nothing from then on: there is nobody to send to, and the
//! timer after which it would bootstrap anew (KIP-1102) is started by a request. Its statistics go
//! on and show it.

use std::{
    ffi::CString,
    ptr,
    sync::atomic::{AtomicPtr, Ordering},
};

use rdkafka::{bindings::rd_kafka_brokers_add, types::RDKafka};

use super::{Connection, statistics::Statistics};

/// The bootstrap servers of one client. It is part of the client's context.
#[derive(Debug)]
pub(super) struct Bootstrap {
    servers: CString,
    client: AtomicPtr<RDKafka>,
}

impl Bootstrap {
    /// Of a client that is about to be made.
    pub(super) fn new(connection: &Connection) -> Self {
        // A list with a null byte in it was refused when the client was made.
        let servers = CString::new(connection.bootstrap_servers()).unwrap_or_default();
        Self { servers, client: AtomicPtr::new(ptr::null_mut()) }
    }

    /// The client was made.
    pub(super) fn attach(&self, client: *mut RDKafka) {
        self.client.store(client, Ordering::Release);
    }

    /// To be called with the client's own statistics, and only from its callback: the client is
    /// there for as long as it calls back.
    pub(super) fn mend(&self, statistics: &Statistics) {
        let client = self.client.load(Ordering::Acquire);
        if statistics.knows_brokers() || client.is_null() {
            return;
        }
        tracing::warn!(
            "a Kafka client was told that there are no brokers; it gets the bootstrap servers again"
        );
        #[expect(unsafe_code, reason = "rdkafka 0.39 has no safe way to it")]
        // SAFETY: the client calls back at this moment, so the pointer is that of a live handle;
        // the function may be called from any thread, and copies the list.
        unsafe {
            rd_kafka_brokers_add(client, self.servers.as_ptr());
        }
    }
}
