//! Names: of modules, nodes, tasks, contracts and functions, and the first part of subjects.
//!
//! A name that parsed is well formed, shows as it was written and compares as its parts do. Whether anything
//! of that name exists is for others to say.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use semver::Version;
use serde::{Deserialize, Deserializer};

use crate::form::written_as_displayed;
use crate::problem::{Half, Invalid};

/// What [`is_plain`] takes, as a pattern.
const PLAIN: &str = "^[a-z][a-z0-9-]{0,62}$";
/// What [`is_kebab`] takes, as a pattern without its ends.
pub(crate) const KEBAB: &str = "([a-z][a-z0-9]*|[A-Z][A-Z0-9]*)(-([a-z0-9]+|[A-Z0-9]+))*";

/// What [`contract`] takes, as a pattern without its ends.
fn contract_pattern() -> String {
    const LOWER: &str = "[a-z][a-z0-9]*(-[a-z0-9]+)*";
    const NUMBER: &str = "(0|[1-9][0-9]*)";
    const PRE: &str = "(0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)";
    const BUILD: &str = "[0-9A-Za-z-]+";
    let version = format!(r"{NUMBER}\.{NUMBER}\.{NUMBER}(-{PRE}(\.{PRE})*)?(\+{BUILD}(\.{BUILD})*)?");
    format!("{LOWER}:{LOWER}/{KEBAB}(@{version})?")
}

written_as_displayed!(ContractName, format!("^{}$", contract_pattern()));
written_as_displayed!(FunctionName, format!(r"^{}\.{KEBAB}$", contract_pattern()));
written_as_displayed!(SubjectPrefix, SUBJECT, at_most SubjectPrefix::MAX);

/// The longest of the names that [`is_plain`] takes.
const PLAIN_MAX: usize = 63;

/// Whether this is a name of a module, a node or a task.
fn is_plain(text: &str) -> bool {
    let letters = text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    letters && text.starts_with(|c: char| c.is_ascii_lowercase()) && text.len() <= PLAIN_MAX
}

/// A name of [`is_plain`], with what a message calls it and an example.
macro_rules! plain_name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $example:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// The longest name, in characters.
            pub const MAX: usize = PLAIN_MAX;

            /// The name as written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                if is_plain(text) {
                    return Ok(Self(text.to_owned()));
                }
                let fix = concat!(
                    "write at most 63 lower-case letters, digits and hyphens, with a letter first, such as \"",
                    $example,
                    "\"",
                );
                Err(Invalid::new(format!("{text:?} is not {}", $what), fix))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = String::deserialize(deserializer)?.parse();
                name.map_err(|invalid: Invalid| invalid.into_serde(Half::Key))
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        written_as_displayed!($name, PLAIN);
    };
}

plain_name! {
    /// The name of a module: `[a-z][a-z0-9-]*`, at most 63 characters, so that it fits a file, a schema, a
    /// subject and a label alike.
    ModuleName, "a module name", "order-history"
}

plain_name! {
    /// The name of a node; formed as a [`ModuleName`].
    NodeName, "the name of a node", "back-office"
}

plain_name! {
    /// The name of a task that a module does by the clock; formed as a [`ModuleName`].
    TaskName, "the name of a task", "tidy-up"
}

/// What [`SubjectPrefix::from_str`] takes, as a pattern; that it ends at 64 characters is beside it.
const SUBJECT: &str = r"^[a-z0-9_-]+(\.[a-z0-9_-]+){0,7}$";

/// The first part of every subject of an application: 1 to 8 words with dots between.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubjectPrefix(String);

impl SubjectPrefix {
    /// The longest one, in characters.
    pub const MAX: usize = 64;
    /// The most words.
    const WORDS: usize = 8;

    /// As written, without a dot at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for SubjectPrefix {
    fn default() -> Self {
        Self("cleave".to_owned())
    }
}

impl FromStr for SubjectPrefix {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let letter = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
        let word = |word: &str| !word.is_empty() && word.bytes().all(letter);
        if text.len() <= Self::MAX && text.split('.').count() <= Self::WORDS && text.split('.').all(word) {
            return Ok(Self(text.to_owned()));
        }
        Err(Invalid::new(
            format!("{text:?} is not the first part of a subject"),
            "write 1 to 8 words of a-z, 0-9, `_` and `-` with dots between, at most 64 characters, such as \"shop.test\"",
        ))
    }
}

impl<'de> Deserialize<'de> for SubjectPrefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(|invalid: Invalid| invalid.into_serde(Half::Value))
    }
}

impl fmt::Display for SubjectPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a contract as WIT writes it: `namespace:package/interface`, with `@version` where there is
/// one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContractName {
    /// Whose package it is, such as `shop`.
    pub namespace: String,
    /// The WIT package, such as `orders`.
    pub package: String,
    /// The interface in the package, such as `checkout`.
    pub interface: String,
    /// The version of the package, if it has one.
    pub version: Option<Version>,
}

impl FromStr for ContractName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        contract(text).ok_or_else(|| {
            Invalid::new(
                format!("{text:?} is not the name of a contract"),
                "write \"namespace:package/interface\" in kebab-case, such as \"shop:orders/checkout\" \
                 or \"shop:orders/checkout@1.0.0\"",
            )
        })
    }
}

impl<'de> Deserialize<'de> for ContractName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(|invalid: Invalid| invalid.into_serde(Half::Value))
    }
}

impl fmt::Display for ContractName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.namespace, self.package, self.interface)?;
        match &self.version {
            Some(version) => write!(f, "@{version}"),
            None => Ok(()),
        }
    }
}

/// One function of a contract: `namespace:package/interface.function`, with `@version` before the dot where
/// the package has one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FunctionName {
    /// The contract the function is in.
    pub contract: ContractName,
    /// The function, such as `place`.
    pub function: String,
}

impl FromStr for FunctionName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        // A version has dots too, but a function has none: the last dot separates the two.
        let name = text.rsplit_once('.').and_then(|(contract_text, function)| {
            let function = is_kebab(function).then(|| function.to_owned())?;
            Some(Self { contract: contract(contract_text)?, function })
        });
        name.ok_or_else(|| {
            Invalid::new(
                format!("{text:?} is not a function of a contract"),
                "write \"namespace:package/interface.function\" in kebab-case, such as \"shop:orders/checkout.place\" \
                 or \"shop:orders/checkout@1.0.0.place\"",
            )
        })
    }
}

impl<'de> Deserialize<'de> for FunctionName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(|invalid: Invalid| invalid.into_serde(Half::Value))
    }
}

impl fmt::Display for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.contract, self.function)
    }
}

fn contract(text: &str) -> Option<ContractName> {
    let (path, version) = match text.split_once('@') {
        Some((path, version)) => (path, Some(Version::parse(version).ok()?)),
        None => (text, None),
    };
    let (namespace, rest) = path.split_once(':')?;
    let (package, interface) = rest.split_once('/')?;
    let lower = |word: &str| is_kebab(word) && !word.contains(|c: char| c.is_ascii_uppercase());
    (lower(namespace) && lower(package) && is_kebab(interface)).then(|| ContractName {
        namespace: namespace.to_owned(),
        package: package.to_owned(),
        interface: interface.to_owned(),
        version,
    })
}

/// The rule of the component model: words of one case joined by single hyphens, the first beginning with a
/// letter.
pub(crate) fn is_kebab(text: &str) -> bool {
    let word = |word: &str| {
        !word.is_empty()
            && (word.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9'))
                || word.bytes().all(|b| matches!(b, b'A'..=b'Z' | b'0'..=b'9')))
    };
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.split('-').all(word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WORDS: &str = "[a-z][a-z0-9]{0,5}(-[a-z0-9]{1,4}){0,2}";
    const VERSION: &str = "|@(0|[1-9][0-9]{0,2})\\.(0|[1-9][0-9]{0,2})\\.[0-9](-rc\\.[1-9])?(\\+b\\.[0-9])?";

    #[test]
    fn function_name_has_parts() {
        let name: FunctionName = "shop:orders/checkout@1.2.0-rc.1.place-all".parse().unwrap();
        assert_eq!(name.contract.namespace, "shop");
        assert_eq!(name.contract.package, "orders");
        assert_eq!(name.contract.interface, "checkout");
        assert_eq!(name.contract.version.as_ref().unwrap().to_string(), "1.2.0-rc.1");
        assert_eq!(name.function, "place-all");
    }

    #[test]
    fn malformed_function_names_are_refused() {
        let bad = [
            "",
            ".",
            "place",
            "shop:orders/checkout",
            "shop:orders/checkout@1.0.0",
            "shop:orders.place",
            "shop/orders:checkout.place",
            "Shop:orders/checkout.place",
            "shop:orders/check_out.place",
            "shop:orders/checkout.place-",
            "shop:orders/checkout.-place",
            "shop:orders/checkout.pLace",
            "shop:orders/checkout@one.place",
            "shop:orders/checkout.place\n",
            "shop:orders/a/b.place",
        ];
        for text in bad {
            assert!(text.parse::<FunctionName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn module_names_are_short_kebab() {
        for good in ["a", "order-history", "v2"] {
            assert_eq!(good.parse::<ModuleName>().unwrap().as_str(), good);
        }
        assert!("a".repeat(63).parse::<ModuleName>().is_ok());
        assert!("a".repeat(64).parse::<ModuleName>().is_err());
        for bad in ["", "Orders", "order_history", "2nd", "-a", "a.b", "é"] {
            assert!(bad.parse::<ModuleName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn subjects_begin_with_words() {
        for good in ["cleave", "a.b.c.d.e.f.g.h", "shop_2-test.x", "-"] {
            assert_eq!(good.parse::<SubjectPrefix>().unwrap().as_str(), good);
        }
        assert!("a".repeat(64).parse::<SubjectPrefix>().is_ok());
        assert!("a".repeat(65).parse::<SubjectPrefix>().is_err());
        for bad in ["", ".", "a.", ".a", "a..b", "A", "a b", "a.*", ">", "$SYS", "é", "a.b.c.d.e.f.g.h.i"] {
            assert!(bad.parse::<SubjectPrefix>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn function_name_round_trips(
            (namespace, package, interface) in (WORDS, WORDS, WORDS),
            version in VERSION,
            function in WORDS,
        ) {
            let text = format!("{namespace}:{package}/{interface}{version}.{function}");
            prop_assert_eq!(text.parse::<FunctionName>().unwrap().to_string(), text);
        }

        #[test]
        fn any_text_is_answered(text: String) {
            if let Ok(name) = text.parse::<FunctionName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
