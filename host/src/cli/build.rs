//! `cleave build`: runs each module's build command in the folder of the config file.

use super::{Application, Exit, complain, report, say};
use clap::Args;
use std::process::Command;
use std::time::Instant;

#[derive(Debug, Args)]
pub(super) struct Build {
    #[command(flatten)]
    application: Application,
    /// Build these modules only.
    #[arg(value_name = "MODULE")]
    modules: Vec<String>,
}

impl Build {
    pub(super) fn run(self) -> Exit {
        let config = match self.application.load() {
            Ok(config) => config,
            Err(problems) => return report(&problems),
        };
        if let Some(unknown) = self.modules.iter().find(|name| !config.modules.contains_key(name.as_str())) {
            let names: Vec<_> = config.modules.keys().map(|m| m.as_str()).collect();
            return complain(
                &format!("there is no module `{unknown}`"),
                &format!("the modules are {}", names.join(", ")),
            );
        }
        let wanted = |name: &str| self.modules.is_empty() || self.modules.iter().any(|m| m == name);
        for (name, module) in config.modules.iter().filter(|(name, _)| wanted(name.as_str())) {
            let Some(command) = &module.build else {
                say(&format!("{name}: no build command, {} is used as it is", module.component.display()));
                continue;
            };
            say(&format!("{name}: {command}"));
            let began = Instant::now();
            let status =
                Command::new("sh").arg("-c").arg(command).current_dir(self.application.folder()).status();
            match status {
                Ok(status) if status.success() => {}
                Ok(status) => {
                    return complain(
                        &format!("the build of `{name}` failed: {status}"),
                        "see its output above",
                    );
                }
                Err(e) => {
                    return complain(
                        &format!("the build of `{name}` cannot be started: {e}"),
                        "install a POSIX shell",
                    );
                }
            }
            match std::fs::metadata(&module.component) {
                Ok(file) => say(&format!(
                    "{name}: {} KiB in {:.1} s",
                    file.len() / 1024,
                    began.elapsed().as_secs_f32()
                )),
                Err(e) => {
                    let made =
                        format!("the build of `{name}` did not make {}: {e}", module.component.display());
                    return complain(&made, "correct `component` or `build` of the module");
                }
            }
        }
        Exit::Done
    }
}
