//! What a person may write about an application, and precise answers when it is wrong.
//!
//! One call, [`load()`], lays four layers over each other: the defaults, the file, environment variables such
//! as `CLEAVE_HTTP__LISTEN`, and flags such as `--set http.listen=…`. The result is a plain tree, [`Config`],
//! read once and passed by value. Every value in it is in range; what is not becomes a [`Problem`] that
//! points at the place and says the fix, and all problems are reported together.
//!
//! The tree remembers its [`Origin`], so that whoever finds out later that a value is wrong (a route to a
//! function that does not exist) can point at the same line.
//!
//! This crate reads the one file it is given and, in [`Config::missing_files`], asks which files exist. It
//! opens nothing else, and looks at no environment but the one passed to it.
//!
//! ```
//! use cleave_config::{Sources, parse};
//!
//! let text = r#"
//!     [http.routes]
//!     "GET /api/products/{sku}" = "shop:catalog/products.get"
//!
//!     [modules.catalog]
//!     component = "catalog.wasm"
//!     deadline = "2s"
//! "#;
//! let config = parse(text, &Sources::new("cleave.toml", "/srv/shop"))?;
//! assert_eq!(config.modules["catalog"].deadline.as_secs(), 2);
//! assert_eq!(config.modules["catalog"].component.to_str(), Some("/srv/shop/catalog.wasm"));
//! # Ok::<(), cleave_config::Problems>(())
//! ```

#![deny(missing_docs)]

mod tree;

mod bus;
mod database;
mod http;
mod names;
mod units;
mod url;

mod load;

mod document;
mod layers;

mod placement;

mod check;
mod explain;
mod form;
mod read;

mod schema;
mod show;

mod origin;
mod problem;

pub use bus::{Monitoring, NatsServers};
pub use database::{Database, PostgresUrl, SchemaPrefix, SslMode};
pub use http::{FilesPath, HttpRoute, Method, RouteKey};
pub use load::{Sources, load, parse};
pub use names::{ContractName, FunctionName, ModuleName, NodeName, SubjectPrefix, TaskName};
pub use origin::Origin;
pub use problem::{Invalid, Problem, Problems};
pub use schema::schema;
pub use tree::{
    Application, Bus, CallRoute, Calls, Config, Data, Drain, Durability, Engine, Events, Grant, Http,
    Instances, Log, LogFormat, Module, Node, Schedule, StreamDurability,
};
pub use units::{parse_duration, parse_size, show_duration, show_size};
