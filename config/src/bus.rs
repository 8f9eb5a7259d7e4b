//! The servers of the bus: `nats://host:4222`, several of one cluster with commas between.
//!
//! URLs that parsed show as they were written. They may have a password: [`Display`] is for the file and has it;
//! [`NatsServers::shown`], `Debug` and every message are for people and have not.
//!
//! [`Display`]: fmt::Display

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use crate::form::written_as_displayed;
use crate::problem::{Half, Invalid, Problem};
use crate::show::without_passwords;
use crate::tree::Config;
use crate::url::{Fault, HOST, SECRET, decoded, host_and_port, is_loopback};

/// What is taken as [`NatsServers`], as a pattern. It cannot say that a port ends at 65535, what an IPv6 address is, and
/// that all have one user.
fn servers_pattern() -> String {
    let url = format!("(nats|tls)://({SECRET}:{SECRET}@)?{HOST}(:[0-9]+)?");
    format!("^{url}(,{url})*$")
}

written_as_displayed!(NatsServers, servers_pattern());

/// The servers of one NATS cluster, at least one. All have the same user and password, or none has.
#[derive(Clone, PartialEq, Eq)]
pub struct NatsServers(Vec<NatsUrl>);

/// One URL, and its parts.
#[derive(Clone, PartialEq, Eq)]
struct NatsUrl {
    text: String,
    is_tls: bool,
    /// User and password, decoded.
    user: Option<(String, String)>,
    /// Without the brackets of an IPv6 address.
    host: String,
}

impl NatsServers {
    /// The URL of each server as written, with its password: not for logs.
    pub fn urls(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|url| url.text.as_str())
    }

    /// The URL of each server without user and password, for a client that is told them apart.
    pub fn addresses(&self) -> impl Iterator<Item = String> {
        self.urls().map(|url| match (url.split_once("://"), url.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, place))) => format!("{scheme}://{place}"),
            _ => url.to_owned(),
        })
    }

    /// The URLs as written without their passwords: for logs and messages.
    pub fn shown(&self) -> String {
        without_passwords(&self.to_string(), |_| "***".to_owned())
    }

    /// The user and the password of every server, decoded.
    pub fn user_and_password(&self) -> Option<(&str, &str)> {
        let (user, password) = self.0.first()?.user.as_ref()?;
        Some((user, password))
    }

    /// Whether every URL has a user and a password.
    pub fn has_credentials(&self) -> bool {
        self.0.iter().all(|url| url.user.is_some())
    }

    /// Whether every URL is `tls://`.
    pub fn is_tls(&self) -> bool {
        self.0.iter().all(|url| url.is_tls)
    }

    /// The first host that is not on this machine: in 127.0.0.0/8, `::1` or `localhost`.
    fn far_host(&self) -> Option<&str> {
        self.0.iter().map(|url| url.host.as_str()).find(|host| !is_loopback(host))
    }
}

impl FromStr for NatsServers {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            let fix = "write the URLs without spaces, and a comma alone between two";
            return Err(Invalid::new("there is whitespace in it", fix));
        }
        let count = text.split(',').count();
        let urls = text.split(',').enumerate().map(|(before, item)| {
            let name =
                if count == 1 { "the URL".to_owned() } else { format!("URL {} of {count}", before + 1) };
            url(item).map_err(|(fault, fix)| Invalid::new(format!("{name} {fault}"), fix))
        });
        let urls = urls.collect::<Result<Vec<_>, _>>()?;
        if urls.windows(2).any(|two| matches!(two, [one, other] if one.user != other.user)) {
            let fix = "write the same `user:password@` in each: they are servers of one cluster";
            return Err(Invalid::new("the URLs differ in their user or password", fix));
        }
        Ok(Self(urls))
    }
}

fn url(text: &str) -> Result<NatsUrl, Fault> {
    if text.is_empty() {
        return Err((
            "is empty",
            "write a URL such as \"nats://127.0.0.1:4222\", and a comma only between two",
        ));
    }
    let scheme = text.split_once("://").filter(|(scheme, _)| matches!(*scheme, "nats" | "tls"));
    let Some((scheme, rest)) = scheme else {
        return Err((
            "does not begin with `nats://` or `tls://`",
            "write a URL such as \"nats://127.0.0.1:4222\" or \"tls://nats.example.com\"",
        ));
    };
    if rest.contains(['/', '?', '#']) {
        return Err((
            "has more than a host and a port",
            "remove the path and the query; in a password, write `/` as %2F, `?` as %3F and `#` as %23",
        ));
    }
    let (user, place) = match rest.rsplit_once('@') {
        Some((who, place)) => (Some(user(who)?), place),
        None => (None, rest),
    };
    let (host, _) = host_and_port(place)?;
    Ok(NatsUrl { text: text.to_owned(), is_tls: scheme == "tls", user, host: host.to_owned() })
}

/// User and password of `user:password`.
fn user(who: &str) -> Result<(String, String), Fault> {
    let (user, password) = who.split_once(':').ok_or((
        "has a user without a password",
        "write user:password@host, or leave it out and set `bus.credentials`",
    ))?;
    let both = decoded(user).zip(decoded(password));
    both.ok_or((
        "has a user or a password that is empty, or a character there that URLs do not have",
        "write user:password@host, with `@` as %40, `:` as %3A, `,` as %2C, `'` as %27 and `%` as %25",
    ))
}

/// The monitoring address of a NATS server, `http://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Monitoring {
    host: String,
    port: u16,
}

/// Where a NATS server tells of itself, unless its `http` says otherwise.
const MONITORING_PORT: u16 = 8222;

// It cannot say that a port ends at 65535, and what an IPv6 address is.
written_as_displayed!(Monitoring, format!("^http://{HOST}(:[0-9]+)?$"));

impl Monitoring {
    /// `host:port`, as it stands in a URL and as a socket is connected to.
    pub fn authority(&self) -> String {
        let Self { host, port } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl FromStr for Monitoring {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let fix = "write the address of its `http` setting, as in \"http://127.0.0.1:8222\"";
        let place = text
            .strip_prefix("http://")
            .ok_or_else(|| Invalid::new("it does not begin with `http://`", fix))?;
        let (host, port) =
            host_and_port(place).map_err(|(fault, _)| Invalid::new(format!("the URL {fault}"), fix))?;
        Ok(Self { host: host.to_owned(), port: port.unwrap_or(MONITORING_PORT) })
    }
}

impl<'de> Deserialize<'de> for Monitoring {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(|invalid: Invalid| invalid.into_serde(Half::Value))
    }
}

impl fmt::Display for Monitoring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority())
    }
}

impl Config {
    /// Where the NATS server tells how it is set; none without a bus.
    pub fn monitoring(&self) -> Option<Monitoring> {
        let host = || self.bus.nats.as_ref().and_then(|nats| nats.0.first()).map(|url| url.host.clone());
        let usual = || host().map(|host| Monitoring { host, port: MONITORING_PORT });
        self.bus.monitoring.clone().or_else(usual)
    }
}

impl<'de> Deserialize<'de> for NatsServers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(|invalid: Invalid| invalid.into_serde(Half::Value))
    }
}

impl fmt::Display for NatsServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.urls().collect::<Vec<_>>().join(","))
    }
}

impl fmt::Debug for NatsServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NatsServers").field(&self.shown()).finish()
    }
}

impl Config {
    /// A problem if the bus leaves this machine and others there may read it or take part in it. Apart from loading,
    /// because `--insecure` allows it.
    pub fn exposed_bus(&self) -> Option<Problem> {
        let bus = &self.bus;
        let nats = bus.nats.as_ref()?;
        let host = nats.far_host()?;
        let has_credentials =
            nats.has_credentials() || bus.credentials.is_some() || bus.certificate.is_some();
        let lacks = match (nats.is_tls(), has_credentials) {
            (true, true) => return None,
            (true, false) => "credentials",
            (false, true) => "TLS",
            (false, false) => "TLS and credentials",
        };
        let message = format!("`bus.nats` leaves this machine for {host:?} without {lacks}");
        let fix = "use `tls://` and `bus.credentials`, or start with `--insecure` where nobody else can reach that network";
        Some(self.origin.problem(&["bus", "nats"], message, fix))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn servers(text: &str) -> NatsServers {
        text.parse().unwrap_or_else(|invalid| panic!("{text}: {invalid}"))
    }

    #[test]
    fn servers_have_parts() {
        let one = servers("nats://127.0.0.1:4222");
        assert_eq!(one.urls().collect::<Vec<_>>(), ["nats://127.0.0.1:4222"]);
        assert_eq!((one.far_host(), one.is_tls(), one.has_credentials()), (None, false, false));
        let two = servers("tls://me:p%40ss@a.example,tls://me:p%40ss@b.example:1");
        assert_eq!(two.addresses().collect::<Vec<_>>(), ["tls://a.example", "tls://b.example:1"]);
        assert_eq!(two.user_and_password(), Some(("me", "p@ss")));
        assert_eq!((two.far_host(), two.is_tls(), two.has_credentials()), (Some("a.example"), true, true));
        assert!(!servers("tls://a,nats://b").is_tls());
    }

    #[test]
    fn this_machine_is_known() {
        for here in ["localhost", "LocalHost:1", "127.1.2.3", "[::1]:4222"] {
            assert_eq!(servers(&format!("nats://{here}")).far_host(), None, "{here}");
        }
        for far in [
            "nats",
            "10.0.0.1",
            "127.1",
            "[::]",
            "[::ffff:127.0.0.1]",
            "localhost.example",
            "127.0.0.1,nats://a",
        ] {
            assert!(servers(&format!("nats://{far}")).far_host().is_some(), "{far}");
        }
    }

    #[test]
    fn passwords_are_not_told() {
        let servers = servers("nats://me:s3cret@a,nats://me:s3cret@b");
        assert_eq!(servers.shown(), "nats://me:***@a,nats://me:***@b");
        assert_eq!(format!("{servers:?}"), "NatsServers(\"nats://me:***@a,nats://me:***@b\")");
        for bad in [
            "me:s3cret@a",
            "nats:me:s3cret@a",
            "nats://me:s3cret@",
            "nats://me:s3cret",
            "nats://me:s3cret@a/",
            // A quote ends a URL where texts are shown without passwords.
            "nats://me:s3'cret@a",
            "nats://me:s3crét@a",
            "nats://s3cret@a",
            "http://me:s3cret@a",
        ] {
            let invalid = bad.parse::<NatsServers>().unwrap_err();
            assert!(!format!("{invalid} {}", invalid.fix()).contains("s3cr"), "{invalid}");
        }
    }

    proptest! {
        #[test]
        fn servers_show_as_written(text in "(nats|tls)://([a-z%]{1,3}:[a-z0-9%*]{1,4}@)?[a-z0-9.:\\[\\]-]{1,8}(,nats://[a-z]{0,2})?") {
            if let Ok(servers) = text.parse::<NatsServers>() {
                prop_assert_eq!(servers.to_string(), text.as_str());
                prop_assert_eq!(servers.shown().parse::<NatsServers>().unwrap().shown(), servers.shown());
            }
        }

        #[test]
        fn any_text_is_answered(text: String) {
            if let Ok(servers) = text.parse::<NatsServers>() {
                prop_assert_eq!(servers.to_string(), text);
            }
        }
    }
}
