//! An appliance whose repository lies in a real store, with a proxy between them that can break what passes.

use super::appliance::Appliance;
use super::bed::Bed;
use super::proxy::Proxy;
use super::stores::{Garage, Swift};

/// Where the repository lies in its bucket.
pub(crate) const PREFIX: &str = "repo";

/// Dropped in this order: who uses the store ends before it.
#[derive(Debug)]
pub(crate) struct Remote<S> {
    pub(crate) appliance: Appliance,
    pub(crate) proxy: Proxy,
    pub(crate) store: S,
}

impl Remote<Garage> {
    pub(crate) fn on_s3(name: &str) -> Remote<Garage> {
        let store = Garage::start();
        let proxy = Proxy::start(&store.endpoint);
        let bed = Bed::new(name);
        let credentials = store.credentials(bed.dir(), "credentials.toml");
        let more = section(&credentials.display().to_string());
        let state_dir = bed.path("state");
        let url = store.through(&proxy.endpoint()).url(PREFIX);
        Remote { appliance: Appliance::start_on(bed, &url, &more, state_dir), proxy, store }
    }

    /// The names of the objects below the repository that hold all of `parts`, in order.
    pub(crate) fn objects(&self, parts: &[&str]) -> Vec<String> {
        let all = self.store.keys(&format!("{PREFIX}/"));
        all.into_iter().filter(|key| parts.iter().all(|part| key.contains(part))).collect()
    }
}

impl Remote<Swift> {
    pub(crate) fn on_swift(name: &str, options: &[(&str, &str)]) -> Remote<Swift> {
        let store = Swift::start(options);
        let proxy = Proxy::start(&store.endpoint);
        let bed = Bed::new(name);
        let credentials = store.credentials(bed.dir(), "credentials.toml");
        let more = section(&credentials.display().to_string());
        let state_dir = bed.path("state");
        let url = store.url_through(&proxy.endpoint(), PREFIX);
        Remote { appliance: Appliance::start_on(bed, &url, &more, state_dir), proxy, store }
    }
}

fn section(credentials: &str) -> String {
    format!("\n[repository]\ncredentials_file = \"{credentials}\"\n")
}
