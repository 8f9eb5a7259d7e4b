//! `cleave openapi`: prints the OpenAPI document that the application serves at `/openapi.json`.

use super::{Exit, complain, print, report};
use crate::application::Application;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct OpenApi {
    #[command(flatten)]
    application: super::Application,
}

impl OpenApi {
    pub(super) fn run(self) -> Exit {
        let application = match self.application.load().and_then(|config| Application::read(&config)) {
            Ok(application) => application,
            Err(problems) => return report(&problems),
        };
        let document: serde_json::Value = match serde_json::from_slice(&application.document) {
            Ok(document) => document,
            Err(error) => return complain(&error.to_string(), "report this as a bug"),
        };
        print(&format!("{document:#}\n"), Exit::Done)
    }
}
