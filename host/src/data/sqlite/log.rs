//! Owns the durability of commits: SQLite's write-ahead log, and when it is on the disk.
//!
//! COMMIT only appends to the log (`synchronous = NORMAL`). A commit is durable when an `fdatasync` of the log that began
//! after it has returned, and one such sync serves every commit appended before it began. A commit that finds no sync
//! under way syncs at once, on the thread it is on; those that come meanwhile wait, and when the sync ends one of them
//! syncs for all. Nobody hands the turn to anybody: whoever waits looks for himself, so one that is dropped is not
//! missed.
//!
//! What SQLite does with the log by itself takes nothing away. It syncs the log before it copies it into the database,
//! syncs the database before it begins the log anew, and begins it anew, or cuts it, in the same file: while any
//! connection is open nobody can remove the log. So the descriptor opened here is of the one log there is. SQLite takes
//! no locks on it, so opening and closing it drops none.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::super::{Durability, SqlError};
use super::off_worker;

/// The log of one database.
pub(super) struct Log {
    path: PathBuf,
    /// Opened once: the kernel tells each descriptor once of a write that failed, and so tells this one.
    file: File,
    durability: Durability,
    state: Mutex<State>,
    /// Told when a sync ends, and when a commit ends that nobody will sync.
    moved: Notify,
    #[cfg(test)]
    hook: Mutex<Option<Hook>>,
}

/// What a test does in place of the sync.
#[cfg(test)]
pub(in super::super) type Hook = std::sync::Arc<dyn Fn(&File) -> io::Result<()> + Send + Sync>;

/// Commits are numbered in their order, which is that of the writer. `synced <= ended <= announced`.
#[derive(Debug, Default)]
struct State {
    /// The last commit that has begun: a reader may see it from now on.
    announced: u64,
    /// The last commit that is in the log, or has failed.
    ended: u64,
    /// The last commit begun of those that nobody may see before they are durable.
    awaited: u64,
    /// The last commit that is durable.
    synced: u64,
    syncing: bool,
    failed: bool,
}

/// What there is to do for one who wants the commits up to his to be durable.
enum Turn {
    Over(Result<(), SqlError>),
    /// To sync, for all commits up to this one.
    Sync(u64),
    Wait,
}

/// How a transaction ends well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Ending {
    /// Told of, and seen by readers, only once it is durable.
    Durable,
    /// Durable with the next one that is.
    Unsynced,
}

impl Log {
    /// Opens the log beside the database `file`, which its writer has made, and makes durable what it holds: a process
    /// that was killed may have left commits in it that were never synced.
    pub(super) fn open(file: &Path, durability: Durability) -> io::Result<Self> {
        // Why: SQLite follows a link to the database, and keeps the log where the link leads.
        let mut path = file.canonicalize()?.into_os_string();
        path.push("-wal");
        let path = PathBuf::from(path);
        let file = File::open(&path)?;
        if durability == Durability::Full {
            file.sync_data()?;
        }
        Ok(Self {
            path,
            file,
            durability,
            state: Mutex::default(),
            moved: Notify::new(),
            #[cfg(test)]
            hook: Mutex::default(),
        })
    }

    /// Whether the log is still the file that it was, as seen by a writer that was opened anew.
    pub(super) fn check_file(&self) -> io::Result<()> {
        let (ours, now) = (self.file.metadata()?, std::fs::metadata(&self.path)?);
        if (ours.dev(), ours.ino()) == (now.dev(), now.ino()) {
            return Ok(());
        }
        self.fail(&"its log was replaced");
        Err(io::Error::other("its log was replaced by another program"))
    }

    /// Refuses once a sync has failed: whether the commits before it stand is open until the log is read anew.
    pub(super) fn check(&self) -> Result<(), SqlError> {
        if self.state().failed { Err(lost()) } else { Ok(()) }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.state().failed
    }

    /// Numbers a commit that is about to be made; only the writer may.
    pub(super) fn announce(&self, ending: Ending) -> Result<u64, SqlError> {
        let mut state = self.state();
        if state.failed {
            return Err(lost());
        }
        state.announced += 1;
        if ending == Ending::Durable {
            state.awaited = state.announced;
        }
        Ok(state.announced)
    }

    /// The announced commit is in the log.
    pub(super) fn appended(&self, commit: u64, ending: Ending) {
        self.state().ended = commit;
        // Why not for others: who has appended a commit that is awaited syncs next, or a sync is under way, and its end
        // wakes everybody.
        if ending == Ending::Unsynced {
            self.moved.notify_waiters();
        }
    }

    /// The announced commit has failed.
    pub(super) fn abandoned(&self, commit: u64) {
        let mut state = self.state();
        state.ended = commit;
        if state.synced + 1 == commit {
            state.synced = commit;
        }
        drop(state);
        self.moved.notify_waiters();
    }

    /// The last commit that a reader may have seen and must not tell of yet, because it is not durable.
    pub(super) fn unsynced(&self) -> Option<u64> {
        let state = self.state();
        (self.durability == Durability::Full && state.awaited > state.synced).then_some(state.awaited)
    }

    /// The last commit that has begun.
    pub(super) fn announced(&self) -> u64 {
        self.state().announced
    }

    /// Syncs here and now, if it is needed and nobody else does; if somebody does there is nothing to tell yet.
    pub(super) fn sync_now(&self, commit: u64) -> Option<Result<(), SqlError>> {
        loop {
            match self.turn(commit) {
                Turn::Over(result) => return Some(result),
                Turn::Sync(last) => self.sync(last),
                Turn::Wait => return None,
            }
        }
    }

    /// Returns when the commits up to this one are durable. May be dropped at any moment.
    pub(super) async fn synced(&self, commit: u64) -> Result<(), SqlError> {
        loop {
            let mut moved = std::pin::pin!(self.moved.notified());
            // Why before the look: what happens between the look and the wait must not be missed.
            moved.as_mut().enable();
            match self.turn(commit) {
                Turn::Over(result) => return result,
                Turn::Sync(last) => off_worker(|| self.sync(last)),
                Turn::Wait => moved.await,
            }
        }
    }

    fn turn(&self, commit: u64) -> Turn {
        let mut state = self.state();
        if self.durability == Durability::Process || state.synced >= commit {
            return Turn::Over(Ok(()));
        }
        if state.failed {
            return Turn::Over(Err(lost()));
        }
        if state.syncing || state.ended < commit {
            return Turn::Wait;
        }
        state.syncing = true;
        Turn::Sync(state.ended)
    }

    /// Syncs for all commits up to the last that has ended; only for whom [`turn`](Self::turn) has told so.
    fn sync(&self, last: u64) {
        let done = self.sync_data();
        let mut state = self.state();
        state.syncing = false;
        match done {
            Ok(()) => state.synced = state.synced.max(last),
            Err(_) => state.failed = true,
        }
        drop(state);
        if let Err(error) = done {
            self.fail(&error);
        }
        self.moved.notify_waiters();
    }

    fn sync_data(&self) -> io::Result<()> {
        #[cfg(test)]
        {
            let hook = self.hook.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(hook) = hook {
                return hook(&self.file);
            }
        }
        self.file.sync_data()
    }

    fn fail(&self, problem: &dyn std::fmt::Display) {
        self.state().failed = true;
        tracing::error!(
            log = %self.path.display(), error = %problem,
            "the log of a database cannot be made durable; the database is refused until the process is started again"
        );
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn set_hook(&self, hook: Option<Hook>) {
        *self.hook.lock().unwrap_or_else(PoisonError::into_inner) = hook;
    }
}

fn lost() -> SqlError {
    SqlError::Unavailable("its disk failed to sync; the process must be started again".into())
}
