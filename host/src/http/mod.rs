//! Owns HTTP: what a route means, how a request becomes a call, and how its outcome becomes a response.
//!
//! How a request travels: [`serve`] accepts a connection and hyper reads the head; the router of [`gateway`] finds
//! the route; [`request`] turns path, query and body into the function's arguments, as the route's [`plan`] says;
//! the route's edge makes the call; [`answer`] turns what comes back into a response. Whatever goes wrong on the way
//! is a document of [`problem`].
//!
//! A module's author writes no HTTP, and nothing here knows where a module runs.

pub mod plan;

pub mod gateway;
mod request;

mod answer;
mod problem;
mod trace;

pub mod serve;

use crate::application::Application;
use crate::host::Calls;
use axum::Router;
use cleave_config::Config;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio_util::task::TaskTracker;

/// Makes the router of an application. `ready` is what `/readyz` answers; calls whose clients leave go on in `tasks`.
///
/// # Errors
/// If two routes have one method and one path, or a route leads to a contract without an edge.
pub fn router(
    application: &Application,
    calls: &Calls,
    config: &Config,
    ready: Arc<AtomicBool>,
    tasks: &TaskTracker,
) -> Result<Router, String> {
    let settings = gateway::Settings {
        body_max: config.http.body_max,
        body_timeout: config.http.header_timeout,
        deadline: config.calls.deadline,
        ready,
        tasks: tasks.clone(),
    };
    let routes = application.routes.iter().map(|route| match calls.edge(&route.track) {
        Some(edge) => Ok((route.plan.clone(), edge.clone())),
        None => Err(format!("`{}` leads to `{}`, which is not served here", route.key, route.track)),
    });
    gateway::router(routes.collect::<Result<_, _>>()?, &settings)
}
