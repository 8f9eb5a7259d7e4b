//! Owns WIT as it is written: the host's own packages, and the application's folder with what its authors say there.
//!
//! A component has the types of its contracts and not a word about them; the words are in the folder. So that they are
//! words about what runs, every contract of a component must be in the folder with the same types.

use crate::module::{self, Contract};
use crate::types::Function;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use wit_parser::{InterfaceId, Resolve, UnresolvedPackageGroup, WorldKey};

/// The most folders that are looked into.
const FOLDERS_MAX: usize = 1_000;
/// The largest file that is read, in bytes.
const FILE_MAX: u64 = 1024 * 1024;

/// The host's own packages: what each is called in a folder of dependencies, its file, and its text.
pub const HOST_PACKAGES: [(&str, &str, &str); 6] = [
    ("cleave-call", "call.wit", include_str!("../../wit/cleave/call/call.wit")),
    ("cleave-context", "context.wit", include_str!("../../wit/cleave/context/context.wit")),
    ("cleave-events", "events.wit", include_str!("../../wit/cleave/events/events.wit")),
    ("cleave-log", "log.wit", include_str!("../../wit/cleave/log/log.wit")),
    ("cleave-schedule", "schedule.wit", include_str!("../../wit/cleave/schedule/schedule.wit")),
    ("cleave-sql", "sql.wit", include_str!("../../wit/cleave/sql/sql.wit")),
];

/// Why a folder of WIT cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WitError {
    #[error("{} cannot be read: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("{} has more than {FOLDERS_MAX} folders", .0.display())]
    TooManyFolders(PathBuf),
    #[error("{} is larger than {FILE_MAX} bytes", .0.display())]
    FileTooLarge(PathBuf),
    #[error("the WIT does not fit together: {0}")]
    Invalid(String),
    #[error("{} has no WIT", .0.display())]
    Empty(PathBuf),
    #[error("{} is not a file", .0.display())]
    NoFile(PathBuf),
    #[error("`{contract}` is not in the WIT folder")]
    Missing { contract: String },
    #[error("`{contract}` is in the WIT folder in other versions: {found}")]
    OtherVersions { contract: String, found: String },
    #[error("`{function}` is {there} in the WIT folder, and {here} in the component")]
    Differs { function: String, there: String, here: String },
}

impl WitError {
    /// What to do about it.
    pub fn fix(&self) -> &'static str {
        match self {
            Self::NoFile(_) => "take it out of the folder, or give it another extension",
            Self::OtherVersions { .. } => {
                "add the version that the module was built against, or leave one of them alone"
            }
            Self::Unreadable { .. } => "make it readable, or correct the path",
            Self::TooManyFolders(_) => "name the folder that has the packages, and nothing else in it",
            Self::FileTooLarge(_) => "split the package in several files",
            Self::Invalid(_) => {
                "correct the WIT; each package has a folder of its own, and all of them are in this one"
            }
            Self::Empty(_) => "name the folder that the packages' folders are in",
            Self::Missing { .. } => "add the package to the folder, or leave `application.wit` out",
            Self::Differs { .. } => "build the module against this WIT, or correct the WIT",
        }
    }
}

/// The application's WIT.
#[derive(Debug)]
pub struct Wit {
    resolve: Resolve,
    /// Interfaces by the track of the contract and its name; several versions may be one track.
    interfaces: BTreeMap<String, BTreeMap<String, InterfaceId>>,
}

impl Wit {
    /// Reads every package in or below a folder. The host's own packages need not be there.
    ///
    /// # Errors
    /// If a file cannot be read, or the packages do not fit together.
    pub fn read(folder: &Path) -> Result<Self, WitError> {
        let mut groups = Vec::new();
        for folder in package_folders(folder)? {
            let group = UnresolvedPackageGroup::parse_dir(&folder);
            groups.push(group.map_err(|e| WitError::Invalid(format!("{e:#}")))?);
        }
        let invalid = |e: &dyn std::fmt::Display| WitError::Invalid(e.to_string());
        for (_, file, text) in HOST_PACKAGES {
            let host = UnresolvedPackageGroup::parse(file, text).map_err(|(_, e)| invalid(&e))?;
            if !groups.iter().any(|group| group.main.name == host.main.name) {
                groups.push(host);
            }
        }
        let main = groups.pop().ok_or_else(|| WitError::Empty(folder.to_path_buf()))?;
        let mut resolve = Resolve::default();
        if let Err(error) = resolve.push_groups(main, groups) {
            return Err(WitError::Invalid(resolve.render_error(&error.into())));
        }
        let mut interfaces: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for (id, _) in resolve.interfaces.iter() {
            let key = WorldKey::Interface(id);
            let versions = interfaces.entry(resolve.name_canonicalized_world_key(&key)).or_default();
            versions.insert(resolve.name_world_key(&key), id);
        }
        Ok(Self { resolve, interfaces })
    }

    /// Where a contract is written down.
    ///
    /// # Errors
    /// If it is not in the folder, or a function of it is not there or has another type there.
    pub fn find(&self, contract: &Contract) -> Result<Written<'_>, WitError> {
        let id = self.interface(contract)?;
        let there = module::contract(&self.resolve, &WorldKey::Interface(id), id)
            .map_err(|e| WitError::Invalid(e.to_string()))?;
        for here in contract.functions.values() {
            let there = there.functions.get(&here.name);
            if there.is_none_or(|there| there.fingerprint != here.fingerprint) {
                return Err(WitError::Differs {
                    function: here.address.clone(),
                    there: there.map_or("absent".to_owned(), |there| format!("`{}`", there.signature())),
                    here: format!("`{}`", here.signature()),
                });
            }
        }
        Ok(Written { resolve: &self.resolve, interface: id })
    }

    /// The contract's own version, or the only one there is of its track.
    fn interface(&self, contract: &Contract) -> Result<InterfaceId, WitError> {
        let missing = || WitError::Missing { contract: contract.name.clone() };
        let versions = self.interfaces.get(&contract.track).ok_or_else(missing)?;
        let mut all = versions.values();
        match (versions.get(&contract.name), all.next(), all.next()) {
            (Some(id), _, _) | (None, Some(id), None) => Ok(*id),
            _ => Err(WitError::OtherVersions {
                contract: contract.name.clone(),
                found: versions.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
            }),
        }
    }
}

/// A contract as WIT has it: in the application's folder, or inside a component, where it has no words.
#[derive(Debug, Clone, Copy)]
pub struct Written<'a> {
    pub resolve: &'a Resolve,
    pub interface: InterfaceId,
}

impl<'a> Written<'a> {
    /// What is said about the contract; empty if nothing is.
    pub fn docs(self) -> &'a str {
        self.resolve.interfaces.get(self.interface).map_or("", |interface| docs(&interface.docs))
    }

    /// A function of the contract.
    pub fn function(self, function: &Function) -> Option<&'a wit_parser::Function> {
        self.resolve.interfaces.get(self.interface)?.functions.get(&function.name)
    }
}

/// What is said about an item; empty if nothing is.
pub fn docs(docs: &wit_parser::Docs) -> &str {
    docs.contents.as_deref().unwrap_or_default().trim()
}

/// Every folder, this one or below it, that has WIT files in it.
fn package_folders(root: &Path) -> Result<Vec<PathBuf>, WitError> {
    let mut found = Vec::new();
    let mut open = vec![root.to_path_buf()];
    let mut seen = 0;
    while let Some(folder) = open.pop() {
        seen += 1;
        if seen > FOLDERS_MAX {
            return Err(WitError::TooManyFolders(root.to_path_buf()));
        }
        let unreadable = |path: &Path, e: &std::io::Error| WitError::Unreadable {
            path: path.to_path_buf(),
            reason: e.to_string(),
        };
        let mut has_wit = false;
        for entry in std::fs::read_dir(&folder).map_err(|e| unreadable(&folder, &e))? {
            let path = entry.map_err(|e| unreadable(&folder, &e))?.path();
            let is_wit = path.extension().is_some_and(|extension| extension == "wit");
            // Why: links to folders may go round in circles, so they are not followed.
            if path.symlink_metadata().map_err(|e| unreadable(&path, &e))?.is_dir() {
                open.push(path);
            } else if is_wit {
                let about = path.metadata().map_err(|e| unreadable(&path, &e))?;
                // Why: a pipe or a device would be waited for, or be read for ever.
                if !about.is_file() {
                    return Err(WitError::NoFile(path));
                }
                if about.len() > FILE_MAX {
                    return Err(WitError::FileTooLarge(path));
                }
                has_wit = true;
            }
        }
        if has_wit {
            found.push(folder);
        }
    }
    if found.is_empty() { Err(WitError::Empty(root.to_path_buf())) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
    }

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    #[test]
    fn every_package_of_the_host_is_embedded() {
        let packages: Vec<_> = package_folders(&project("wit/cleave")).unwrap();
        assert_eq!(packages.len(), HOST_PACKAGES.len());
        for (package, file, text) in HOST_PACKAGES {
            let path = project("wit").join(package.replacen('-', "/", 1)).join(file);
            assert_eq!(std::fs::read_to_string(path).unwrap(), text);
        }
    }

    #[test]
    fn packages_of_the_host_need_not_be_in_the_folder() {
        let wit = Wit::read(&project("wit/shop")).unwrap();
        assert!(wit.interfaces.contains_key("shop:orders/checkout@0.1"));
        assert!(wit.interfaces.contains_key("cleave:call/types@0.1"));
        Wit::read(&project("wit")).unwrap();
    }

    #[test]
    fn folders_that_do_not_fit_say_what_is_wrong() {
        let reason = |files: &[(&str, &str)]| Wit::read(folder(files).path()).unwrap_err();
        assert!(matches!(reason(&[("a.txt", "")]), WitError::Empty(_)));
        let unknown = reason(&[("a/a.wit", "package a:b;\ninterface c { use d:e/f.{g}; }")]);
        assert!(matches!(&unknown, WitError::Invalid(text) if text.contains("d:e")), "{unknown}");
        let broken = reason(&[("a/a.wit", "package a:b;\ninterface c {")]);
        assert!(matches!(&broken, WitError::Invalid(text) if text.contains("a.wit:2")), "{broken}");
        let twice = reason(&[("a/a.wit", "package a:b;"), ("b/a.wit", "package a:b;")]);
        assert!(matches!(&twice, WitError::Invalid(text) if text.contains("a:b")), "{twice}");
        let long = "/".repeat(FILE_MAX as usize + 1);
        assert!(matches!(reason(&[("a/a.wit", &long)]), WitError::FileTooLarge(_)));
        assert!(matches!(Wit::read(Path::new("/nothing")), Err(WitError::Unreadable { .. })));
        let endless = folder(&[("a/a.wit", "package a:b;")]);
        std::os::unix::fs::symlink("/dev/zero", endless.path().join("a/b.wit")).unwrap();
        assert!(matches!(Wit::read(endless.path()), Err(WitError::NoFile(_))));
    }

    #[test]
    fn version_of_the_component_goes_before_others_of_its_track() {
        let text =
            |version: &str, ty: &str| format!("package a:b@{version};\ninterface c {{ f: func(x: {ty}); }}");
        let read = |files: &[(&str, &str)]| Wit::read(folder(files).path()).unwrap();
        let (exact, same, other) = (text("0.1.0", "u8"), text("0.1.4", "u8"), text("0.1.5", "u16"));
        let component = read(&[("a/a.wit", &exact)]);
        let id = component.interfaces["a:b/c@0.1"]["a:b/c@0.1.0"];
        let contract = module::contract(&component.resolve, &WorldKey::Interface(id), id).unwrap();
        assert!(read(&[("a/a.wit", &exact), ("b/a.wit", &other)]).find(&contract).is_ok());
        assert!(read(&[("b/a.wit", &same)]).find(&contract).is_ok());
        assert!(matches!(read(&[("b/a.wit", &other)]).find(&contract), Err(WitError::Differs { .. })));
        let two = read(&[("a/a.wit", &same), ("b/a.wit", &other)]);
        assert!(matches!(two.find(&contract), Err(WitError::OtherVersions { .. })));
    }
}
