//! Where measured data lies: a folder on a disk, which goes away.
//!
//! A file system in memory would make every sync free, and the figures of another machine's.

use std::fs::{File, read_to_string};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::median;

const SYNCS: usize = 200;

/// A folder for one benchmark: the system's for temporary files, or one beside the programs if that is in memory.
pub(crate) fn folder() -> tempfile::TempDir {
    let system = tempfile::tempdir().unwrap();
    if is_disk(system.path()) {
        return system;
    }
    tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap()
}

/// Whether a folder is on a disk.
pub(crate) fn is_disk(folder: &Path) -> bool {
    kind(folder) != "tmpfs"
}

/// The disk under a folder in one line, with what a sync costs there.
pub(crate) fn described(folder: &Path) -> String {
    let micros = sync_of_a_page(folder).as_micros();
    format!("Data on {}; writing 4 KiB at a file's end and `fdatasync` take {micros} µs.", kind(folder))
}

/// The kind of file system that holds a folder.
fn kind(folder: &Path) -> String {
    let folder = folder.canonicalize().unwrap();
    let mounts = read_to_string("/proc/self/mounts").unwrap();
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((PathBuf::from(fields.next()?), fields.next()?))
    });
    let holding = mounts.filter(|(at, _)| folder.starts_with(at));
    holding.max_by_key(|(at, _)| at.as_os_str().len()).map(|(_, kind)| kind.to_owned()).unwrap_or_default()
}

fn sync_of_a_page(folder: &Path) -> Duration {
    let mut file = File::create(folder.join("syncs")).unwrap();
    let syncs = (0..SYNCS).map(|_| {
        let began = Instant::now();
        file.write_all(&[7; 4096]).unwrap();
        file.sync_data().unwrap();
        began.elapsed()
    });
    median(syncs.collect())
}
