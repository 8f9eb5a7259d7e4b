//! `cleave wit`: gives the author of a module the host's own WIT.

use super::{Exit, complain, print};
use crate::wit::HOST_PACKAGES;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct Wit {
    /// The folder to write into, such as wit/deps; made if it is not there. Each package has a folder in it.
    folder: PathBuf,
}

impl Wit {
    pub(super) fn run(self) -> Exit {
        for (package, file, text) in HOST_PACKAGES {
            let folder = self.folder.join(package);
            let path = folder.join(file);
            if let Err(error) = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, text)) {
                let message = format!("{} cannot be written: {error}", path.display());
                return complain(&message, "choose a folder that can be written");
            }
            if print(&format!("{}\n", path.display()), Exit::Done) != Exit::Done {
                return Exit::Problem;
            }
        }
        Exit::Done
    }
}
