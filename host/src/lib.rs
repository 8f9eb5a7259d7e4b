//! The host: loads business modules as WebAssembly components, ties their contracts together, keeps their data and
//! answers for them over HTTP.
//!
//! In reading order: [`application`] reads the components and sees that they fit together; [`host`] builds the running
//! parts from it, and [`background`] what it does beside calls; [`link`] is the page about how a call travels, and
//! [`publish`], [`relay`], [`delivery`] are the three stations of an event. A node is a value, a [`host::Host`]: a test may
//! run several in one process, and the binary `cleave` runs one.

pub mod application;
pub mod host;

pub mod background;
pub mod databases;

pub mod link;
pub mod placement;
pub mod pool;
pub mod server;

pub mod bus;

pub mod delivery;
pub mod ingest;
pub mod publish;
pub mod relay;
pub mod schedule;

pub mod clock;
pub mod drill;
pub mod failpoint;

pub mod module;
pub mod types;
pub mod values;
pub mod wit;

pub mod engine;

pub mod capability;
pub mod data;

pub mod admin;
pub mod http;
pub mod telemetry;

pub mod cli;
