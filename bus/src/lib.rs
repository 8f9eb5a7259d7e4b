//! The bus: what travels between modules, and the rules it travels by.
//!
//! A call is values on one side and values on the other. In between it goes by a [`route::Route`]: straight to the
//! callee's pool, through bytes inside the process, or through bytes to another node. Whatever the route, the same
//! rules hold, and they live here:
//!
//! 1. Every call has a [`deadline::Deadline`]; a callee gets less of it than its caller has, so that the caller can
//!    still act on a late answer.
//! 2. A call that brings no answer is a [`failure::CallError`], which always knows whether the call may have run.
//! 3. A call that leaves as bytes is an [`envelope::Request`]; it names the function and a fingerprint of its type, so
//!    that bytes are never decoded as another type than they were encoded with.
//! 4. A call is tried again only if it did not run, or if config says that its function may run twice, and only within a
//!    [`retry::Budget`].
//!
//! Between nodes the bytes go over NATS, which [`nats::Bus`] and [`nats_stream::Road`] alone know; who is there,
//! [`members::Members`] knows. Events go in a [`batch`], and stay on the road until they are stored where they are handled.
//!
//! This crate knows bytes, names and times. It knows nothing of WebAssembly, of SQL or of HTTP.
#![deny(missing_docs)]

pub mod batch;
mod certificates;
pub mod deadline;
pub mod envelope;
pub mod failure;
pub mod members;
pub mod nats;
pub mod nats_stream;
pub mod retry;
pub mod route;
pub mod service;
pub mod subject;
