//! Owns the one decision about distance: where a contract is reached from this node.
//!
//! [`resolve`] is pure and total. It is asked once for each contract when a node starts; nothing asks again while
//! calls run, so a caller cannot see its route change.

use std::fmt;

/// How co-located modules reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Colocated {
    /// Values are handed over as they are.
    #[default]
    Direct,
    /// Values are encoded, sent through a channel and decoded, as if the callee were far away.
    Encoded,
    /// Values go over the bus, although the callee is here.
    ByBus,
}

/// Where a contract is reached from this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// The callee's pool is in this process and gets the values themselves: no bytes, no socket.
    Local,
    /// The callee's pool is in this process and gets the values through bytes and a channel.
    Loopback,
    /// The callee's pool gets the values through bytes and the bus.
    Remote,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Loopback => "loopback",
            Self::Remote => "remote",
        })
    }
}

/// Resolves the route to a contract whose exporter is on this node, or is not. One that is on several nodes, this one
/// among them, is here.
#[must_use]
pub fn resolve(exporter_is_here: bool, colocated: Colocated) -> Route {
    match (exporter_is_here, colocated) {
        (true, Colocated::Direct) => Route::Local,
        (true, Colocated::Encoded) => Route::Loopback,
        (true, Colocated::ByBus) | (false, _) => Route::Remote,
    }
}

/// One line for people: why calls go where [`resolve`] says. `nodes` are those that the exporter is on.
#[must_use]
pub fn reason(exporter_is_here: bool, colocated: Colocated, nodes: &[&str]) -> String {
    match (exporter_is_here, colocated) {
        (true, Colocated::Direct) => "the exporter is on this node".to_owned(),
        (true, Colocated::Encoded) => {
            "the exporter is on this node, and `calls.route` is \"loopback\"".to_owned()
        }
        (true, Colocated::ByBus) => {
            "the exporter is on this node, and `calls.route` is \"remote\"".to_owned()
        }
        (false, _) => format!("the exporter is on `{}`", nodes.join("`, `")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exporter_elsewhere_is_remote_and_one_here_as_config_says() {
        for colocated in [Colocated::Direct, Colocated::Encoded, Colocated::ByBus] {
            assert_eq!(resolve(false, colocated), Route::Remote);
        }
        assert_eq!(resolve(true, Colocated::Direct), Route::Local);
        assert_eq!(resolve(true, Colocated::Encoded), Route::Loopback);
        assert_eq!(resolve(true, Colocated::ByBus), Route::Remote);
        assert_eq!(reason(false, Colocated::Direct, &["a", "b"]), "the exporter is on `a`, `b`");
    }
}
