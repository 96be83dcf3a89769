//! The names this appliance answers to: an attacker's name that resolves to this host is not one of them.

/// The allow-list of `Host` values.
#[derive(Debug, Clone)]
pub(super) struct Hosts {
    /// Lower case, as they stand in a `Host` header.
    names: Vec<String>,
}

impl Hosts {
    /// The loopback names with `port`, and `configured` names, each with and without the port.
    pub(super) fn new(port: u16, configured: &[String]) -> Hosts {
        let mut names: Vec<String> =
            ["127.0.0.1", "localhost", "[::1]"].iter().map(|name| format!("{name}:{port}")).collect();
        for name in configured {
            let name = name.to_ascii_lowercase();
            names.push(format!("{name}:{port}"));
            names.push(name);
        }
        Hosts { names }
    }

    pub(super) fn has(&self, host: &str) -> bool {
        self.names.iter().any(|name| name.eq_ignore_ascii_case(host))
    }

    /// Whether a page with this `Origin` came from here.
    pub(super) fn has_origin(&self, origin: &str) -> bool {
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        authority.is_some_and(|host| self.has(host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configured_name_is_answered_to_with_and_without_the_port() {
        let hosts = Hosts::new(8779, &["DB1.example.org".to_owned()]);
        assert!(hosts.has("db1.example.org") && hosts.has("db1.EXAMPLE.org:8779"));
        assert!(!hosts.has("db1.example.org:80") && !hosts.has("example.org"));
        assert!(hosts.has_origin("https://db1.example.org"));
        assert!(!hosts.has_origin("db1.example.org"));
    }
}
