//! Owns the data folder: a directory that belongs to this process alone while it runs.
//!
//! The lock is the operating system's, on a file in the folder, so it ends with the process however that ends. The
//! process id in the file is only for the message.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::DataError;

const LOCK_FILE: &str = "cleave.lock";

/// A locked data folder.
#[derive(Debug)]
pub struct DataFolder {
    /// Absolute, so that no name in it can be taken for a `file:` address by SQLite.
    path: PathBuf,
    /// Shared with the databases opened here, so that none outlives the lock.
    lock: Arc<File>,
}

impl DataFolder {
    /// Makes the folder if it is missing, for its owner alone, and locks it for this process.
    ///
    /// # Errors
    ///
    /// `Folder` when it cannot be made or written, `InUse` when another process, or another value here, holds it.
    pub fn open(folder: &Path) -> Result<Self, DataError> {
        let unusable = |source| DataError::Folder { folder: folder.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(unusable)?;
        let path = folder.canonicalize().map_err(unusable)?;
        if path.metadata().map_err(unusable)?.permissions().mode() & 0o077 != 0 {
            tracing::warn!(folder = %path.display(), "other users may enter the data folder; mode 0700 keeps them out");
        }
        let file = path.join(LOCK_FILE);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(file)
            .map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DataError::InUse { folder: path, holder: holder(&mut lock) });
            }
            Err(TryLockError::Error(source)) => return Err(unusable(source)),
        }
        lock.set_len(0).map_err(unusable)?;
        writeln!(lock, "{}", std::process::id()).map_err(unusable)?;
        Ok(Self { path, lock: Arc::new(lock) })
    }

    /// Where it is, as an absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn lock(&self) -> Arc<File> {
        Arc::clone(&self.lock)
    }
}

fn holder(lock: &mut File) -> String {
    let mut text = String::new();
    // Why: the file may be read before its holder has written to it, and a message is all that is lost.
    let read = lock.take(20).read_to_string(&mut text);
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(process)) if process == std::process::id() => format!("this process, {process}"),
        (Ok(_), Ok(process)) => format!("process {process}"),
        _ => "another process".to_owned(),
    }
}
