//! Owns the recording of what SQLite does to files: a layer between SQLite and the operating system that lets
//! everything through and, in the folders that are recorded, writes down every write, truncation and sync in one order.
//!
//! From such a recording [`Recording::after_power_loss`] makes the files as a loss of power may leave them.

#![allow(unsafe_code)] // Why: SQLite's file layer is an interface of C, and rusqlite has no safe form of it.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use rusqlite::ffi;

/// The part of a write that a disk keeps or loses as one.
const SECTOR: usize = 512;

/// One of the two files of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Database,
    Log,
}

#[derive(Debug, Clone)]
pub(super) enum Event {
    Write {
        which: Which,
        offset: usize,
        bytes: Vec<u8>,
    },
    Truncate {
        which: Which,
        size: usize,
    },
    /// A sync has ended that began at the event of this index.
    Synced {
        which: Which,
        begun: usize,
    },
    /// A place where a sync began.
    Syncing,
    /// From here on loss of power is tried: everything before is on the disk.
    Start,
    /// The commit of this transaction was acknowledged.
    Acknowledged(i64),
    /// Somebody was shown that transactions up to this one stand.
    Seen(i64),
}

#[derive(Debug)]
pub(super) struct Recording {
    folder: PathBuf,
    events: Mutex<Vec<Event>>,
}

/// The two files, as they are found after a loss of power.
pub(super) struct Disk {
    pub(super) database: Vec<u8>,
    pub(super) log: Vec<u8>,
}

impl Recording {
    /// Records the databases that are opened in the folder from now on.
    pub(super) fn of(folder: &Path) -> Arc<Self> {
        let recording = Arc::new(Self { folder: folder.to_owned(), events: Mutex::default() });
        layer().recordings.lock().unwrap().push(Arc::clone(&recording));
        recording
    }

    pub(super) fn note(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }

    /// Records a sync, and passes on how it ended.
    pub(super) fn sync<T, E>(&self, which: Which, sync: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let begun = {
            let mut events = self.events.lock().unwrap();
            events.push(Event::Syncing);
            events.len() - 1
        };
        let done = sync()?;
        self.note(Event::Synced { which, begun });
        Ok(done)
    }

    pub(super) fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }
}

/// What a disk holds when the power goes just before the event at `cut`: of each file all that was written before its
/// last sync began that has ended; of what came later each write whole, not at all or some of its sectors, and the
/// file's length as after any event since.
pub(super) fn after_power_loss(events: &[Event], cut: usize, random: &mut Random) -> Disk {
    let start = events.iter().position(|event| matches!(event, Event::Start)).unwrap();
    let mut file = |which: Which| {
        let durable = events[..cut]
            .iter()
            .filter_map(|event| match event {
                Event::Synced { which: synced, begun } if *synced == which => Some(*begun),
                _ => None,
            })
            .max()
            .unwrap_or(0)
            .max(start);
        let keep = [0, 30, 60, 90, 97, 100][random.below(6)];
        let length_lost_from = durable + random.below(cut.saturating_sub(durable) + 1);
        let (mut bytes, mut size) = (Vec::new(), 0);
        for (index, event) in events[..cut].iter().enumerate() {
            match event {
                Event::Write { which: written, offset, bytes: new } if *written == which => {
                    let end = offset + new.len();
                    if index < durable || index < length_lost_from {
                        size = size.max(end);
                    }
                    if index < durable || random.below(100) < keep {
                        put(&mut bytes, *offset, new);
                    } else if random.below(2) == 0 {
                        let mut at = *offset;
                        while at < end {
                            let next = (at / SECTOR + 1) * SECTOR;
                            if random.below(2) == 0 {
                                put(&mut bytes, at, &new[at - offset..next.min(end) - offset]);
                            }
                            at = next;
                        }
                    }
                }
                Event::Truncate { which: cut, size: to }
                    if *cut == which && (index < durable || index < length_lost_from) =>
                {
                    bytes.truncate(*to);
                    size = *to;
                }
                _ => {}
            }
        }
        bytes.resize(size, 0);
        bytes
    };
    Disk { database: file(Which::Database), log: file(Which::Log) }
}

fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[offset..end].copy_from_slice(bytes);
}

/// Numbers that are the same for the same seed.
#[derive(Debug, Clone)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

// The layer.

struct Layer {
    system: *mut ffi::sqlite3_vfs,
    recordings: Mutex<Vec<Arc<Recording>>>,
}

// SAFETY: SQLite's own file layer is used from every thread, and is never changed or freed.
unsafe impl Send for Layer {}
// SAFETY: as above.
unsafe impl Sync for Layer {}

/// A file that is recorded. SQLite makes room for it and, behind it, for the file of the system's layer.
#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    which: Which,
    recording: *const Recording,
}

/// The layer, which from the first use on stands before the system's for every database of this process.
fn layer() -> &'static Layer {
    static LAYER: OnceLock<Layer> = OnceLock::new();
    LAYER.get_or_init(|| {
        // SAFETY: the system's layer lives as long as the process; so does the copy of it that is registered, whose
        // other functions make nothing of the layer they are given.
        unsafe {
            assert_eq!(ffi::sqlite3_initialize(), ffi::SQLITE_OK);
            let system = ffi::sqlite3_vfs_find(std::ptr::null());
            let mut ours = *system;
            ours.zName = c"recording".as_ptr();
            ours.pNext = std::ptr::null_mut();
            ours.szOsFile += c_int::try_from(size_of::<File>()).unwrap();
            ours.xOpen = Some(open);
            assert_eq!(ffi::sqlite3_vfs_register(Box::leak(Box::new(ours)), 1), ffi::SQLITE_OK);
            Layer { system, recordings: Mutex::default() }
        }
    })
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    flags_out: *mut c_int,
) -> c_int {
    let layer = layer();
    let which = if flags & ffi::SQLITE_OPEN_MAIN_DB != 0 {
        Some(Which::Database)
    } else if flags & ffi::SQLITE_OPEN_WAL != 0 {
        Some(Which::Log)
    } else {
        None
    };
    // SAFETY: SQLite gives a name that ends, or none, and room for both files.
    unsafe {
        let path = (!name.is_null()).then(|| PathBuf::from(CStr::from_ptr(name).to_str().unwrap()));
        let recording = path.and_then(|path| {
            let recordings = layer.recordings.lock().unwrap();
            recordings.iter().find(|recording| path.starts_with(&recording.folder)).map(Arc::clone)
        });
        let open = (*layer.system).xOpen.unwrap();
        let (Some(which), Some(recording)) = (which, recording) else {
            return open(layer.system, name, file, flags, flags_out);
        };
        let code = open(layer.system, name, inner(file), flags, flags_out);
        if (*inner(file)).pMethods.is_null() {
            (*file).pMethods = std::ptr::null();
            return code;
        }
        let ours = File {
            base: ffi::sqlite3_file { pMethods: &raw const METHODS },
            which,
            recording: Arc::into_raw(recording),
        };
        file.cast::<File>().write(ours);
        code
    }
}

/// The file of the system's layer behind ours.
unsafe fn inner(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    // SAFETY: SQLite has made room for both.
    unsafe { file.cast::<File>().add(1).cast() }
}

/// Passes a call on to the system's layer.
macro_rules! pass {
    ($($name:ident => $method:ident ($($given:ident: $kind:ty),*) -> $gives:ty;)*) => {
        $(unsafe extern "C" fn $name(file: *mut ffi::sqlite3_file $(, $given: $kind)*) -> $gives {
            // SAFETY: the file is one that `open` has made, and the rest is what SQLite gives.
            unsafe {
                let inner = inner(file);
                ((*(*inner).pMethods).$method.unwrap())(inner $(, $given)*)
            }
        })*
    };
}

pass! {
    system_close => xClose() -> c_int;
    read => xRead(bytes: *mut c_void, count: c_int, offset: i64) -> c_int;
    system_write => xWrite(bytes: *const c_void, count: c_int, offset: i64) -> c_int;
    system_truncate => xTruncate(size: i64) -> c_int;
    system_sync => xSync(flags: c_int) -> c_int;
    file_size => xFileSize(size: *mut i64) -> c_int;
    lock => xLock(level: c_int) -> c_int;
    unlock => xUnlock(level: c_int) -> c_int;
    check_reserved_lock => xCheckReservedLock(held: *mut c_int) -> c_int;
    file_control => xFileControl(asked: c_int, given: *mut c_void) -> c_int;
    sector_size => xSectorSize() -> c_int;
    device_characteristics => xDeviceCharacteristics() -> c_int;
    shm_map => xShmMap(page: c_int, size: c_int, extend: c_int, at: *mut *mut c_void) -> c_int;
    shm_lock => xShmLock(offset: c_int, count: c_int, flags: c_int) -> c_int;
    shm_barrier => xShmBarrier() -> ();
    shm_unmap => xShmUnmap(delete: c_int) -> c_int;
    fetch => xFetch(offset: i64, count: c_int, at: *mut *mut c_void) -> c_int;
    unfetch => xUnfetch(offset: i64, at: *mut c_void) -> c_int;
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 3,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: Some(fetch),
    xUnfetch: Some(unfetch),
};

unsafe fn recorded<'a>(file: *mut ffi::sqlite3_file) -> (Which, &'a Recording) {
    // SAFETY: the file is one that `open` has made, and holds the recording until it is closed.
    unsafe { ((*file.cast::<File>()).which, &*(*file.cast::<File>()).recording) }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: SQLite closes a file once, and `open` has counted it in.
    unsafe {
        drop(Arc::from_raw((*file.cast::<File>()).recording));
        system_close(file)
    }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    bytes: *const c_void,
    count: c_int,
    offset: i64,
) -> c_int {
    // SAFETY: SQLite gives as many bytes as it says.
    unsafe {
        let (which, recording) = recorded(file);
        // Why held meanwhile: the order of the recording is that of the file.
        let mut events = recording.events.lock().unwrap();
        let code = system_write(file, bytes, count, offset);
        if code == ffi::SQLITE_OK {
            let bytes = std::slice::from_raw_parts(bytes.cast::<u8>(), usize::try_from(count).unwrap());
            let offset = usize::try_from(offset).unwrap();
            events.push(Event::Write { which, offset, bytes: bytes.to_vec() });
        }
        code
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    // SAFETY: the file is one that `open` has made.
    unsafe {
        let (which, recording) = recorded(file);
        let mut events = recording.events.lock().unwrap();
        let code = system_truncate(file, size);
        if code == ffi::SQLITE_OK {
            events.push(Event::Truncate { which, size: usize::try_from(size).unwrap() });
        }
        code
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: the file is one that `open` has made.
    unsafe {
        let (which, recording) = recorded(file);
        let done = recording.sync(which, || match system_sync(file, flags) {
            ffi::SQLITE_OK => Ok(()),
            code => Err(code),
        });
        done.err().unwrap_or(ffi::SQLITE_OK)
    }
}
