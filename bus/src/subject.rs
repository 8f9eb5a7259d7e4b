//! Owns the subjects of the bus: what is said where.
//!
//! | subject | who listens | what is said |
//! |---|---|---|
//! | `PREFIX.call.CONTRACT.FUNCTION` | the replicas that hold the contract's module, as one queue group | calls |
//! | `PREFIX.at.REPLICA.CONTRACT.FUNCTION` | this replica | calls that another replica must not get |
//! | `PREFIX.reply.REPLICA.CALL` | this replica | answers to its calls |
//! | `PREFIX.node.NODE` | the process that keeps this node's data | whether there is one |
//! | `PREFIX.event.PUBLISHER.SUBSCRIBER` | the stream of events, for the nodes that hold the subscriber | events |
//! | `PREFIX.members` | every node | who is there, and who leaves |
//!
//! CONTRACT is four tokens: `shop:catalog/products@0.1` is `shop.catalog.products.v0_1`; without a version the last is
//! `v`. The names of the component model have no character that a subject may not have.

/// Makes the subjects below one prefix.
#[derive(Debug, Clone)]
pub struct Subjects {
    prefix: String,
}

impl Subjects {
    /// The subjects of the applications that say `bus.prefix = prefix`.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// Where a function is called, whoever serves it.
    #[must_use]
    pub fn call(&self, track: &str, function: &str) -> String {
        format!("{}.call.{}.{function}", self.prefix, contract(track))
    }

    /// Where a function of one replica is called.
    #[must_use]
    pub fn at(&self, replica: &str, track: &str, function: &str) -> String {
        format!("{}.at.{replica}.{}.{function}", self.prefix, contract(track))
    }

    /// All functions of a contract.
    #[must_use]
    pub fn calls_of(&self, track: &str) -> String {
        self.call(track, "*")
    }

    /// All functions of one replica.
    #[must_use]
    pub fn calls_at(&self, replica: &str) -> String {
        format!("{}.at.{replica}.>", self.prefix)
    }

    /// The contract and function that a call's subject names, as [`function`] writes them.
    #[must_use]
    pub fn called<'s>(&self, replica: &str, subject: &'s str) -> Option<&'s str> {
        let rest = subject.strip_prefix(self.prefix.as_str())?;
        rest.strip_prefix(".call.")
            .or_else(|| rest.strip_prefix(".at.")?.strip_prefix(replica)?.strip_prefix('.'))
    }

    /// Where the answer to a call of a replica is awaited.
    #[must_use]
    pub fn reply(&self, replica: &str, call: u128) -> String {
        format!("{}.reply.{replica}.{call:032x}", self.prefix)
    }

    /// All answers to calls of a replica.
    #[must_use]
    pub fn replies(&self, replica: &str) -> String {
        format!("{}.reply.{replica}.*", self.prefix)
    }

    /// The call that a subject awaits the answer of.
    #[must_use]
    pub fn replied(&self, replica: &str, subject: &str) -> Option<u128> {
        let rest = subject.strip_prefix(self.prefix.as_str())?.strip_prefix(".reply.")?;
        let call = rest.strip_prefix(replica)?.strip_prefix('.')?;
        let digits = call.len() == 32 && call.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        u128::from_str_radix(call, 16).ok().filter(|_| digits)
    }

    /// Whether an answer may be sent to a subject that a message names. One that the nodes listen on for something else is
    /// no place for an answer, and neither is one of the server's own.
    #[must_use]
    pub fn takes_answers(&self, subject: &str) -> bool {
        let ours = subject.strip_prefix(self.prefix.as_str()).and_then(|rest| rest.strip_prefix('.'));
        ours.map_or(!subject.starts_with('$'), |rest| rest.starts_with("reply."))
    }

    /// Where the process that keeps a node's data answers.
    #[must_use]
    pub fn node(&self, node: &str) -> String {
        format!("{}.node.{node}", self.prefix)
    }

    /// Where a publisher's events for a subscriber go; `*` stands for any.
    #[must_use]
    pub fn event(&self, publisher: &str, subscriber: &str) -> String {
        format!("{}.event.{publisher}.{subscriber}", self.prefix)
    }

    /// The publisher and the subscriber that a subject of events names.
    #[must_use]
    pub fn between<'s>(&self, subject: &'s str) -> Option<(&'s str, &'s str)> {
        let rest = subject.strip_prefix(self.prefix.as_str())?.strip_prefix(".event.")?;
        rest.split_once('.').filter(|(_, subscriber)| !subscriber.contains('.'))
    }

    /// The name of the stream of events. Names of streams have no dots, and prefixes no plus.
    #[must_use]
    pub fn stream(&self) -> String {
        format!("{}-events", self.prefix.replace('.', "+"))
    }

    /// Where nodes say that they are there.
    #[must_use]
    pub fn members(&self) -> String {
        format!("{}.members", self.prefix)
    }
}

/// A contract's function as the last tokens of a subject, `shop.catalog.products.v0_1.get`.
#[must_use]
pub fn function(track: &str, function: &str) -> String {
    format!("{}.{function}", contract(track))
}

/// The four tokens of a contract.
pub(crate) fn contract(track: &str) -> String {
    let (name, version) = track.split_once('@').unwrap_or((track, ""));
    format!("{}.v{}", name.replace([':', '/'], "."), version.replace(['.', '+'], "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subject_tells_contract_version_and_function() {
        let subjects = Subjects::new("cleave");
        let subject = subjects.call("shop:catalog/products@0.1", "get-many");
        assert_eq!(subject, "cleave.call.shop.catalog.products.v0_1.get-many");
        assert_eq!(subjects.called("r1", &subject), Some("shop.catalog.products.v0_1.get-many"));
        let subject = subjects.at("r1", "shop:catalog/products", "get");
        assert_eq!(subject, "cleave.at.r1.shop.catalog.products.v.get");
        assert_eq!(
            subjects.called("r1", &subject),
            Some(function("shop:catalog/products", "get")).as_deref()
        );
        assert_eq!(subjects.called("r2", &subject), None);
    }

    #[test]
    fn reply_subject_tells_its_call() {
        let subjects = Subjects::new("a.b");
        assert_eq!(subjects.replied("r1", &subjects.reply("r1", 42)), Some(42));
        for subject in
            ["a.b.reply.r1.2a", "a.b.reply.r2.0000000000000000000000000000002a", "a.b.reply.r1.", ""]
        {
            assert_eq!(subjects.replied("r1", subject), None, "{subject}");
        }
    }

    #[test]
    fn answers_go_nowhere_where_nodes_listen() {
        let subjects = Subjects::new("cleave");
        for good in ["_INBOX.a.b", "cleave.reply.r1.0", "cleaver.members", "my.inbox"] {
            assert!(subjects.takes_answers(good), "{good}");
        }
        for bad in ["cleave.members", "cleave.call.shop.catalog.products.v.get", "$SRV.PING", "$JS.API.INFO"]
        {
            assert!(!subjects.takes_answers(bad), "{bad}");
        }
    }
}
