//! Owns the one decision about distance: where a contract is reached from this node.
//!
//! [`resolve`] is pure and total. It is asked once for each contract when a node starts; nothing asks again while
//! calls run, so a caller cannot see its route change.

/// How co-located modules reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Colocated {
    /// Values are handed over as they are.
    #[default]
    Direct,
    /// Values are encoded, sent through a channel and decoded, as if the callee were far away.
    Encoded,
}

/// Where a contract is reached from this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// The callee's pool is in this process and gets the values themselves: no bytes, no socket.
    Local,
    /// The callee's pool is in this process and gets the values through bytes and a channel.
    Loopback,
}

impl Route {
    /// One line for people: where the calls go and why.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Local => "the exporter is on this node",
            Self::Loopback => "the exporter is on this node, and `calls.route` is \"loopback\"",
        }
    }
}

/// Resolves the route to a contract whose exporter is on this node.
#[must_use]
pub fn resolve(colocated: Colocated) -> Route {
    match colocated {
        Colocated::Direct => Route::Local,
        Colocated::Encoded => Route::Loopback,
    }
}
