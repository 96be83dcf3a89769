//! The HTTP edge: the only place that knows Trove's JSON and status words. It sees the use cases and never the store.
//!
//! `gate` owns the public socket, `engine` runs tiny_http and the workers behind it, `router` holds the route table, and
//! one module each answers for instances, backups, recoveries, datastores, the page, the figures and the API's own description.

mod auth;
mod backups;
mod body;
mod call;
mod datastores;
mod engine;
mod fault;
mod gate;
mod instances;
mod metrics;
mod openapi;
mod page;
mod recoveries;
mod recovery_views;
mod router;
mod views;

#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use crate::api::engine::Engine;
use crate::api::gate::{Gate, GateSettings};
use crate::api::router::Router;
use crate::error::Error;
use crate::service::Service;

pub(crate) use crate::api::gate::{Limits, TlsFiles};

/// Requests answered at once; planning a recovery may keep one busy for a while.
pub(crate) const WORKERS: usize = 4;

/// How the API is offered.
#[derive(Debug, Clone)]
pub(crate) struct HttpSettings {
    /// A public address needs TLS.
    pub(crate) listen: SocketAddr,
    /// The one tenant there is.
    pub(crate) tenant: String,
    /// Names the appliance answers to, besides 127.0.0.1, localhost and the address it listens on.
    pub(crate) hosts: Vec<String>,
    pub(crate) tls: Option<TlsFiles>,
    /// The state directory, for the private socket; only its owner can enter it.
    pub(crate) socket_dir: PathBuf,
    pub(crate) workers: usize,
    pub(crate) limits: Limits,
}

/// The API, being served.
pub(crate) struct Api {
    gate: Gate,
    engine: Engine,
}

impl Api {
    /// Begins to serve. Fails when the address is taken or TLS is not usable.
    pub(crate) fn start(service: Arc<Service>, settings: HttpSettings) -> Result<Api, Error> {
        let router = Arc::new(Router::new(service, settings.tenant));
        let engine = Engine::start(&settings.socket_dir, settings.workers.max(1), router)?;
        let gate =
            GateSettings { listen: settings.listen, hosts: settings.hosts, tls: settings.tls, limits: settings.limits };
        match Gate::start(gate, engine.upstream()) {
            Ok(gate) => Ok(Api { gate, engine }),
            Err(error) => {
                engine.stop();
                Err(error)
            }
        }
    }

    /// Where it listens; tells the port when it was asked for port 0.
    #[cfg(test)]
    pub(crate) fn address(&self) -> SocketAddr {
        self.gate.address()
    }

    /// The URL for clients on this host.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.gate.is_tls() { "https" } else { "http" };
        let mut address = self.gate.address();
        if address.ip().is_unspecified() {
            address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
        }
        format!("{scheme}://{address}")
    }

    /// Accepts no more, lets requests under way end for a moment and joins every thread.
    pub(crate) fn stop(self) {
        self.gate.stop();
        self.engine.stop();
    }
}
