//! `cleave openapi`: prints the OpenAPI document that the application serves at `/openapi.json`.

use super::{Exit, print, report};
use crate::application::Application;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct OpenApi {
    #[command(flatten)]
    application: super::Application,
}

impl OpenApi {
    pub(super) fn run(self) -> Exit {
        match self.application.load().and_then(|config| Application::read(&config)) {
            Ok(application) => print(&format!("{:#}\n", application.document), Exit::Done),
            Err(problems) => report(&problems),
        }
    }
}
