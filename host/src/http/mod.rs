//! Owns HTTP: what a route means, how a request becomes a call, and how its outcome becomes a response.
//!
//! How a request travels: [`serve`] accepts a connection and hyper reads the head; the router of [`gateway`] finds
//! the route; `request` turns path, query and body into the function's arguments, as the route's [`plan`] says;
//! the route's edge makes the call; `answer` turns what comes back into a response. Whatever goes wrong on the way
//! is a document of `problem`.
//!
//! A module's author writes no HTTP, and nothing here knows where a module runs.

pub mod plan;

pub mod openapi;

pub mod gateway;
mod request;

mod answer;
mod files;
mod problem;
mod trace;

pub mod serve;

pub use trace::traceparent;

#[cfg(test)]
mod sample;
